"""Compositional: two small tables, read by the quotient and the remainder of an id.

    q = id div k, r = id mod k    vector = Q[q] * R[r] (or their sum, or side by side)
    rows of an id space of n ids = min(n, ceil(n / k) + k)

No two ids share both rows, so every id keeps a vector of its own. An id space that would not get
smaller keeps a plain table. Products of small numbers vanish, so under ``product`` the remainders'
rows start near 1.

Source: Shi et al., "Compositional Embeddings Using Complementary Partitions for Memory-Efficient
Recommendation Systems", KDD 2020, arXiv:1909.02107.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Compositional(TableConfig):
    """Quotient and remainder tables with ``num_remainders`` remainders per id space."""

    kind: Literal["compositional"] = "compositional"
    """The name of the kind."""
    num_remainders: int | None = None
    """k, at least 2; a share or a budget may choose it."""
    combine: Literal["product", "sum", "concatenate"] = "product"
    """How two rows become one vector; ``concatenate`` makes each dim / 2 wide."""

    searched: ClassVar[str] = "num_remainders"
    formula: ClassVar[str] = "Q[id div k] * R[id mod k] (or sum, or concatenation)"
    memory: ClassVar[str] = "(ids / k + k) x dim, per id space"
    paper: ClassVar[str] = "Shi et al. 2020, arXiv:1909.02107"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if self.num_remainders is not None and self.num_remainders < 2:
            raise RecembError(
                f"{where}: num_remainders must be at least 2, got {self.num_remainders}"
            )
        if self.combine == "concatenate" and self.dim % 2:
            raise RecembError(
                f"{where}: concatenation needs an even dim, got {self.dim}; the nearest are "
                f"{self.dim - 1} and {self.dim + 1}"
            )

    @property
    def _width(self) -> int:
        return self.dim // 2 if self.combine == "concatenate" else self.dim

    def _is_smaller(self, space: IdSpace) -> bool:
        """Return whether two tables take less than a plain one."""
        assert self.num_remainders is not None and space.num_ids is not None
        rows = -(-space.num_ids // self.num_remainders) + self.num_remainders
        return rows * self._width < space.num_ids * self.dim

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return ``quotients`` and ``remainders``, and ``plain`` for what would not get smaller."""
        num_ids(where, self, spaces)
        assert self.num_remainders is not None
        small = [space.num_ids or 0 for space in spaces if self._is_smaller(space)]
        plain = sum(space.num_ids or 0 for space in spaces if not self._is_smaller(space))
        product = self.combine == "product"
        factor = Uniform(0.1, center=1.0) if product else Uniform(self.init_scale)
        quotients = sum(-(-count // self.num_remainders) for count in small)
        wanted = {
            "quotients": (quotients, self._width, Uniform(self.init_scale)),
            "remainders": (len(small) * self.num_remainders, self._width, factor),
            "plain": (plain, self.dim, Uniform(self.init_scale)),
        }
        return {
            part: self.part(rows, width, initializer)
            for part, (rows, width, initializer) in wanted.items()
            if rows
        }

    def parts_of(self, space: IdSpace) -> tuple[str, ...] | None:
        """Return two parts, or ``plain``."""
        return ("quotients", "remainders") if self._is_smaller(space) else ("plain",)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the numbers of remainders, from the fewest elements in all to the most."""
        num_ids(where, self, spaces)
        counts = [space.num_ids or 0 for space in spaces]
        # Every k up to where two tables are smallest; from there on, where k is most of the rows,
        # steps of a thousandth.
        root = int(max(counts) ** 0.5) + 1
        steps = int(math.log(max(max(counts) / root, 1)) * 1000) + 1
        larger_K = root * torch.exp(torch.arange(steps + 1, dtype=torch.float64) / 1000)
        k_K = torch.cat([torch.arange(2, root + 1), larger_K.to(torch.int64)]).unique().clamp(min=2)
        elements_K = torch.zeros_like(k_K)
        for count in counts:
            two_K = ((count + k_K - 1) // k_K + k_K) * self._width
            elements_K += torch.minimum(two_K, torch.tensor(count * self.dim))
        sizes: list[int] = k_K[elements_K.argsort(stable=True)].tolist()
        return sizes

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where the combination agrees."""
        return self.combine

    def build(self, features: Sequence[TableFeature]) -> "CompositionalKind":
        """Return the module for ``features``."""
        return CompositionalKind(features)


class CompositionalKind(NumberedIds):
    """Quotients and remainders; or, if the features read one part, their plain rows."""

    divisor_F: Tensor
    base_PF: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        self.is_plain = len(features[0].parts) == 1
        configs = [feature.config for feature in features]
        divisors = [one.num_remainders or 0 for one in configs if isinstance(one, Compositional)]
        self.register_buffer("divisor_F", int_buffer(divisors), persistent=False)
        bases = [_starts(feature) for feature in features]
        self.register_buffer("base_PF", torch.tensor(bases).T.contiguous(), persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the quotients' and the remainders' rows."""
        self.check_ids(ids_N, feature_N)
        if self.is_plain:
            return (ids_N + spread(self.base_PF[0], feature_N),)
        divisor_N = spread(self.divisor_F, feature_N)
        quotient_N = torch.div(ids_N, divisor_N, rounding_mode="floor")
        remainder_N = ids_N - quotient_N * divisor_N
        return (
            quotient_N + spread(self.base_PF[0], feature_N),
            remainder_N + spread(self.base_PF[1], feature_N),
        )

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the product, the sum or the concatenation of two rows."""
        assert isinstance(feature.config, Compositional)
        rows = [part.squeeze(1) for part in parts]
        if self.is_plain:
            return rows[0]
        if feature.config.combine == "concatenate":
            return torch.cat(rows, 1)
        return rows[0] * rows[1] if feature.config.combine == "product" else rows[0] + rows[1]


def _starts(feature: TableFeature) -> list[int]:
    """Return, per part, the first row of the feature's id space."""
    config = feature.config
    assert isinstance(config, Compositional) and config.num_remainders is not None
    k = config.num_remainders
    before = [
        space.num_ids or 0 for space in feature.spaces_before if _same(config, space, feature)
    ]
    if len(feature.parts) == 1:
        return [feature.base_rows[0] + sum(before)]
    quotients = sum(-(-count // k) for count in before)
    return [feature.base_rows[0] + quotients, feature.base_rows[1] + len(before) * k]


def _same(config: Compositional, space: IdSpace, feature: TableFeature) -> bool:
    return config.parts_of(space) == config.parts_of(feature.space)
