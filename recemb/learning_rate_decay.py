"""Learning rate decay: the rates of rows and of all else fall together, along half a cosine.

Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017,
arXiv:1608.03983; one period, no restart.
"""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer

from recemb.errors import RecembError

RATES = ("lr", "step_lr")
"""Of a parameter group."""


class LearningRateDecay(Callback):
    """Let both learning rates fall from what is configured to a share of it, step by step.

    A rate is a function of the steps so far and of all that ``trainer.max_epochs`` or
    ``trainer.max_steps`` allow, so a resumed training has those of one that was never stopped.

    Args:
        final: Share of the rates that is left at the last step, above 0 and at most 1.
        begin: Share of training after which they begin to fall, at least 0 and below 1.

    Raises:
        RecembError: If a setting is out of range, or if training has no last step.

    Example:
        In a configuration::

            trainer:
              max_epochs: 100
              callbacks:
                - class_path: recemb.learning_rate_decay.LearningRateDecay
                  init_args: {final: 0.05, begin: 0.5}
    """

    def __init__(self, final: float = 0.01, begin: float = 0.0) -> None:
        if not 0 < final <= 1:
            raise RecembError(
                f"learning rate decay: final must be above 0 and at most 1, got {final}"
            )
        if not 0 <= begin < 1:
            raise RecembError(
                f"learning rate decay: begin must be at least 0 and below 1, got {begin}"
            )
        self.final, self.begin = final, begin
        self._begun_with: dict[str, float] | None = None

    def factor(self, share: float) -> float:
        """Return what rates are multiplied with after ``share`` of training, 0..1."""
        fallen = max(0.0, share - self.begin) / (1 - self.begin)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * fallen))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the rates that are configured.

        Raises:
            RecembError: If there is no last step, or a resumed training had another schedule.
        """
        if not math.isfinite(trainer.estimated_stepping_batches):
            raise RecembError(
                "learning rate decay: training must have a last step, got neither "
                "trainer.max_epochs nor trainer.max_steps; set one"
            )
        own = {
            "steps in all": trainer.estimated_stepping_batches,
            "final": self.final,
            "begin": self.begin,
        }
        self._check_same(own, trainer.global_step)
        self._begun_with = own
        for group in trainer.optimizers[0].param_groups:
            for name in RATES:
                if name in group:
                    group.setdefault(f"initial_{name}", group[name])  # a checkpoint may have it

    def _check_same(self, own: dict[str, float], step: int) -> None:
        before = self._begun_with
        if before is None and step:
            raise RecembError(
                "learning rate decay: the checkpoint's training had none, so its rates cannot go "
                "on falling; drop it from trainer.callbacks, or begin a new run with --warm_start"
            )
        for name, value in own.items():
            if before is not None and before[name] != value:
                raise RecembError(
                    f"learning rate decay: {name} was {before[name]:g} where the training began "
                    f"and is {value:g} here, so rates cannot go on as they were; restore the "
                    "setting (steps in all follow from trainer.max_epochs, trainer.max_steps and "
                    "the batches of an epoch), or begin a new run with --warm_start"
                )

    @property
    def state_key(self) -> str:
        """That of subclasses too: a training has one schedule."""
        return LearningRateDecay.__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule."""
        return dict(self._begun_with or {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the schedule of the training that is resumed."""
        self._begun_with = dict(state_dict)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rates of the step that comes."""
        factor = self.factor(trainer.global_step / trainer.estimated_stepping_batches)
        for group in trainer.optimizers[0].param_groups:
            for name in RATES:
                if name in group:
                    group[name] = group[f"initial_{name}"] * factor
