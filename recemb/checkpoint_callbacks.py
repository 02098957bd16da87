"""Which checkpoints are kept, and what is put into them beside Lightning's own entries."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from recemb import processes
from recemb.checkpoint import WholeFileIO, copy_checkpoint
from recemb.checkpoint_file import FORMAT, SECTIONS
from recemb.errors import RecembError
from recemb.monitor import AUC, Monitor
from recemb.schema import Schema

T = TypeVar("T")


class BestCheckpoint(ModelCheckpoint):
    """Keep the best checkpoint by validation and the last one, wherever a training ends.

    Both are kept at the end of an epoch. A training that ends inside one is validated there, if
    the epoch is to be validated, and keeps both with the place in the epoch, where a resumed one
    goes on. An epoch that is not validated is the last one and never the best.

    A resumed run may have a folder of its own. Lightning would forget the best score there, and so
    could end with a worse model than it was resumed from; here the best checkpoint so far moves
    along: the one beside the checkpoint that is resumed. The paths that a checkpoint names are
    those of the machine that wrote it, or of a stranger, who could have any file removed by them.

    Args:
        folder: Where checkpoints go.
        monitor: What is best; None where there is no validation: the last epoch is kept.
        resumed: The checkpoint that training goes on from, if it does.
    """

    def __init__(
        self, folder: Path, monitor: Monitor | None = AUC, resumed: Path | None = None
    ) -> None:
        super().__init__(
            dirpath=str(folder),
            filename="best",
            monitor=monitor.name if monitor else None,
            mode=monitor.mode if monitor else "max",
            save_last=True,
            save_on_train_epoch_end=None if monitor else True,
            enable_version_counter=False,
        )
        self._instead = monitor.instead if monitor else None
        self._resumed = resumed
        self._to_copy: tuple[Path, Path] | None = None

    @property
    def state_key(self) -> str:
        """One for all monitors: which one it was is part of the state."""
        return "BestCheckpoint"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the best checkpoint so far, now that nothing has refused to resume."""
        super().on_train_start(trainer, pl_module)
        self._copy_best()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same where the training had ended."""
        self._copy_best()

    def _copy_best(self) -> None:
        if self._to_copy is not None:
            if not processes.rank():
                copy_checkpoint(*self._to_copy)
            self._to_copy = processes.from_first(None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep what is trained where training ends inside an epoch."""
        can_stop = trainer.fit_loop._can_stop_early
        has_all_steps = 0 <= trainer.max_steps <= trainer.global_step
        ends = has_all_steps or (trainer.should_stop and can_stop)
        if not ends or self._is_over(trainer):
            return
        every = trainer.check_val_every_n_epoch or 1
        is_validated = trainer.enable_validation and (trainer.current_epoch + 1) % every == 0
        if can_stop and is_validated:
            trainer.should_stop = True  # has the trainer validate after this batch
        elif not self._should_skip_saving_checkpoint(trainer):
            self._keep_unmeasured(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the epoch; also one that was not validated."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._is_over(trainer) and not self._should_skip_saving_checkpoint(trainer):
            self._keep_unmeasured(trainer)

    def _keep_unmeasured(self, trainer: Trainer) -> None:
        candidates = self._monitor_candidates(trainer)
        if self.monitor is None:
            self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)

    @staticmethod
    def _is_over(trainer: Trainer) -> bool:
        """Return whether the epoch has had all of its batches."""
        return trainer.fit_loop.epoch_loop._num_ready_batches_reached()

    def _should_save_on_train_epoch_end(self, trainer: Trainer) -> bool:
        """Where an epoch is not over, its end would be saved as one."""
        return self._is_over(trainer) and super()._should_save_on_train_epoch_end(trainer)

    def _should_skip_saving_checkpoint(self, trainer: Trainer) -> bool:
        """Lightning keeps nothing of a ``fast_dev_run``, which here is a short training."""
        return (
            trainer.state.fn != TrainerFn.FITTING
            or trainer.sanity_checking
            or self._last_global_step_saved == trainer.global_step
        )

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        """Keep the epoch if it is the best; not before staged tables are in their last stage."""
        is_final = getattr(trainer.lightning_module, "is_final", None)
        is_comparable = self._is_comparable(trainer, monitor_candidates)
        if is_comparable and (is_final is None or is_final()):
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Lightning saves the last epoch where this one was saved as one of the best: else a resumed
        # run would go back to the best.
        self._last_global_step_saved = trainer.global_step

    def _is_comparable(self, trainer: Trainer, metrics: dict[str, Tensor]) -> bool:
        """Return whether epochs have a number to be compared by; NaN and infinity are none."""
        undefined: dict[str, str] = getattr(trainer.lightning_module, "undefined", {})
        if self.monitor in undefined and self._instead is not None:
            self._say_undefined(undefined, f"the best epoch is chosen by {self._instead.name}")
            self._compare_by(self._instead)
        if self.monitor is None:
            return True
        if self.monitor in undefined:
            self._say_undefined(undefined, "epochs are not compared, the last one is kept")
            return False
        if self.monitor not in metrics:
            raise RecembError(
                f"validation logs no {self.monitor!r}, by which epochs are compared, but "
                f"{sorted(metrics)}; give the model an attribute `monitor`"
            )
        return bool(metrics[self.monitor].isfinite())

    def _say_undefined(self, undefined: dict[str, str], then: str) -> None:
        if not processes.rank():
            print(f"{self.monitor} is not defined: {undefined[str(self.monitor)]}; {then}")

    def _compare_by(self, monitor: Monitor) -> None:
        """Begin to compare by another metric."""
        worst = math.inf if monitor.mode == "min" else -math.inf
        self.monitor, self.mode, self._instead = monitor.name, monitor.mode, monitor.instead
        self.best_k_models, self.best_model_path, self.kth_best_model_path = {}, "", ""
        self.best_model_score, self.kth_value = None, torch.tensor(worst)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score; its checkpoint is copied where it lay in another folder."""
        if self._instead is not None and state_dict["monitor"] == self._instead.name:
            self._compare_by(self._instead)
        folder = Path(str(self.dirpath))
        name = Path(state_dict["best_model_path"] or "none").name
        best = (self._resumed.parent if self._resumed else folder) / name
        kept: dict[str, Any] = {}
        if best.is_file() and state_dict["monitor"] == self.monitor:
            kept = {str(folder / name): state_dict["best_model_score"]}
            if best.resolve() != (folder / name).resolve():
                self._to_copy = best, folder / name
        path = next(iter(kept), "")
        worst = -math.inf if self.mode == "max" else math.inf
        state = {
            **state_dict,
            "dirpath": self.dirpath,
            "last_model_path": "",
            "best_model_path": path,
            "kth_best_model_path": path,
            "best_k_models": kept,
        }
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
            "is_sealed": seals(trainer),
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


def seals(trainer: Trainer) -> bool:
    """Return whether a trainer's checkpoints end with a checksum: a plain trainer's do not."""
    strategy = trainer.strategy
    by_strategy: bool = getattr(strategy, "seals_checkpoints", False)
    return by_strategy or isinstance(strategy.checkpoint_io, WholeFileIO)


def _device_state(device: torch.device) -> Tensor | None:
    """Return the random state of the device that a process trains on, where it has its own."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _own(states: Sequence[T]) -> T:
    """Return what is this process's; the first's where they were fewer."""
    rank = processes.rank()
    return states[rank if rank < len(states) else 0]
