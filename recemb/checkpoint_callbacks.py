"""Which checkpoints are kept, and what is put into them beside Lightning's own entries."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recemb import processes
from recemb.checkpoint import copy_checkpoint
from recemb.checkpoint_file import FORMAT, SECTIONS
from recemb.monitor import AUC, Monitor
from recemb.schema import Schema

T = TypeVar("T")


class BestCheckpoint(ModelCheckpoint):
    """Keep the best checkpoint by validation and the last one, also when a run goes on elsewhere.

    A resumed run has a folder of its own. Lightning would forget the best score there, and so could
    end with a worse model than it was resumed from; here the best checkpoint so far moves along.

    Args:
        folder: Where checkpoints go.
        monitor: What is best; None where there is no validation: the last epoch is kept.
    """

    def __init__(self, folder: Path, monitor: Monitor | None = AUC) -> None:
        super().__init__(
            dirpath=str(folder),
            filename="best",
            monitor=monitor.name if monitor else None,
            mode=monitor.mode if monitor else "max",
            save_last=True,
            save_on_train_epoch_end=None if monitor else True,
            enable_version_counter=False,
        )

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        """Keep the epoch if it is the best; not before staged tables are in their last stage."""
        is_final = getattr(trainer.lightning_module, "is_final", None)
        if is_final is None or is_final():
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning saves the last epoch where this one was saved as one of the best: else a resumed
        # run would go back to the best.
        self._last_global_step_saved = trainer.global_step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, and copy its checkpoint where it lay in another folder."""
        state = {**state_dict, "dirpath": self.dirpath, "last_model_path": ""}
        best = Path(state["best_model_path"] or "none")
        if state_dict["dirpath"] != self.dirpath:
            kept: dict[str, Any] = {}
            if best.is_file():
                copy = Path(str(self.dirpath)) / best.name
                if not processes.rank():
                    copy_checkpoint(best, copy)
                kept = {str(copy): state["best_model_score"]}
            path = next(iter(kept), "")
            worst = -math.inf if self.mode == "max" else math.inf
            state |= {"best_model_path": path, "kth_best_model_path": path, "best_k_models": kept}
            state |= {} if kept else {"best_model_score": None, "kth_value": torch.tensor(worst)}
        super().load_state_dict(state)


class Header(Callback):
    """Put the ``recemb`` entry into checkpoints, and restore the random state of a resumed run.

    Args:
        config: Configuration sections as plain values.
        schema: Of the data that the model trains on.
    """

    def __init__(self, config: dict[str, Any], schema: Schema) -> None:
        self.config = {name: config[name] for name in SECTIONS}
        self.schema = schema
        self._random_states: list[Tensor] = []
        self._device_states: list[Tensor | None] = []

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry."""
        checkpoint["recemb"] = {
            "format": FORMAT,
            # In the order of the features, which is that of a model's inputs.
            "config": yaml.safe_dump(self.config, sort_keys=False),
            "schema": self.schema.state(),
            "random_states": processes.from_all(torch.get_rng_state()),
            "device_random_states": processes.from_all(_device_state(pl_module.device)),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the random states until training starts: building the model has used some."""
        self._random_states = checkpoint["recemb"]["random_states"]
        self._device_states = checkpoint["recemb"]["device_random_states"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this process's random states; those of the first where they were fewer.

        A GPU has its own, of which dropout and stochastic rounding there draw.
        """
        if self._random_states:
            torch.set_rng_state(_own(self._random_states))
        state = _own(self._device_states) if self._device_states else None
        if state is not None and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(state, pl_module.device)


def _device_state(device: torch.device) -> Tensor | None:
    """Return the random state of the device that a process trains on, where it has its own."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _own(states: Sequence[T]) -> T:
    """Return what is this process's; the first's where they were fewer."""
    rank = processes.rank()
    return states[rank if rank < len(states) else 0]
