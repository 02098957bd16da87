"""Physical tables: what a table kind asks for and a rows store keeps; all that they share.

Shapes: R rows, D elements per row.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Initializer = Callable[[Tensor], object]
"""Fills the rows of one physical table in place, from torch's global generator."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Draw every element from U(-scale, scale)."""

    scale: float

    def __call__(self, rows_RD: Tensor) -> None:
        """Fill ``rows_RD`` in place."""
        rows_RD.uniform_(-self.scale, self.scale)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhysicalTable:
    """One tensor of rows that a rows store keeps: ``num_rows`` rows of ``dim`` elements."""

    num_rows: int
    dim: int
    initializer: Initializer
