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
from typing import Any, ClassVar, Literal

from torch import Tensor

from recemb.hashing import MAX_ROWS
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.hashed import SaltedReads, check_num_rows
from recemb.tables.kind import BlockIds, IdSpace, TableConfig, TableFeature


@dataclass(frozen=True, kw_only=True, slots=True)
class Unified(TableConfig):
    """``num_rows`` rows of ``dim`` elements, shared; a feature's vector is lookups * dim wide."""

    kind: Literal["unified"] = "unified"
    """The name of the kind."""
    num_rows: int | None = None
    """Rows, at least 1; a share or a budget may choose it."""

    searched: ClassVar[str] = "num_rows"
    formula: ClassVar[str] = "concatenation of E[h_j(id)], j < lookups of the feature"
    memory: ClassVar[str] = "rows x dim, for any number of features"
    paper: ClassVar[str] = "Coleman et al. 2023, arXiv:2305.12102"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_num_rows(where, self.num_rows)

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``."""
        assert self.num_rows is not None
        rows = self.part(self.num_rows, self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def vector_dim(self, lookups: int) -> int:
        """Return ``lookups * dim``."""
        return lookups * self.dim

    def reads_per_id(self, part: str, lookups: int) -> int:
        """Return ``lookups``."""
        return lookups

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return every number of rows."""
        return range(1, MAX_ROWS + 1)

    def build(self, features: Sequence[TableFeature]) -> "UnifiedKind":
        """Return the module for ``features``."""
        return UnifiedKind(features)


class UnifiedKind(SaltedReads):
    """Per-feature numbers of lookups, concatenated."""

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows of an id side by side."""
        return parts[0].flatten(1)
