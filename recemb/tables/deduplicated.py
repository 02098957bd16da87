"""Deduplicated: similar blocks of rows become one block; found in training, then fine-tuned.

    row = map[number div R] * R + number mod R    vector = E[row]
    served: kept blocks * R * dim * 4 bytes (fp32) + blocks * 2 bytes of map (4 from 32,768 kept on)

A block is R neighbouring rows. Training starts with the plain table; before epoch
``after_epochs`` blocks are compared and aliased, and what is left is trained on. Candidates come
from locality-sensitive hashes for the Euclidean distance; a block is aliased to the earlier one
where a share ``similarity`` of its elements is within a tolerance. Under a budget the tolerance is
the smallest that leaves few enough blocks. Vocabularies are ranked by frequency, so the kept block
is that of the more frequent ids.

Sources: Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases",
VLDB 2022, arXiv:2201.10442; the hashes: Datar et al., "Locality-Sensitive Hashing Scheme Based on
p-Stable Distributions", SoCG 2004.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableContent,
    TableFeature,
    int_buffer,
    num_ids,
    spread,
)
from recemb.tables.numbered import NumberedIds

FUNCTIONS = 90
"""Hash functions, as published."""
BAND = 3
"""Functions that two blocks must agree in to be compared: 30 bands of 3."""
BUCKET = 9.0
"""Width of a hash bucket in tolerances (published: .09 and .01)."""
HALVINGS = 24
"""Of the search for a tolerance."""
_ODD = torch.tensor([1, 0x9E3779B97F4A7C1, 0x3C6EF372FE94F82B])


@dataclass(frozen=True, kw_only=True, slots=True)
class Deduplicated(TableConfig):
    """A plain table of which ``num_blocks`` blocks are kept."""

    kind: Literal["deduplicated"] = "deduplicated"
    """The name of the kind."""
    num_blocks: int | None = None
    """Blocks kept, at least 1; a share or a budget may choose it. None: as the tolerance has it."""
    rows_per_block: int = 1
    """R, at least 1."""
    tolerance: float = 0.01
    """Largest difference of two elements that count as equal, where num_blocks is not given."""
    similarity: float = 0.7
    """Share of equal elements from which a block is aliased, above 0 and at most 1."""
    after_epochs: int = 1
    """Training epochs before blocks are compared, at least 1."""
    is_cut: bool = False
    """Whether only the kept blocks are stored, as in the served form."""

    searched: ClassVar[str] = "num_blocks"
    formula: ClassVar[str] = "E[map[id div R] R + id mod R]"
    memory: ClassVar[str] = "served: kept blocks x R x dim, and the map; trained: ids x dim"
    paper: ClassVar[str] = "Zhou et al. 2022, arXiv:2201.10442"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        for name in ("num_blocks", "rows_per_block", "after_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecembError(f"{where}: {name} must be at least 1, got {value}")
        if not 0 < self.similarity <= 1:
            raise RecembError(
                f"{where}: similarity must be above 0 and at most 1, got {self.similarity}"
            )
        if not self.tolerance > 0:
            raise RecembError(f"{where}: tolerance must be above 0, got {self.tolerance}")

    def with_defaults(self, where: str) -> "Deduplicated":
        """Return itself: without a number of blocks the tolerance decides."""
        return self

    def total_blocks(self, where: str, spaces: Sequence[IdSpace]) -> int:
        """Return how many blocks the ids fill."""
        return -(-num_ids(where, self, spaces) // self.rows_per_block)

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``; in the served form, of kept blocks only."""
        total = self.total_blocks(where, spaces)
        if self.is_cut and self.num_blocks is not None:
            total = self.num_blocks
        rows = self.part(total * self.rows_per_block, self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the map."""
        total = self.total_blocks(where, spaces)
        kept = self.num_blocks if self.is_cut and self.num_blocks is not None else total
        return BlockMap(total, kept)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the numbers of kept blocks."""
        return range(1, self.total_blocks(where, spaces) + 1)

    def build(self, features: Sequence[TableFeature]) -> "DeduplicatedKind":
        """Return the module for ``features``."""
        return DeduplicatedKind(features)

    def served(self, where: str, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the configuration that stores kept blocks only."""
        return replace(self, is_cut=True)

    def to_served(
        self, where: str, spaces: Sequence[IdSpace], content: TableContent
    ) -> TableContent:
        """Keep the blocks that the map names."""
        assert isinstance(content.learned, BlockMap)
        if self.is_cut:
            return content
        block_of = content.learned.block_of_M
        kept_K, new_M = torch.unique(block_of.to(torch.int64), return_inverse=True)
        first_K1 = kept_K.unsqueeze(1) * self.rows_per_block
        row_K = (first_K1 + torch.arange(self.rows_per_block, device=kept_K.device)).flatten()
        config = replace(self, is_cut=True, num_blocks=len(kept_K))
        block_map = BlockMap(len(new_M), len(kept_K))
        block_map.block_of_M.copy_(new_M)
        block_map.is_merged.fill_(True)
        return TableContent(config=config, values={}, learned=block_map, selected={"rows": row_K})

    def start_epoch(self, epoch: int, content: TableContent) -> None:
        """Compare and alias blocks once, before epoch ``after_epochs``."""
        block_map = content.learned
        assert isinstance(block_map, BlockMap)
        if epoch < self.after_epochs or bool(block_map.is_merged):
            return
        blocks_BX = content.values["rows"].unflatten(0, (-1, self.rows_per_block)).flatten(1)
        found = merge_to(blocks_BX, self.num_blocks, self.tolerance, self.similarity)
        block_map.block_of_M.copy_(found)
        block_map.is_merged.fill_(True)

    def is_final(self, learned: nn.Module | None) -> bool:
        """Return whether blocks have been aliased."""
        assert isinstance(learned, BlockMap)
        return bool(learned.is_merged)


class BlockMap(nn.Module):
    """Which block stands for each block: two bytes each, or four where that is too few."""

    block_of_M: Tensor
    is_merged: Tensor

    def __init__(self, num_blocks: int, num_kept: int) -> None:
        super().__init__()
        dtype = torch.int16 if num_kept < 2**15 else torch.int32
        self.register_buffer(
            "block_of_M", torch.arange(num_blocks).clamp(max=num_kept - 1).to(dtype)
        )
        self.register_buffer("is_merged", torch.tensor(False))


def merge_to(
    blocks_BX: Tensor, num_kept: int | None, tolerance: float, similarity: float
) -> Tensor:
    """Return for each block the one that stands for it.

    Args:
        blocks_BX: B blocks of X elements.
        num_kept: The most blocks to keep; the smallest sufficient tolerance is searched. None: use
            ``tolerance``.
        tolerance: Largest difference of equal elements.
        similarity: Share of equal elements that makes two blocks one.
    """
    if num_kept is None:
        return merge(blocks_BX, tolerance, similarity)
    # Everything is equal within the range of the values.
    high = float(blocks_BX.max() - blocks_BX.min()) + 1e-12
    low = 0.0
    best = torch.zeros(len(blocks_BX), dtype=torch.int64, device=blocks_BX.device)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = merge(blocks_BX, middle, similarity)
        if len(found.unique()) <= num_kept:
            best, high = found, middle
        else:
            low = middle
    # A little more tolerance may merge many more at once. What is left of the budget goes to the
    # blocks that differ most from what stands for them.
    left = num_kept - len(best.unique())
    distance_B = (blocks_BX - blocks_BX[best]).square().sum(1)
    apart_K = distance_B.topk(min(left, len(best))).indices
    apart_K = apart_K[distance_B[apart_K] > 0]
    best[apart_K] = apart_K
    return best


def merge(blocks_BX: Tensor, tolerance: float, similarity: float) -> Tensor:
    """Return for each block the first similar one, which is its own; see :func:`merge_to`."""
    count, width = blocks_BX.shape
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(width, FUNCTIONS, generator=generator).to(blocks_BX.device)
    offset = torch.rand(FUNCTIONS, generator=generator).to(blocks_BX.device)
    bucket = BUCKET * max(tolerance, 1e-30)
    hashed_BF = (blocks_BX @ normal / bucket + offset).floor().to(torch.int64)
    own_B = torch.arange(count, device=blocks_BX.device)
    stands_B = own_B.clone()
    for band in hashed_BF.split(BAND, 1):
        # One number for the functions of a band: whatever falls together is compared below.
        odd = _ODD[: band.shape[1]].to(band.device)
        _, key_B = torch.unique((band * odd).sum(1), return_inverse=True)
        # A block that is aliased already may no longer stand for others.
        is_kept_B = stands_B == own_B
        first_K = torch.full((int(key_B.max()) + 1,), count, device=key_B.device)
        first_K.scatter_reduce_(0, key_B, torch.where(is_kept_B, own_B, count), "amin")
        first_B = first_K[key_B].clamp(max=count - 1)
        near_B = (blocks_BX - blocks_BX[first_B]).abs().le(tolerance).float().mean(1) >= similarity
        joins_B = is_kept_B & near_B & (first_B < own_B)
        # One that others stand on already stays, so that chains never form.
        is_used = torch.zeros(count, dtype=torch.bool, device=key_B.device)
        is_used[stands_B[stands_B != own_B]] = True
        stands_B = torch.where(joins_B & ~is_used, first_B, stands_B)
    return stands_B


class DeduplicatedKind(NumberedIds):
    """Looks the block of an id up in its table's map."""

    base_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        bases = int_buffer([feature.base_rows[0] for feature in features])
        self.register_buffer("base_F", bases, persistent=False)
        sizes = [cast(Deduplicated, feature.config).rows_per_block for feature in features]
        self.register_buffer("rows_F", int_buffer(sizes), persistent=False)
        # The maps of all tables lie one after the other; here is where each one starts.
        self._maps = list({id(f.learned): cast(BlockMap, f.learned) for f in features}.values())
        starts, start = {}, 0
        for one in self._maps:
            starts[id(one)] = start
            start += len(one.block_of_M)
        first = int_buffer([starts[id(feature.learned)] for feature in features])
        self.register_buffer("map_F", first, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the row in the block that stands for the id's."""
        number_N = self.numbers(ids_N, feature_N)
        rows_N = spread(self.get_buffer("rows_F"), feature_N)
        block_N = torch.div(number_N, rows_N, rounding_mode="floor")
        maps = [one.block_of_M for one in self._maps]
        block_of = maps[0] if len(maps) == 1 else torch.cat([one.to(torch.int64) for one in maps])
        stands_N = block_of[block_N + spread(self.get_buffer("map_F"), feature_N)].to(torch.int64)
        return (stands_N * rows_N + (number_N - block_N * rows_N) + spread(self.base_F, feature_N),)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows as they are."""
        return parts[0].squeeze(1)
