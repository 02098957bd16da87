"""Both rates fall together along half a cosine, in a resumed training too."""

import math
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recemb import EmbeddingCollection, Feature, Full
from recemb.errors import RecembError
from recemb.learning_rate_decay import LearningRateDecay
from recemb.optim import Adagrad, RowsOptimizer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval"
)


class Recording(LightningModule):
    """Has rows, and notes the rates at which each step is made."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = EmbeddingCollection(
            {"a": Full(dim=2)},
            {"a": Feature(table="a", num_ids=2)},
            Adagrad(learning_rate=0.1, step_learning_rate=0.001, eps=1e-4),
        )
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows_rates: list[float] = []
        self.step_rates: list[float] = []
        self.other_rates: list[float] = []

    def training_step(self, batch: Tensor) -> Tensor:
        (rows,) = self.trainer.optimizers[0].rows_groups
        assert rows["eps"] == 1e-4
        self.rows_rates.append(rows["lr"])
        self.step_rates.append(rows["step_lr"])
        self.other_rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return (self.weight * batch.sum()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return RowsOptimizer(self.embeddings, torch.optim.Adam([self.weight], lr=0.02))


def fit(folder: Path, decay: LearningRateDecay, path: Path | None = None, **limits) -> Recording:
    """Train with four batches an epoch."""
    model = Recording()
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=[decay],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **limits,
    )
    trainer.fit(model, DataLoader(torch.ones(4, 1)), ckpt_path=path)
    return model


def test_rates_fall_along_half_a_cosine(tmp_path: Path) -> None:
    model = fit(tmp_path, LearningRateDecay(final=0.1), max_epochs=2)
    factors = [0.1 + 0.9 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    assert factors[0] == 1
    assert model.rows_rates == pytest.approx([0.1 * one for one in factors])
    assert model.step_rates == pytest.approx([0.001 * one for one in factors])
    assert model.other_rates == pytest.approx([0.02 * one for one in factors])


def test_rates_stay_until_they_begin_to_fall(tmp_path: Path) -> None:
    model = fit(tmp_path, LearningRateDecay(final=0.2, begin=0.5), max_steps=8, max_epochs=-1)
    # Of the second half's four steps: whole, .8536, half and .1464 of the way.
    left = [1, 1, 1, 1, 1, 0.8536, 0.5, 0.1464]
    assert model.rows_rates == pytest.approx([0.1 * (0.2 + 0.8 * one) for one in left], rel=1e-3)
    assert model.other_rates == pytest.approx([0.02 * (0.2 + 0.8 * one) for one in left], rel=1e-3)


def test_a_resumed_training_has_the_rates_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", LearningRateDecay(), max_epochs=3)

    class Stop(LearningRateDecay):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.save_checkpoint(tmp_path / "one.ckpt")
            trainer.should_stop = True

    first = fit(tmp_path / "first", Stop(), max_epochs=3)
    rest = fit(tmp_path / "rest", LearningRateDecay(), tmp_path / "one.ckpt", max_epochs=3)
    assert len(first.rows_rates) == 4
    assert first.rows_rates + rest.rows_rates == whole.rows_rates
    assert first.other_rates + rest.other_rates == whole.other_rates


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"final": 0.0}, "final must be above 0 and at most 1, got 0.0"),
        ({"final": 1.5}, "final must be above 0 and at most 1, got 1.5"),
        ({"begin": 1.0}, "begin must be at least 0 and below 1, got 1.0"),
        ({"begin": -0.1}, "begin must be at least 0 and below 1, got -0.1"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, float], says: str) -> None:
    with pytest.raises(RecembError, match=says):
        LearningRateDecay(**settings)


def test_a_training_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecembError, match="training must have a last step"):
        fit(tmp_path, LearningRateDecay(), max_epochs=-1)
