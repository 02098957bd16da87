"""Full: every id has a row of its own.

    row = number of the id    vector = E[row]
    bytes = num_ids * dim * 4 (fp32)

The plain embedding table, and the yardstick of every other kind. Under a budget it becomes
narrower: fewer elements for every id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import BlockIds, IdSpace, TableConfig, TableFeature, num_ids
from recemb.tables.numbered import RowPerId


@dataclass(frozen=True, kw_only=True, slots=True)
class Full(TableConfig):
    """A row per id; ``dim`` is the most that a budget may leave."""

    kind: Literal["full"] = "full"
    """The name of the kind."""

    searched: ClassVar[str] = "dim"
    formula: ClassVar[str] = "E[id]"
    memory: ClassVar[str] = "ids x dim"
    paper: ClassVar[str] = "the plain table"

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: as many rows as the id spaces have ids."""
        rows = self.part(num_ids(where, self, spaces), self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the dimensions up to ``dim``."""
        return range(1, self.dim + 1)

    def build(self, features: Sequence[TableFeature]) -> "FullKind":
        """Return the module for ``features``."""
        return FullKind(features)


class FullKind(RowPerId):
    """The row is the vector."""

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows as they are."""
        return parts[0].squeeze(1)
