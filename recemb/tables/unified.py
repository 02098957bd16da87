"""Unified: one table for many features, each reading it as often as it needs (multiplexing).

    row_j = h(id + salt(id space, j)), j < lookups      vector = E[row_1] | .. | E[row_lookups]
    bytes = num_rows * dim * 4 (fp32), whatever the number of features

Collisions between features cost little, because each feature's part of the network learns to read
its own directions; so one table holds more than separate ones of the same total size. It loses
where there is one single vocabulary. ``lookups`` is set per feature: more for rich vocabularies.

Source: Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML
Systems", NeurIPS 2023, arXiv:2305.12102.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import MAX_ROWS
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.hashed import SaltedReads
from recemb.tables.kind import IdSpace, TableConfig, TableFeature


@dataclass(frozen=True, kw_only=True, slots=True)
class Unified(TableConfig):
    """``num_rows`` rows of ``dim`` elements, shared; a feature's vector is lookups * dim wide."""

    num_rows: int
    """Rows, at least 1."""
    kind: Literal["unified"] = "unified"
    """The name of the kind."""

    searched: ClassVar[str] = "num_rows"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if not 1 <= self.num_rows <= MAX_ROWS:
            raise RecembError(f"{where}: num_rows must be in 1..{MAX_ROWS}, got {self.num_rows}")

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``."""
        rows = PhysicalTable(
            num_rows=self.num_rows, dim=self.dim, initializer=Uniform(self.init_scale)
        )
        return {"rows": rows}

    def output_dim(self, lookups: int) -> int:
        """Return ``lookups * dim``."""
        return lookups * self.dim

    def build(self, features: Sequence[TableFeature]) -> "UnifiedKind":
        """Return the module for ``features``."""
        return UnifiedKind(features)


class UnifiedKind(SaltedReads):
    """Per-feature numbers of lookups, concatenated."""

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature) -> Tensor:
        """Return the rows of an id side by side."""
        return parts[0].flatten(1)
