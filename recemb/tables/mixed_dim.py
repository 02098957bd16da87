"""Mixed dimensions (MDE): the more ids share a feature's training data, the narrower their rows.

    d_f = dim * (n_min / n_f)^a, at least 1    vector = E_f[id] (d_f) . P_f (d_f x dim)
    elements = sum_f n_f d_f + d_f dim, without P_f where d_f = dim

One table serves several features; the exponent a, 0 for equal widths, is what a budget chooses.

Source: Ginart et al., "Mixed Dimension Embeddings with Application to Memory-Efficient
Recommendation Systems", ISIT 2021, arXiv:1909.11810.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

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
from recemb.tables.numbered import NumberedIds

LARGEST_EXPONENT = 4.0
STEPS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedDim(TableConfig):
    """A physical table per id space, as wide as its popularity allows."""

    kind: Literal["mixed_dim"] = "mixed_dim"
    """The name of the kind."""
    exponent: float | None = None
    """a, in 0..4; a share or a budget may choose it."""

    searched: ClassVar[str] = "exponent"
    formula: ClassVar[str] = "E_f[id] P_f, E_f dim x (n_min / n_f)^a wide"
    memory: ClassVar[str] = "sum over id spaces of ids x width + width x dim"
    paper: ClassVar[str] = "Ginart et al. 2021, arXiv:1909.11810"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if self.exponent is not None and not 0 <= self.exponent <= LARGEST_EXPONENT:
            raise RecembError(
                f"{where}: exponent must be in 0..{LARGEST_EXPONENT:g}, got {self.exponent}"
            )

    def widths(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, int]:
        """Return the width of each id space."""
        num_ids(where, self, spaces)
        assert self.exponent is not None
        counts = {space.name: max(1, space.num_ids or 0) for space in spaces}
        least = min(counts.values())
        return {
            name: max(1, round(self.dim * (least / count) ** self.exponent))
            for name, count in counts.items()
        }

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part per id space, under its name."""
        widths = self.widths(where, spaces)
        return {
            space.name: self.part(space.num_ids or 0, widths[space.name], Uniform(self.init_scale))
            for space in spaces
        }

    def parts_of(self, space: IdSpace) -> tuple[str, ...] | None:
        """Return the part of the id space."""
        return (space.name,)

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the projections."""
        return _Projections(self.widths(where, spaces), self.dim)

    def composed_by(self, space: IdSpace) -> Hashable:
        """Return the id space, which has a projection of its own."""
        return space.name

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return exponents, from the narrowest widths to the widest."""
        return [LARGEST_EXPONENT * step / STEPS for step in range(STEPS, -1, -1)]

    def build(self, features: Sequence[TableFeature]) -> "MixedDimKind":
        """Return the module for ``features``."""
        return MixedDimKind(features)


class _Projections(nn.Module):
    """A matrix per id space that is narrower than ``dim``."""

    def __init__(self, widths: dict[str, int], dim: int) -> None:
        super().__init__()
        # By number: a module's name may not hold a dot, an id space's may.
        self.number_of = {name: str(number) for number, name in enumerate(widths)}
        self.matrices = nn.ModuleDict(
            {
                self.number_of[name]: nn.Linear(width, dim, bias=False)
                for name, width in widths.items()
                if width < dim
            }
        )

    def forward(self, rows_Nd: Tensor, space: str) -> Tensor:
        """Return (N, dim) vectors."""
        number = self.number_of[space]
        if number not in self.matrices:
            return rows_Nd
        return cast(Tensor, self.matrices[number](rows_Nd))


class MixedDimKind(NumberedIds):
    """Rows of each space's own table, projected."""

    base_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        bases = int_buffer([feature.base_rows[0] for feature in features])
        self.register_buffer("base_F", bases, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return ``base + id``."""
        self.check_ids(ids_N, feature_N)
        return (ids_N + spread(self.base_F, feature_N),)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the projected rows."""
        assert feature.learned is not None
        return cast(Tensor, feature.learned(parts[0].squeeze(1), feature.space.name))
