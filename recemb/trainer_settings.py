"""Trainer settings: those that a training of rows cannot have.

What a trainer does with gradients reaches rows in one process: scaling and clipping. Where rows are
spread over processes it does not, and their own precision is never a trainer's business.
"""

from collections.abc import Sequence

from lightning import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging

from recemb.errors import RecembError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Of a trainer: those that do not convert stored rows."""
SHARDED_PRECISIONS = ("32-true", "bf16-mixed")
"""Those that do not scale the loss either."""
OTHER_NAMES = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""What a configuration may call them."""


def check_settings(
    precision: object, clip_value: object, clip_algorithm: object, is_sharded: bool
) -> None:
    """Raise a :class:`RecembError` if rows cannot have a setting of a trainer.

    Args:
        precision: As the trainer was given it: on a CPU it makes bf16-mixed of 16-mixed.
        clip_value: ``gradient_clip_val``.
        clip_algorithm: ``gradient_clip_algorithm``.
        is_sharded: Whether rows are spread over processes.
    """
    named = OTHER_NAMES.get(str(precision), str(precision))
    allowed = SHARDED_PRECISIONS if is_sharded else PRECISIONS
    if named not in allowed:
        reason = "rows have a precision of their own, which tables set"
        if named in PRECISIONS:
            reason = "gradients of rows that are spread over processes cannot be scaled"
        raise RecembError(
            f"trainer: precision must be one of {list(allowed)}, got {precision!r}: {reason}"
        )
    clipping = {"gradient_clip_val": clip_value, "gradient_clip_algorithm": clip_algorithm}
    for name, value in clipping.items():
        if value and is_sharded:
            raise RecembError(
                f"trainer: {name} cannot be set where rows are spread over processes, got "
                f"{value!r}: no process has the gradients of all rows; leave it out, or lower the "
                "learning rates"
            )


def _callbacks(trainer: Trainer) -> Sequence[object]:
    callbacks: Sequence[object] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def check_trainer(trainer: Trainer, is_sharded: bool) -> None:
    """Raise a :class:`RecembError` before training if rows cannot have a setting.

    Args:
        trainer: Of the training.
        is_sharded: Whether rows are spread over processes.
    """
    clipping = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    check_settings(trainer.precision, *clipping, is_sharded)
    if any(isinstance(one, StochasticWeightAveraging) for one in _callbacks(trainer)):
        raise RecembError(
            "trainer: the callback StochasticWeightAveraging averages parameters alone, and rows "
            "would stay those of the last step; leave it out, or take WeightAveraging"
        )
    if is_sharded and getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise RecembError(
            "trainer: its precision plugin scales the loss, and gradients of rows that are spread "
            "over processes would not be unscaled; take precision bf16-mixed, or leave it out"
        )
