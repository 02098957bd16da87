"""Divergence: which step, which number; and metrics whose values are worked out by hand."""

import math

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recemb.checkpoint_callbacks import BestCheckpoint
from recemb.divergence import Divergence
from recemb.errors import RecembError
from recemb.measured import figure, metrics_of, value_of
from recemb.models.objective import Clicks, Ratings
from recemb.models.sample_metrics import auc
from recemb.monitor import AUC, Monitor
from recemb.results import plain

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval"
)


class Breaks(LightningModule):
    """Its loss, its weight or its metric is not finite from a step on."""

    def __init__(self, loss: float = 1.0, weight: float = 1.0, metric: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.bad_loss, self.bad_weight, self.metric = loss, weight, metric

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.weight.sum() * 0 + (self.bad_loss if batch_idx == 2 else 1.0)
        if batch_idx == 4:  # the last: no loss is made of it any more
            self.weight.data.fill_(self.bad_weight)
        return loss

    def validation_step(self, batch: Tensor) -> None:
        self.log("val/x", self.metric)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.25)


def fit(model: LightningModule, **settings: object) -> Trainer:
    trainer = Trainer(
        max_epochs=1,
        callbacks=[Divergence()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **settings,  # type: ignore[arg-type]
    )
    loader = DataLoader(torch.ones(5, 1))
    trainer.fit(model, loader, loader)
    return trainer


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ({"loss": math.nan}, r"step 3 \(epoch 1, .* is 0\.25\): the loss is nan; lower the"),
        ({"loss": math.inf}, "diverged at step 3 .*: the loss is inf"),
        ({"metric": math.nan}, "diverged at step 5 .*: val/x is nan"),
        ({"weight": math.inf}, "diverged at step 5 .*: weights of weight are not finite"),
    ],
)
def test_a_training_ends_where_its_numbers_do(broken: dict[str, float], says: str) -> None:
    with pytest.raises(RecembError, match=says):
        fit(Breaks(**broken))


def test_a_finite_training_goes_to_its_end() -> None:
    assert fit(Breaks()).global_step == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_no_number_is_better_than_none(bad: float, mode: str) -> None:
    monitor = Monitor("val/x", mode)  # type: ignore[arg-type]
    assert not monitor.is_better(bad, None)
    assert not monitor.is_better(bad, 0.5)
    assert monitor.is_better(0.5, bad)
    assert monitor.fitness(bad) < monitor.fitness(0.0)


def test_auc_ranks_by_logits_that_probabilities_round_to_one() -> None:
    # As float32 probabilities all four are 1, and AUC would be .5.
    logits = torch.tensor([40.0, 20.0, 30.0, 35.0])
    assert auc(logits, torch.tensor([True, False, False, True])) == 1.0
    # Two of four pairs in order, one equal: (1 + 1 + 1/2) / 4.
    logits = torch.tensor([2.0, 1.0, 2.0, 0.0])
    assert auc(logits, torch.tensor([True, True, False, False])) == 0.625


def measured(objective: Clicks | Ratings, score: list[float], label: list[float]) -> dict:
    metrics = objective.metrics()
    for part in (slice(0, 1), slice(1, None), slice(0, 0)):
        objective.measure(metrics, torch.tensor(score[part]), torch.tensor(label[part]))
    return dict(metrics.items())


def test_log_loss_of_large_logits_is_theirs() -> None:
    # -log(1 - sigmoid(100)) is 100 to the last digit, and -log(sigmoid(100)) is 3.7e-44.
    found = measured(Clicks(), [100.0, 100.0], [0.0, 1.0])
    assert float(found["logloss"].compute()) == 50.0
    assert found["auc"].compute() == 0.5
    assert found["auc"].undefined is None


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_has_no_auc(label: float) -> None:
    found = measured(Clicks(), [1.0, 2.0, 3.0], [label] * 3)
    assert math.isnan(found["auc"].compute())
    assert found["auc"].undefined == f"all 3 labels are {label:.0f}, and it takes both classes"


def test_ratings_are_measured_by_hand() -> None:
    found = measured(Ratings(), [1.0, 2.0, 5.0], [1.0, 4.0, 4.0])
    assert float(found["mse"].compute()) == pytest.approx((0 + 4 + 1) / 3, rel=1e-15)
    assert float(found["mae"].compute()) == 1.0


class Undefined(nn.Module):
    undefined = {"val/auc": "all 3 labels are 0"}


def test_what_is_not_defined_is_null_and_chosen_by_nothing() -> None:
    found = metrics_of(Undefined(), [{"val/logloss": 0.5}])  # type: ignore[arg-type]
    assert found == {
        "metrics": {"val/logloss": 0.5, "val/auc": None},
        "undefined": {"val/auc": "all 3 labels are 0"},
    }
    assert value_of(found, "val/logloss") == 0.5
    assert figure(None) == "not defined"
    with pytest.raises(RecembError, match="val/auc is not defined: all 3 labels are 0"):
        value_of(found, "val/auc")
    with pytest.raises(RecembError, match="val/x is nan"):
        metrics_of(nn.Module(), [{"val/x": math.nan}])  # type: ignore[arg-type]
    assert plain({"a": [math.nan, 1], "b": (-math.inf,)}) == {"a": [None, 1], "b": [None]}


class OneClass(Breaks):
    """Its AUC is not defined; its log losses are given."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = losses
        self.undefined = {"val/auc": "all labels are 0"}

    def validation_step(self, batch: Tensor) -> None:
        self.log("val/logloss", self.losses[self.current_epoch])


def test_without_auc_the_least_log_loss_is_the_best(tmp_path, capsys) -> None:
    trainer = Trainer(
        max_epochs=3,
        callbacks=[Divergence(), BestCheckpoint(tmp_path, AUC)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    loader = DataLoader(torch.ones(5, 1))
    trainer.fit(OneClass([0.5, 0.3, 0.4]), loader, loader)
    found = {p.stem: torch.load(p, weights_only=False)["epoch"] for p in tmp_path.iterdir()}
    assert found == {"best": 1, "last": 2}
    line = "val/auc is not defined: all labels are 0; the best epoch is chosen by val/logloss\n"
    assert capsys.readouterr().out.count(line) == 1
