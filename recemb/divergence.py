"""Divergence: a training whose numbers are not finite ends, and says where and what to try."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from recemb import processes
from recemb.checkpoint_callbacks import BestCheckpoint
from recemb.errors import RecembError

ADVICE = "lower the learning rate (try a tenth), or look for extreme numbers in the data"
STEPS = 50
"""Between two looks at the losses of a device, where the trainer does not log."""


def not_finite(module: LightningModule, what: str) -> RecembError:
    """Return the error of numbers that are NaN or infinite.

    Args:
        module: Whose they are, in its trainer.
        what: The numbers, such as ``3 of 10 predictions of validation are not finite numbers``.
    """
    if module.trainer.state.fn == TrainerFn.FITTING:
        return diverged(module.trainer, what, module.trainer.global_step)
    return RecembError(
        f"{what}: the weights are those of a training that diverged; use another checkpoint, or "
        "train again with a lower learning rate"
    )


def diverged(trainer: Trainer, what: str, step: int, advice: str = ADVICE) -> RecembError:
    """Return the error of a training whose numbers are not finite.

    Args:
        trainer: Of the training.
        what: The numbers.
        step: After which they were found, from 1.
        advice: What to do; empty where ``what`` ends with it.
    """
    rates = [f"the learning rate is {group['lr']:g}" for group in _groups(trainer)]
    rows = getattr(getattr(trainer.lightning_module, "embeddings", None), "rows", None)
    rate = getattr(getattr(rows, "optimizer", None), "learning_rate", None)
    rates += [] if rate is None else [f"that of rows_optimizer {rate:g}"]
    where = ", ".join([f"epoch {trainer.current_epoch + 1}", " and ".join(rates)])
    said = f"{what}; {advice}" if advice else what
    return RecembError(f"training diverged at step {step} ({where}): {said}")


def _groups(trainer: Trainer) -> list[dict[str, Any]]:
    return trainer.optimizers[0].param_groups[:1] if trainer.optimizers else []


class Divergence(Callback):
    """End a training whose loss, weights or validation metrics are NaN or infinite.

    On a CPU every loss is looked at. Elsewhere that would have each step wait for the device, and
    several processes for each other: there the device keeps which step was the first, and it is
    looked at when the trainer logs and at the end of an epoch. Weights are looked at once an epoch.

    Raises:
        RecembError: In all processes, with the step, the learning rates and what to try.
    """

    def __init__(self) -> None:
        self._bad: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss of a step."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        step = trainer.global_step
        if self._bad is None or self._bad.device != loss.device:
            self._bad = torch.zeros(2, dtype=torch.float64, device=loss.device)
        # The first step's number and loss; 0 while all are finite.
        own = torch.stack([torch.full_like(loss, step), loss]).detach().double().view(2)
        is_first = (self._bad[0] == 0) & ~own[1].isfinite()
        self._bad = torch.where(is_first, own, self._bad)
        is_at_once = loss.device.type == "cpu" and processes.world_size() == 1
        every: int = trainer.log_every_n_steps or STEPS  # type: ignore[attr-defined]
        if is_at_once or step % every == 0:
            self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        with processes.agreement():
            step, loss = self._bad.tolist() if self._bad is not None else (0, 0.0)
            if step:
                raise diverged(trainer, f"the loss is {loss:g}", int(step))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the losses before validation."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the metrics, and whether others have those that they go by."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        check_monitors(trainer)
        with processes.agreement():
            for name, value in trainer.callback_metrics.items():
                if not bool(value.isfinite().all()):
                    raise diverged(trainer, f"{name} is {float(value):g}", trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the losses and the weights, before the epoch's checkpoint is written."""
        self._look(trainer)
        with processes.agreement():
            for name, tensor in _weights(pl_module):
                # Without a copy of the tensor; both are NaN where an element is.
                low, high = tensor.aminmax()
                if not bool(low.isfinite() & high.isfinite()):
                    what = f"weights of {name} are not finite numbers"
                    raise diverged(trainer, what, trainer.global_step)


def check_monitors(trainer: Trainer) -> None:
    """Raise a :class:`RecembError` if a callback goes by a metric that validation does not have.

    The one that keeps the best checkpoint looks for itself, and may go by another.
    """
    undefined: dict[str, str] = getattr(trainer.lightning_module, "undefined", {})
    logged = sorted(trainer.callback_metrics)
    for one in trainer.callbacks:  # type: ignore[attr-defined]
        name = getattr(one, "monitor", None)
        if not isinstance(one, EarlyStopping | ModelCheckpoint) or isinstance(one, BestCheckpoint):
            continue
        if name is None or not name.startswith("val/") or name in logged:
            continue
        why = f"is not defined: {undefined[name]}" if name in undefined else "is not logged"
        raise RecembError(
            f"{name} {why}, and {type(one).__name__} of trainer.callbacks goes by it; have it "
            f"monitor one of {logged}, with its mode"
        )


def _weights(module: LightningModule) -> Iterator[tuple[str, Tensor]]:
    """Yield what is trained: parameters, and the rows of tables, which are buffers."""
    yield from ((name, one) for name, one in _floating(module.named_parameters()))
    rows = getattr(getattr(module, "embeddings", None), "rows", None)
    if rows is not None:
        yield from _floating(rows.named_buffers())


def _floating(tensors: Any) -> Iterator[tuple[str, Tensor]]:
    for name, one in tensors:
        if one.numel() and one.is_floating_point():
            yield name, one.detach()
