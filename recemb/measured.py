"""Measured: the metrics of a stage as they are reported; one that is not defined has no number."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule

from recemb.errors import RecembError


def metrics_of(module: LightningModule, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a trainer has measured.

    Args:
        module: Whose attribute ``undefined`` says which metrics have no value, and why.
        found: As ``trainer.validate`` or ``trainer.test`` returns it.

    Returns:
        ``metrics``, in which those are None, and ``undefined``, if there are any.

    Raises:
        RecembError: If one that has a value is NaN or infinite.
    """
    metrics: dict[str, float | None] = {
        name: float(value) for one in found for name, value in one.items()
    }
    for name, value in metrics.items():
        if value is not None and not math.isfinite(value):
            raise RecembError(
                f"{name} is {value}: the weights are those of a training that diverged; use "
                "another checkpoint, or train again with a lower learning rate"
            )
    undefined: dict[str, str] = dict(getattr(module, "undefined", {}))
    metrics |= dict.fromkeys(undefined)
    return {"metrics": metrics, **({"undefined": undefined} if undefined else {})}


def value_of(measured: Mapping[str, Any], name: str) -> float:
    """Return a metric that something is to be chosen by.

    Args:
        measured: As :func:`metrics_of` returns it.
        name: Of the metric.

    Raises:
        RecembError: If it is not defined, or there is none of the name.
    """
    value = measured["metrics"].get(name)
    if value is None:
        why = measured.get("undefined", {}).get(name, f"there are {sorted(measured['metrics'])}")
        raise RecembError(f"{name} is not defined: {why}; it is what is compared here")
    return float(value)


def figure(value: float | None) -> str:
    """Return a metric as text.

    Example:
        >>> figure(0.81237), figure(None)
        ('0.8124', 'not defined')
    """
    return "not defined" if value is None else f"{value:.4f}"
