"""Codes: each id has P small numbers, each naming a vector of a codebook; all side by side.

    vector = V[1, c_1(id)] | .. | V[P, c_P(id)], each dim / P wide
    bytes = ids * ceil(P log2 K / 8) + K * dim * 4

What product quantisation leaves: the serving form of the kinds that learn codes (DPQ, MGQE) and of
compression by product quantisation. Codes are packed bit by bit, row by row; they are not trained,
the codebook is. Where the rest of the ids has fewer bits than the frequent ones (MGQE), the two
have tables of their own.

Source: Jegou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import PhysicalTable
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
class Codes(TableConfig):
    """``num_parts`` codes of ``num_bits`` bits per id."""

    kind: Literal["codes"] = "codes"
    """The name of the kind."""
    num_parts: int | None = None
    """P, a divisor of ``dim``; a share or a budget may choose it."""
    num_bits: int = 8
    """Bits per code, in 1..8; the codebook has K = 2^num_bits vectors per part."""
    frequent: float = 1.0
    """Share of the ids, the most frequent ones, that have ``num_bits``."""
    rest_bits: int | None = None
    """Bits per code of the others, where ``frequent`` is below 1."""

    searched: ClassVar[str] = "num_parts"
    formula: ClassVar[str] = "V[p, c_p(id)], p < P, side by side; the codes are fixed"
    memory: ClassVar[str] = "ids x P log2 K bits + K x dim"
    paper: ClassVar[str] = "Jegou et al. 2011 (serving form of dpq, mgqe and compress --method pq)"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_parts(where, self.dim, self.num_parts)
        for name in ("num_bits", "rest_bits"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 8:
                raise RecembError(f"{where}: {name} must be in 1..8, got {value}")
        if (self.rest_bits is None) != (self.frequent == 1.0):
            raise RecembError(
                f"{where}: rest_bits and a share of frequent ids below 1 go together, got "
                f"rest_bits={self.rest_bits} and frequent={self.frequent}"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return ``codes``, or ``frequent`` and ``rest``."""
        total = num_ids(where, self, spaces)
        assert self.num_parts is not None
        many = sum(num_frequent(space, self.frequent) for space in spaces)
        wanted = {"frequent": (many, self.num_bits), "rest": (total - many, self.rest_bits or 0)}
        if self.rest_bits is None:
            wanted = {"codes": (total, self.num_bits)}
        return {
            part: PhysicalTable(
                num_rows=rows,
                dim=-(-self.num_parts * bits // 8),
                initializer=random_bytes,
                precision="uint8",
            )
            for part, (rows, bits) in wanted.items()
            if rows
        }

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the codebook."""
        assert self.num_parts is not None
        return Codebook(self.num_parts, 2**self.num_bits, self.dim, self.init_scale)

    def signature(self, lookups: int) -> Hashable:
        """Features of a table are composed together."""
        return self.num_parts, self.num_bits, self.rest_bits

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the divisors of ``dim``."""
        return [parts for parts in range(1, self.dim + 1) if self.dim % parts == 0]

    def build(self, features: Sequence[TableFeature]) -> "CodesKind":
        """Return the module for ``features``."""
        return CodesKind(features)


class Codebook(nn.Module):
    """P x K vectors of dim / P elements."""

    def __init__(self, num_parts: int, num_keys: int, dim: int, init_scale: float) -> None:
        super().__init__()
        self.num_parts, self.num_keys = num_parts, num_keys
        values_PKd = torch.empty(num_parts, num_keys, dim // num_parts)
        self.values_PKd = nn.Parameter(values_PKd.uniform_(-init_scale, init_scale))

    def forward(self, codes_NP: Tensor) -> Tensor:
        """Return the vectors that codes name: (N, dim)."""
        return read_codebook(self.values_PKd, codes_NP, self.num_parts, self.num_keys)


def read_codebook(values_PKd: Tensor, codes_NP: Tensor, num_parts: int, num_keys: int) -> Tensor:
    """Return the vectors of all parts side by side: (N, P d).

    Args:
        values_PKd: The codebook.
        codes_NP: Which vector of each part.
        num_parts: P, and
        num_keys: K, as numbers, which a shape is not while a program is traced.
    """
    first_P = torch.arange(num_parts, device=codes_NP.device) * num_keys
    flat = values_PKd.flatten(0, 1).index_select(0, (codes_NP + first_P).flatten())
    vectors: Tensor = flat.unflatten(0, (-1, num_parts)).flatten(1)
    return vectors


class CodesKind(NumberedIds):
    """Unpacks codes and reads the codebook."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        self.is_split = len(features[0].parts) == 2
        frequent = [_frequent(feature, feature.space) for feature in features]
        before = [
            sum(_frequent(feature, space) for space in feature.spaces_before)
            for feature in features
        ]
        # Bases that make "id + base" the row of an id in either table.
        rest = [
            feature.base_rows[-1] + feature.first_id - earlier - own
            for feature, earlier, own in zip(features, before, frequent, strict=True)
        ]
        first = [
            feature.base_rows[0] + earlier
            for feature, earlier in zip(features, before, strict=True)
        ]
        whole = [feature.base_rows[0] + feature.first_id for feature in features]
        ends = [feature.base_rows[-1] + feature.parts[-1].num_rows - 1 for feature in features]
        for name, values in (
            ("frequent_F", int_buffer(frequent)),
            ("first_base_F", int_buffer(first if self.is_split else whole)),
            ("rest_base_F", int_buffer(rest)),
            ("rest_end_F", int_buffer(ends)),
        ):
            self.register_buffer(name, values, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the row of each id; with two tables, some row of the table that it is not in."""
        self.check_ids(ids_N, feature_N)
        first_N = spread(self.get_buffer("first_base_F"), feature_N)
        if not self.is_split:
            return (ids_N + first_N,)
        frequent_N = spread(self.get_buffer("frequent_F"), feature_N)
        last_N = torch.minimum(ids_N, frequent_N - 1)
        own_N = torch.maximum(ids_N, frequent_N) + spread(self.get_buffer("rest_base_F"), feature_N)
        # An id space whose ids are all frequent has no row of its own in the other table; its
        # place there may be behind the end.
        return last_N + first_N, torch.minimum(
            own_N, spread(self.get_buffer("rest_end_F"), feature_N)
        )

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the codebook's vectors."""
        config = feature.config
        assert isinstance(config, Codes) and config.num_parts is not None
        assert isinstance(feature.learned, Codebook)
        codes_NP = unpack(parts[0].squeeze(1), config.num_parts, config.num_bits)
        if self.is_split:
            rest_NP = unpack(parts[1].squeeze(1), config.num_parts, config.rest_bits or 0)
            frequent_N = spread(self.get_buffer("frequent_F"), ids.feature_N)
            codes_NP = torch.where((ids.ids_N < frequent_N).unsqueeze(1), codes_NP, rest_NP)
        vectors: Tensor = feature.learned(codes_NP)
        return vectors


def _frequent(feature: TableFeature, space: IdSpace) -> int:
    assert isinstance(feature.config, Codes)
    return num_frequent(space, feature.config.frequent)


def num_frequent(space: IdSpace, share: float) -> int:
    """Return how many ids of a space count as frequent: at least one, and not more than all."""
    total = space.num_ids or 0
    return min(total, max(1, round(share * total)))


def check_parts(where: str, dim: int, num_parts: int | None) -> None:
    """Raise a :class:`RecembError` if a vector cannot be cut in so many parts."""
    if num_parts is not None and (num_parts < 1 or dim % num_parts):
        possible = [parts for parts in range(1, dim + 1) if dim % parts == 0]
        raise RecembError(
            f"{where}: num_parts must divide dim={dim}, got {num_parts}; possible are {possible}"
        )


def random_bytes(rows_RD: Tensor) -> None:
    """Fill with random bytes: a table of codes that nobody has learned is a random one."""
    rows_RD.copy_(torch.randint_like(rows_RD, 256))


def pack(codes_NP: Tensor, num_bits: int) -> Tensor:
    """Return codes below 2^num_bits as bytes: (N, ceil(P num_bits / 8)) uint8, low bits first.

    Example:
        >>> pack(torch.tensor([[1, 2, 3]]), 4).tolist()
        [[33, 3]]
    """
    bits_NPb = (codes_NP.unsqueeze(2) >> torch.arange(num_bits)) & 1
    bits_NX = bits_NPb.flatten(1)
    missing = -bits_NX.shape[1] % 8
    bits_NX = torch.cat([bits_NX, bits_NX.new_zeros(len(bits_NX), missing)], 1)
    weights_8 = 2 ** torch.arange(8)
    bytes_NX: Tensor = (bits_NX.unflatten(1, (-1, 8)) * weights_8).sum(2)
    return bytes_NX.to(torch.uint8)


def unpack(bytes_NX: Tensor, num_parts: int, num_bits: int) -> Tensor:
    """Return the codes that :func:`pack` packed: (N, P) int64.

    Example:
        >>> unpack(torch.tensor([[33, 3]], dtype=torch.uint8), 3, 4).tolist()
        [[1, 2, 3]]
    """
    start_P = torch.arange(num_parts, device=bytes_NX.device) * num_bits
    byte_P = torch.div(start_P, 8, rounding_mode="floor")
    # A code of at most 8 bits lies in at most two bytes; past the last one there is nothing.
    padded_NX = torch.nn.functional.pad(bytes_NX, (0, 1)).to(torch.int64)
    low_NP = padded_NX.index_select(1, byte_P)
    high_NP = padded_NX.index_select(1, byte_P + 1)
    both_NP: Tensor = low_NP | (high_NP << 8)
    codes_NP: Tensor = (both_NP >> (start_P % 8)) & (2**num_bits - 1)
    return codes_NP
