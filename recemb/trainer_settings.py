"""Trainer settings: those that a training of rows cannot have.

A trainer scales, clips and converts what its optimizer knows. It does not know the rows, which
would be left as they are, silently: at 65,536 times their step where a loss is scaled.
"""

from lightning import Trainer

from recemb.errors import RecembError

PRECISIONS = ("32-true", "bf16-mixed")
"""Of a trainer: those that neither scale the loss nor convert stored rows."""
OTHER_NAMES = {"None": "32-true", "32": "32-true", "bf16": "bf16-mixed"}
"""What a configuration may call them."""


def check_settings(precision: object, clip_value: object, clip_algorithm: object) -> None:
    """Raise a :class:`RecembError` if a setting of a trainer would not reach the rows.

    Args:
        precision: As the trainer was given it: on a CPU it makes bf16-mixed of 16-mixed.
        clip_value: ``gradient_clip_val``.
        clip_algorithm: ``gradient_clip_algorithm``.
    """
    named = OTHER_NAMES.get(str(precision), str(precision))
    if named not in PRECISIONS:
        raise RecembError(
            f"trainer: precision must be one of {list(PRECISIONS)}, got {precision!r}: rows have "
            "a precision of their own, which tables set, and take no scaled gradients"
        )
    clipping = {"gradient_clip_val": clip_value, "gradient_clip_algorithm": clip_algorithm}
    for name, value in clipping.items():
        if value:
            raise RecembError(
                f"trainer: {name} cannot be set, got {value!r}: it would pass by the gradients of "
                "rows and clip all others; leave it out, or lower the learning rates"
            )


def check_trainer(trainer: Trainer) -> None:
    """Raise a :class:`RecembError` before training if a setting would not reach the rows."""
    check_settings(trainer.precision, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise RecembError(
            "trainer: its precision plugin scales the loss, and the gradients of rows would not be "
            "unscaled; take precision bf16-mixed, or leave it out"
        )
