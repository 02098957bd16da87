"""Resuming: what a checkpoint says of its training, and what that means for one that goes on.

The settings of the trainer may change: what does is said. Training rows in another order, or other
ones, are refused, and so is another schedule of the learning rates.
"""

from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer

from recemb import processes
from recemb.errors import RecembError
from recemb.learning_rate_decay import LearningRateDecay

ENDS = ("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps", "callbacks")
"""Settings of a trainer that say when a training ends."""
STEERING = (
    *ENDS, "fast_dev_run", "limit_train_batches", "limit_val_batches", "overfit_batches",
    "val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches", "precision",
    "gradient_clip_val", "gradient_clip_algorithm",
)  # fmt: skip
"""All on which the course of a training depends."""
TRAINING = "training"
"""The entry of a checkpoint."""


class Resumption(Callback):
    """Put the state of a training into its checkpoints, and let one that is resumed go on from it.

    Where the training had ended, for whatever reason, it is not trained further, unless what ended
    it has been changed since.

    Args:
        settings: Of the trainer, as plain values.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = {name: settings.get(name) for name in STEERING}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state."""
        checkpoint[TRAINING] = {
            "has_ended": trainer.should_stop,
            "trainer": self.settings,
            "order": _order(trainer),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take it up, and say what is not as it was.

        Raises:
            RecembError: If learning rates fell and now would not, or the rows that are left are not
                those that the training would have had.
        """
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        has_decay = any(isinstance(one, LearningRateDecay) for one in callbacks)
        if LearningRateDecay.__qualname__ in checkpoint.get("callbacks", {}) and not has_decay:
            raise RecembError(
                "resume: the learning rates of the checkpoint's training fall, and "
                "trainer.callbacks has no LearningRateDecay here; restore it, or begin a new run "
                "with --warm_start"
            )
        now, state = _order(trainer), checkpoint[TRAINING]
        for name, was in state["order"].items():
            if name in now and was != now[name]:
                raise RecembError(
                    f"resume: {name} was {was} and is {now[name]} here, so the training cannot go "
                    "on with the rows that are left; restore it, or begin a new run with "
                    "--warm_start"
                )
        changed = {
            name: f"trainer.{name} was {_short(was)} and is {_short(self.settings[name])}"
            for name, was in state["trainer"].items()
            if was != self.settings[name]
        }
        said = f"the training goes on, but {'; '.join(changed.values())}" if changed else ""
        if state["has_ended"] and not set(ENDS) & set(changed):
            trainer.should_stop = True
            said = "the checkpoint's training had ended; nothing is trained"
        if said and not processes.rank():
            print(f"resume: {said}")


def _order(trainer: Trainer) -> dict[str, Any]:
    """What the order of the training rows follows from; of data that does not say so, nothing."""
    return dict(getattr(trainer.datamodule, "training_order", {}))  # type: ignore[attr-defined]


def _short(value: Any) -> str:
    if isinstance(value, list):
        names = [str(one.get("class_path", one)).rpartition(".")[2] for one in value]
        return f"[{', '.join(names)}]"
    return str(value)
