"""ROBE: all ids of all features read their vectors out of one array, in chunks.

    chunk q of id x = A[h(x, q) mod M ...] of Z values, wrapping round, each times a hashed sign
    bytes = M * 4 (fp32)

Every value is shared by many ids, so an id loses a little everywhere instead of everything to one
other id. Long chunks (Z) read memory in order; short ones mix better. The *aligned* variant starts
chunks at multiples of Z only: the array becomes a table of rows of Z, which can be sharded, at a
loss of mixing.

Source: Desai et al., "Random Offset Block Embedding (ROBE) for compressed embedding tables in deep
learning recommendation systems", MLSys 2022, arXiv:2108.02191.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import MAX_ROWS, mix, rows_of, salt_of
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableFeature,
    TableKind,
    int_buffer,
    own_reads,
    spread,
)

SIGNS_PER_WORD = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Robe(TableConfig):
    """An array of ``num_values`` values read in chunks of ``chunk``."""

    kind: Literal["robe"] = "robe"
    """The name of the kind."""
    num_values: int | None = None
    """M, at least ``chunk``; a share or a budget may choose it."""
    chunk: int = 8
    """Z, values read side by side, at least 1; from ``dim`` on a vector is one chunk."""
    aligned: bool = False
    """Whether chunks start at multiples of Z only."""

    searched: ClassVar[str] = "num_values"
    formula: ClassVar[str] = "chunks A[h(id, q) ...] of Z values with hashed signs"
    memory: ClassVar[str] = "values of the array, for any number of features"
    paper: ClassVar[str] = "Desai et al. 2022, arXiv:2108.02191"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if self.chunk < 1:
            raise RecembError(f"{where}: chunk must be at least 1, got {self.chunk}")
        if self.aligned and self.dim % self.chunk:
            near = [z for z in range(1, self.dim + 1) if self.dim % z == 0]
            raise RecembError(
                f"{where}: aligned chunks must divide dim={self.dim}, got chunk={self.chunk}; "
                f"possible are {near}"
            )
        least = min(self.chunk, self.dim)
        if self.num_values is not None and not least <= self.num_values <= MAX_ROWS:
            raise RecembError(
                f"{where}: num_values must be in {least}..{MAX_ROWS}, got {self.num_values}"
            )

    @property
    def row_width(self) -> int:
        """Elements per row: single values, or whole chunks where they are aligned."""
        return self.chunk if self.aligned else 1

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``array``."""
        assert self.num_values is not None
        array = self.part(
            self.num_values // self.row_width, self.row_width, Uniform(self.init_scale)
        )
        return {"array": array}

    def reads_per_id(self, part: str, lookups: int) -> int:
        """Return the rows of a vector."""
        return self.dim // self.row_width

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where the shape of their reads agrees."""
        return self.dim, self.chunk, self.aligned

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the sizes of the array."""
        return range(min(self.chunk, self.dim), MAX_ROWS + 1, self.row_width)

    def build(self, features: Sequence[TableFeature]) -> "RobeKind":
        """Return the module for ``features``."""
        return RobeKind(features)


class RobeKind(TableKind):
    """Hashed starts of chunks and hashed signs; each feature may have its own chunk length."""

    is_costly = True

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__()
        configs = [feature.config for feature in features if isinstance(feature.config, Robe)]
        reads = [feature.reads[0] for feature in features]
        self.equal_reads = len(set(reads)) == 1
        # The chunk of each read and its place there; an aligned chunk is one read.
        chunk_FR, place_FR, salt_FR = [], [], []
        for feature, config in zip(features, configs, strict=True):
            length = 1 if config.aligned else min(config.chunk, config.dim)
            chunks = [read // length for read in range(max(reads))]
            place_FR.append([read % length for read in range(max(reads))])
            chunk_FR.append(chunks)
            salts = [salt_of(feature.table, feature.space.name, q) for q in range(chunks[-1] + 1)]
            salt_FR.append([salts[q] for q in chunks])
        signs = [salt_of(feature.table, feature.space.name, "signs") for feature in features]
        for name, values in (
            ("base_F", int_buffer([feature.base_rows[0] for feature in features])),
            ("num_rows_F", int_buffer([feature.parts[0].num_rows for feature in features])),
            ("reads_F", int_buffer(reads)),
            ("salt_FR", torch.tensor(salt_FR, dtype=torch.int64)),
            ("place_FR", torch.tensor(place_FR, dtype=torch.int64)),
            ("sign_salt_F", int_buffer(signs)),
        ):
            self.register_buffer(name, values, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return ``base + (h(id, chunk) + place) mod rows`` of every read."""
        num_rows_N1 = spread(self.get_buffer("num_rows_F"), feature_N).unsqueeze(-1)
        salt_NR = spread(self.get_buffer("salt_FR"), feature_N)
        start_NR = rows_of(ids_N.unsqueeze(-1), salt_NR, num_rows_N1)
        row_NR = start_NR + spread(self.get_buffer("place_FR"), feature_N)
        row_NR = torch.where(row_NR >= num_rows_N1, row_NR - num_rows_N1, row_NR)
        row_NR = row_NR + spread(self.get_buffer("base_F"), feature_N).unsqueeze(-1)
        return (own_reads(row_NR, self.get_buffer("reads_F"), feature_N, self.equal_reads),)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the values of all chunks side by side, with their signs."""
        values_ND = parts[0].flatten(1)
        salt_N = spread(self.get_buffer("sign_salt_F"), ids.feature_N)
        return values_ND * hashed_signs(ids.ids_N + salt_N, feature.config.dim)


def hashed_signs(keys_N: Tensor, dim: int) -> Tensor:
    """Return (N, dim) of -1 and 1: bits of the mixed keys, 32 of each word."""
    place_D = torch.arange(dim, device=keys_N.device)
    words_NW = mix(
        keys_N.unsqueeze(1) + mix(torch.arange(-(-dim // SIGNS_PER_WORD), device=keys_N.device))
    )
    word_ND = words_NW.index_select(1, torch.div(place_D, SIGNS_PER_WORD, rounding_mode="floor"))
    bit_ND = (word_ND >> (place_D % SIGNS_PER_WORD + 16)) & 1
    return (2 * bit_ND - 1).to(torch.float32)
