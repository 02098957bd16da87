"""Monitor: the validation metric by which a model's epochs and searches are compared."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True, slots=True)
class Monitor:
    """A metric that validation logs, and which way is better.

    Example:
        >>> Monitor("val/mse", "min").is_better(0.8, than=0.9)
        True
    """

    name: str
    """As logged: ``val/`` and the metric."""
    mode: Literal["max", "min"]
    """Whether the largest or the smallest is the best."""
    instead: "Monitor | None" = None
    """By what epochs are compared where the data does not define the metric; None: by nothing."""

    @property
    def metric(self) -> str:
        """The metric without its stage."""
        return self.name.removeprefix("val/")

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether a value is better than another one; than None, NaN or infinity it is.

        NaN and infinity are better than nothing.
        """
        if not math.isfinite(value):
            return False
        if than is None or not math.isfinite(than):
            return True
        return value > than if self.mode == "max" else value < than

    def fitness(self, value: float) -> float:
        """Return a number that is larger the better a value is; of NaN the smallest."""
        if not math.isfinite(value):
            return -math.inf
        return value if self.mode == "max" else -value


AUC = Monitor("val/auc", "max", instead=Monitor("val/logloss", "min"))
"""That of clicks; validation of one class has no AUC."""


def monitor_of(model: nn.Module) -> Monitor:
    """Return the attribute ``monitor`` of a model, by default :data:`AUC`."""
    found = getattr(model, "monitor", AUC)
    assert isinstance(found, Monitor)
    return found
