"""Objectives: by what trials are compared, by name, and the question of a goal."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recemb.errors import RecembError
from recemb.monitor import Monitor

NAMES = ("quality", "bytes", "latency")


@dataclass(frozen=True, slots=True)
class Objective:
    """A number of a trial.

    Attributes:
        name: One of :data:`NAMES`.
        label: What it is called in reports: ``val/auc``, ``bytes``, ``latency_ms``.
        mode: Whether the largest or the smallest is the best.
    """

    name: str
    label: str
    mode: Literal["max", "min"]

    def cost(self, value: float) -> float:
        """Return a number that is smaller the better a value is."""
        return -value if self.mode == "max" else value


def objectives_of(names: Sequence[str], monitor: Monitor) -> list[Objective]:
    """Return objectives by name; quality is the metric that the model goes by.

    Raises:
        RecembError: If a name is unknown or occurs twice, or quality is not among them.
    """
    known = {
        "quality": Objective("quality", monitor.name, monitor.mode),
        "bytes": Objective("bytes", "bytes", "min"),
        "latency": Objective("latency", "latency_ms", "min"),
    }
    if len(set(names)) != len(names) or not set(names) <= set(NAMES) or "quality" not in names:
        raise RecembError(
            f"objectives: must be quality and any of {', '.join(NAMES[1:])}, each once, got "
            f"{' '.join(names)}"
        )
    return [known[name] for name in NAMES if name in names]


def values_of(objectives: Sequence[Objective], outcome: Mapping[str, Any]) -> list[float]:
    """Return the numbers of a trained trial.

    Raises:
        RecembError: If one is NaN or infinite.
    """
    values = {"quality": outcome["quality"], "bytes": outcome["table_bytes"]}
    values["latency"] = outcome.get("latency_ms")
    found = [math.nan if values[one.name] is None else values[one.name] for one in objectives]
    for one, value in zip(objectives, found, strict=True):
        if not math.isfinite(value):
            raise RecembError(f"{one.label} is {value}")
    return found


def parse_goal(goal: str) -> float:
    """Return the largest loss that a goal allows.

    Example:
        >>> parse_goal("loss <= 0.002")
        0.002
    """
    match = re.fullmatch(r"\s*loss\s*<=\s*([0-9.]+(?:e-?[0-9]+)?)\s*", goal)
    try:
        assert match
        return float(match[1])
    except (AssertionError, ValueError):
        raise RecembError(
            f"--goal: must be such as 'loss<=0.002', a loss of validation quality against the full "
            f"model, got {goal!r}"
        ) from None


def smallest_within(
    points: Mapping[int, tuple[float, float]], full: float, loss: float, mode: str
) -> int | None:
    """Return the trial of the fewest bytes whose quality is within a loss of the full model's.

    Args:
        points: Quality and bytes by trial.
        full: Quality of the full model.
        loss: Allowed.
        mode: Whether the largest (``max``) or the smallest quality is the best.
    """
    sign = 1 if mode == "max" else -1
    within = {
        number: (size, -sign * quality)
        for number, (quality, size) in points.items()
        if sign * (full - quality) <= loss
    }
    return min(within, key=lambda number: (within[number], number)) if within else None
