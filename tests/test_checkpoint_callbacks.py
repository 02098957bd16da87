"""Which epochs are kept: the best by the model's metric, and the last one."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recemb.checkpoint import WholeFileIO
from recemb.checkpoint_callbacks import BestCheckpoint, Header
from recemb.monitor import AUC, Monitor
from recemb.schema import Schema


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


@pytest.mark.parametrize("own_folder", [False, True])
def test_a_checkpoint_cannot_name_files_that_would_be_removed(
    own_folder: bool, tmp_path: Path
) -> None:
    """Lightning removes what the state says was the best once there is a better one."""
    valuable = tmp_path / "valuable.ckpt"
    valuable.write_text("years of work")
    folder = tmp_path / "run"
    folder.mkdir()
    state = BestCheckpoint(folder).state_dict()
    state |= {
        "dirpath": str(folder if own_folder else tmp_path / "elsewhere"),
        "best_model_path": str(valuable),
        "kth_best_model_path": str(valuable),
        "last_model_path": str(valuable),
        "best_k_models": {str(valuable): torch.tensor(0.5)},
        "best_model_score": torch.tensor(0.5),
    }
    callback = BestCheckpoint(folder, resumed=folder / "last.ckpt")
    callback.load_state_dict(state)
    named = {callback.best_model_path, callback.kth_best_model_path, callback.last_model_path}
    assert named | set(callback.best_k_models) == {""}
    assert callback.best_model_score is None


def test_the_best_is_found_beside_what_is_resumed_wherever_it_was_written(tmp_path: Path) -> None:
    moved, new = tmp_path / "moved", tmp_path / "new"
    moved.mkdir()
    (moved / "best.ckpt").write_text("a checkpoint")
    score = torch.tensor(0.75)
    state = BestCheckpoint(tmp_path / "old").state_dict() | {
        "best_model_path": str(tmp_path / "old/best.ckpt"),
        "best_model_score": score,
        "kth_value": score,
    }
    for folder in (moved, new):
        callback = BestCheckpoint(folder, resumed=moved / "last.ckpt")
        callback.load_state_dict(state)
        assert callback.best_model_path == str(folder / "best.ckpt")
        assert callback.best_k_models == {str(folder / "best.ckpt"): score}


class OnCuda(nn.Module):
    """Says that it is on a GPU; there is none here."""

    device = torch.device("cuda", 1)


SEALING = SimpleNamespace(strategy=SimpleNamespace(checkpoint_io=WholeFileIO()))
"""What a header asks of a trainer."""


def test_the_random_state_of_a_gpu_is_saved_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {OnCuda.device: torch.tensor([1, 2], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state[device].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda new, device: state.__setitem__(device, new)
    )
    schema = Schema(columns={}, vocabularies={})
    checkpoint: dict[str, Any] = {}
    Header({"model": {}, "data": {}}, schema).on_save_checkpoint(SEALING, OnCuda(), checkpoint)
    assert [one.tolist() for one in checkpoint["recemb"]["device_random_states"]] == [[1, 2]]
    state[OnCuda.device] = torch.tensor([9, 9], dtype=torch.uint8)
    header = Header({"model": {}, "data": {}}, schema)
    header.on_load_checkpoint(None, OnCuda(), checkpoint)
    # Building the model may draw; what counts is where training begins.
    assert state[OnCuda.device].tolist() == [9, 9]
    header.on_train_start(None, OnCuda())
    assert state[OnCuda.device].tolist() == [1, 2]


def test_a_checkpoint_of_a_gpu_goes_on_without_one_and_the_reverse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new, device: asked.append(device))
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.zeros(2))
    schema = Schema(columns={}, vocabularies={})
    here = nn.Module()
    here.device = torch.device("cpu")  # type: ignore[assignment]
    for saver, loader in ((OnCuda(), here), (here, OnCuda())):
        checkpoint: dict[str, Any] = {}
        header = Header({"model": {}, "data": {}}, schema)
        header.on_save_checkpoint(SEALING, saver, checkpoint)
        header.on_load_checkpoint(None, loader, checkpoint)
        header.on_train_start(None, loader)
    assert asked == []
