"""Monitor: the validation metric by which a model's epochs and searches are compared."""

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

    @property
    def metric(self) -> str:
        """The metric without its stage."""
        return self.name.removeprefix("val/")

    def is_better(self, value: float, than: float | None) -> bool:
        """Return whether a value is better than another one; than None it is."""
        if than is None:
            return True
        return value > than if self.mode == "max" else value < than

    def fitness(self, value: float) -> float:
        """Return a number that is larger the better a value is."""
        return value if self.mode == "max" else -value


AUC = Monitor("val/auc", "max")
"""That of a ranking."""


def monitor_of(model: nn.Module) -> Monitor:
    """Return the attribute ``monitor`` of a model, by default :data:`AUC`."""
    found = getattr(model, "monitor", AUC)
    assert isinstance(found, Monitor)
    return found
