"""Which epochs are kept: the best by the model's metric, and the last one."""

from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recemb.checkpoint_callbacks import BestCheckpoint
from recemb.monitor import AUC, Monitor


class Scored(LightningModule):
    """Gets a given score at the end of each epoch."""

    def __init__(self, name: str, scores: list[float]) -> None:
        super().__init__()
        self.name, self.scores = name, scores
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Tensor) -> Tensor:
        return (self.weight * batch.sum()).sum()

    def validation_step(self, batch: Tensor) -> None:
        if not self.trainer.sanity_checking:
            self.log(self.name, self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
@pytest.mark.parametrize(
    ("monitor", "scores", "best"),
    [
        (AUC, [0.7, 0.9, 0.8, 0.85], 1),
        (Monitor("val/mse", "min"), [0.7, 0.9, 0.6, 0.85], 2),
        (AUC, [0.7, 0.8, 0.9], 2),
    ],
)
def test_the_best_and_the_last_epoch_are_kept(
    monitor: Monitor, scores: list[float], best: int, tmp_path: Path
) -> None:
    trainer = Trainer(
        max_epochs=len(scores),
        callbacks=[BestCheckpoint(tmp_path, monitor)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    loader = DataLoader(torch.ones(2, 1))
    trainer.fit(Scored(monitor.name, scores), loader, loader)
    found = {
        path.stem: torch.load(path, weights_only=False)["epoch"] for path in tmp_path.iterdir()
    }
    assert found == {"best": best, "last": len(scores) - 1}


@pytest.mark.parametrize(
    ("mode", "value", "than", "is_better"),
    [
        ("max", 0.8, 0.7, True), ("max", 0.7, 0.7, False), ("max", 0.6, 0.7, False),
        ("min", 0.6, 0.7, True), ("min", 0.8, 0.7, False), ("min", 9.0, None, True),
    ],
)  # fmt: skip
def test_a_monitor_compares(mode: str, value: float, than: float | None, is_better: bool) -> None:
    monitor = Monitor("val/x", mode)  # type: ignore[arg-type]
    assert monitor.is_better(value, than) is is_better
    assert monitor.metric == "x"
    if than is not None:
        assert (monitor.fitness(value) > monitor.fitness(than)) is is_better
