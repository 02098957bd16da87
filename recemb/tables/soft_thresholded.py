"""Soft-thresholded: a plain table whose elements are shrunk by learned thresholds, many to 0.

    vector = sign(E[id]) * max(|E[id]| - sigmoid(s), 0)

The supernet of a search (``recemb search --method pep``), which moves s: one per id space and
element of a vector, or one per element of the table. Training alone moves rows only. s begins at
-7, a threshold of .0009. What a search finds is stored as kind ``pruned`` or ``selected``.

The start matters: where sigmoid(s) is 0 in floating point (below -104 in fp32), so is its
derivative, and s never moves.

Shapes: N ids, V ids of a table, D elements, F id spaces of a table.

Source: Liu et al., "Learnable Embedding Sizes for Recommender Systems" (PEP), ICLR 2021,
arXiv:2101.07577.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableFeature,
    int_buffer,
    num_ids,
    spread,
)
from recemb.tables.numbered import RowPerId

LEAST_START = -80.0
"""Below, float32 has no derivative of the sigmoid that an optimizer could use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftThresholded(TableConfig):
    """A row per id; ``dim`` is the most that a budget may leave."""

    kind: Literal["soft_thresholded"] = "soft_thresholded"
    """The name of the kind."""
    per: Literal["dimension", "element"] = "dimension"
    """What has a threshold of its own: each element of an id space's vectors, or of the table."""
    start: float = -7.0
    """Where s begins, -80 to 0; the threshold is its sigmoid."""

    searched: ClassVar[str] = "dim"
    formula: ClassVar[str] = "sign(E[id]) max(abs(E[id]) - sigmoid(s), 0)"
    memory: ClassVar[str] = "ids x dim, and thresholds: id spaces x dim, or ids x dim"
    paper: ClassVar[str] = "Liu et al. 2021, arXiv:2101.07577 (the supernet of search)"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if not LEAST_START <= self.start <= 0:
            raise RecembError(
                f"{where}: start must be {LEAST_START:g} to 0, for a threshold that can move, got "
                f"{self.start}"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: as many rows as the id spaces have ids."""
        rows = self.part(num_ids(where, self, spaces), self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the thresholds."""
        count = len(spaces) if self.per == "dimension" else num_ids(where, self, spaces)
        return SoftThresholds(count, self.dim, self.start)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the dimensions up to ``dim``."""
        return range(1, self.dim + 1)

    def build(self, features: Sequence[TableFeature]) -> "SoftThresholdedKind":
        """Return the module for ``features``."""
        return SoftThresholdedKind(features)


class SoftThresholds(nn.Module):
    """The s of each id space, or of each id. A buffer: no optimizer of a training moves it."""

    s_XD: Tensor

    def __init__(self, count: int, dim: int, start: float) -> None:
        super().__init__()
        self.register_buffer("s_XD", torch.full((count, dim), start))

    def forward(self, rows_ND: Tensor, number_N: Tensor) -> Tensor:
        """Return rows less their thresholds; numbers are of id spaces or of ids."""
        threshold_ND = torch.sigmoid(self.s_XD[number_N])
        return torch.sign(rows_ND) * torch.relu(rows_ND.abs() - threshold_ND)


class SoftThresholdedKind(RowPerId):
    """Shrinks rows by the thresholds of their id space, or by their own."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        places = [len(feature.spaces_before) for feature in features]
        self.register_buffer("space_F", int_buffer(places), persistent=False)
        self.space_F: Tensor

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the shrunk rows."""
        if cast(SoftThresholded, feature.config).per == "dimension":
            number_N = spread(self.space_F, ids.feature_N)
        else:
            number_N = ids.ids_N + spread(self.first_id_F, ids.feature_N)
        return cast(Tensor, cast(SoftThresholds, feature.learned)(parts[0].squeeze(1), number_N))
