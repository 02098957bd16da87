"""Physical tables: what a table kind asks for and a rows store keeps; all that they share.

Shapes: R rows, D elements per row.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "fp16", "bf16", "int16", "int8", "int4"]
"""How the elements of rows are stored; they are read and updated as fp32 whatever it is."""
Step = Literal["table", "row", "learned"]
"""What one integer unit is worth: one number for a whole ``table``; a scale and a bias for each
``row`` (fp16 both), fitted anew when the row outgrows them; or a ``learned`` scale for each row
(fp32)."""
Sharding = Literal["data_parallel", "row_wise", "table_wise", "column_wise"]
"""Where several processes train: a table is in each of them, or cut by rows, not at all, or by
columns."""
StoredPrecision = Precision | Literal["uint8"]
"""A table of ``uint8`` holds codes: bytes that are read as they are and not trained."""

BITS: dict[StoredPrecision, int] = {
    "fp32": 32,
    "fp16": 16,
    "bf16": 16,
    "int16": 16,
    "int8": 8,
    "int4": 4,
    "uint8": 8,
}
"""Bits per element."""
INTEGERS: tuple[StoredPrecision, ...] = ("int16", "int8", "int4")
"""The precisions that have a :data:`Step`."""

Initializer = Callable[[Tensor], object]
"""Fills the rows of one physical table in place, from torch's global generator."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Draw every element from U(center - scale, center + scale)."""

    scale: float
    center: float = 0.0

    def __call__(self, rows_RD: Tensor) -> None:
        """Fill ``rows_RD`` in place."""
        rows_RD.uniform_(self.center - self.scale, self.center + self.scale)


@dataclass(frozen=True, slots=True)
class NormalAwayFromZero:
    """Draw from a normal law without its middle, so that products of draws do not vanish.

    Values nearer to 0 than ``gap`` deviations of the underlying normal are drawn again; the
    deviation of what is left is ``std``.
    """

    std: float
    gap: float = 0.5

    def __call__(self, rows_RD: Tensor) -> None:
        """Fill ``rows_RD`` in place."""
        # By the inverse distribution of |z| > gap: a uniform draw of the remaining probability.
        below = 0.5 * (1 + math.erf(self.gap / math.sqrt(2)))
        density = math.exp(-(self.gap**2) / 2) / math.sqrt(2 * math.pi)
        variance = 1 + self.gap * density / (1 - below)
        rows_RD.uniform_(-1, 1)
        sign_RD = torch.where(rows_RD < 0, -1.0, 1.0)
        place_RD = below + (1 - below) * rows_RD.abs().clamp(max=1 - 1e-6)
        rows_RD.copy_(sign_RD * torch.special.ndtri(place_RD) * (self.std / math.sqrt(variance)))


def zeros(rows_RD: Tensor) -> None:
    """Fill ``rows_RD`` with 0, in place."""
    rows_RD.zero_()


@dataclass(frozen=True, kw_only=True, slots=True)
class PhysicalTable:
    """One tensor of rows that a rows store keeps: ``num_rows`` rows of ``dim`` elements."""

    num_rows: int
    dim: int
    initializer: Initializer
    precision: StoredPrecision = "fp32"
    step: Step = "table"
    sharding: Sharding | None = None
    """None: the store decides."""
    reads: float = 1.0
    """Rows that a sample reads on average, as far as that is known before training."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its own scale."""
        # fp16 scale and bias, or an fp32 scale.
        has_scale = self.precision in INTEGERS and self.step != "table"
        return -(-self.dim * BITS[self.precision] // 8) + 4 * has_scale

    @property
    def extra_bytes(self) -> int:
        """Bytes that the rows have together: one fp32 scale for all, or nothing."""
        return 4 * (self.precision in INTEGERS and self.step == "table")

    @property
    def num_bytes(self) -> int:
        """Bytes of the rows with their scales, without optimizer state."""
        return self.num_rows * self.row_bytes + self.extra_bytes

    @property
    def form(self) -> tuple[int, StoredPrecision, Step]:
        """What two tables must have in common to be gathered together."""
        return self.dim, self.precision, self.step if self.precision in INTEGERS else "table"
