"""Tensor train: an id's vector is a product of three small matrices, one from each core.

    number = (i1, i2, i3) in mixed radix n1 * n2 * n3 >= ids, dim = d1 * d2 * d3
    vector = G1[i1] (d1, r) . G2[i2] (r, d2 r) . G3[i3] (r, d3), flattened
    elements = r * (n1 d1 + n2 d2 r + n3 d3)

Three gathers and two batched products. The rank r is what a budget chooses.

Source: Yin et al., "TT-Rec: Tensor Train Compression for Deep Learning Recommendation Models",
MLSys 2021, arXiv:2101.11714.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.physical import NormalAwayFromZero, PhysicalTable
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

MAX_RANK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorTrain(TableConfig):
    """Three cores of rank ``rank``."""

    kind: Literal["tensor_train"] = "tensor_train"
    """The name of the kind."""
    rank: int | None = None
    """r, in 1..1024; a share or a budget may choose it."""

    searched: ClassVar[str] = "rank"
    formula: ClassVar[str] = "G1[i1] G2[i2] G3[i3], (i1, i2, i3) the digits of the id"
    memory: ClassVar[str] = "rank x (n1 d1 + n2 d2 rank + n3 d3), n1 n2 n3 >= ids, d1 d2 d3 = dim"
    paper: ClassVar[str] = "Yin et al. 2021, arXiv:2101.11714"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if self.rank is not None and not 1 <= self.rank <= MAX_RANK:
            raise RecembError(f"{where}: rank must be in 1..{MAX_RANK}, got {self.rank}")
        if factor_dim(self.dim) is None:
            below = next((d for d in range(self.dim, 7, -1) if factor_dim(d)), None)
            above = next(d for d in range(self.dim, 2 * self.dim + 9) if factor_dim(d))
            near = f"{below} and {above}" if below else f"{above}"
            raise RecembError(
                f"{where}: kind tensor_train needs a dim with three factors above 1, got "
                f"{self.dim}; the nearest that work: {near}"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return the three cores."""
        rows, dims = factor_rows(num_ids(where, self, spaces)), factor_dim(self.dim)
        assert self.rank is not None and dims is not None
        r = self.rank
        widths = (dims[0] * r, r * dims[1] * r, r * dims[2])
        # An element of a vector is a sum over r * r paths of three factors; it shall have the
        # variance of U(-init_scale, init_scale).
        std = (self.init_scale**2 / 3 / r**2) ** (1 / 6)
        return {
            f"core{number + 1}": self.part(rows[number], widths[number], NormalAwayFromZero(std))
            for number in range(3)
        }

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where dim and rank agree."""
        return self.dim, self.rank

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the ranks."""
        return range(1, MAX_RANK + 1)

    def build(self, features: Sequence[TableFeature]) -> "TensorTrainKind":
        """Return the module for ``features``."""
        return TensorTrainKind(features)


def factor_dim(dim: int) -> tuple[int, int, int] | None:
    """Return three factors above 1, ascending and as equal as can be; None if there are none.

    Example:
        >>> factor_dim(16), factor_dim(30), factor_dim(31)
        ((2, 2, 4), (2, 3, 5), None)
    """
    triples = [
        (first, second, dim // first // second)
        for first in range(2, int(dim ** (1 / 3)) + 2)
        if dim % first == 0
        for second in range(first, int((dim // first) ** 0.5) + 1)
        if dim // first % second == 0
    ]
    return min(triples, key=sum, default=None)


def factor_rows(count: int) -> tuple[int, int, int]:
    """Return three numbers, about equal, whose product is at least ``count``.

    Example:
        >>> factor_rows(1000), factor_rows(2)
        ((10, 10, 10), (2, 1, 1))
    """
    # Rounding first: the cube root of 1000 is 9.999999999999998.
    first = math.ceil(round(count ** (1 / 3), 9))
    rest = -(-count // first)
    second = math.ceil(round(rest**0.5, 9))
    return first, second, -(-rest // second)


class TensorTrainKind(NumberedIds):
    """Digits of an id's number, then two products."""

    is_costly = True
    base_PF: Tensor
    second_F: Tensor
    third_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        bases = torch.tensor([feature.base_rows for feature in features]).T.contiguous()
        self.register_buffer("base_PF", bases, persistent=False)
        for part, name in ((1, "second_F"), (2, "third_F")):
            counts = int_buffer([feature.parts[part].num_rows for feature in features])
            self.register_buffer(name, counts, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return a row of each core."""
        number_N = self.numbers(ids_N, feature_N)
        third_N, second_N = spread(self.third_F, feature_N), spread(self.second_F, feature_N)
        above_N = torch.div(number_N, third_N, rounding_mode="floor")
        first_N = torch.div(above_N, second_N, rounding_mode="floor")
        digits = (first_N, above_N - first_N * second_N, number_N - above_N * third_N)
        return tuple(
            digit_N + spread(self.base_PF[part], feature_N) for part, digit_N in enumerate(digits)
        )

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the product of three matrices, flattened."""
        config, dims = feature.config, factor_dim(feature.config.dim)
        assert isinstance(config, TensorTrain) and config.rank is not None and dims is not None
        r = config.rank
        first, second, third = (part.squeeze(1) for part in parts)
        head = torch.bmm(first.unflatten(1, (dims[0], r)), second.unflatten(1, (r, dims[1] * r)))
        head = head.flatten(1).unflatten(1, (dims[0] * dims[1], r))
        return torch.bmm(head, third.unflatten(1, (r, dims[2]))).flatten(1)
