"""Feature groups: the features that are encoded and gathered together, and how that is done.

Features of one kind whose parts have the same form make a *group*; within it, features whose
vectors are composed and pooled alike make a *block*.

Shapes: F features of a group, N ids of a group or block, B bags per feature, D per vector.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from recemb.asked import check_forms
from recemb.jagged import Ids, Jagged, Vectors, is_tracing, sizes_of, split_rows
from recemb.pooling import Pooling, pool
from recemb.rows.store import RowsStore
from recemb.tables.kind import BlockIds, PartialReads, TableFeature, TableKind, distinct


@dataclass(frozen=True, slots=True)
class Member:
    """A feature in its group: how it is read and what happens to its bags."""

    feature: TableFeature
    form: str
    """``one`` (an id per sample) or the pooling of bags."""
    physical: tuple[str, ...]
    projection: nn.Module | None

    @property
    def block_key(self) -> Hashable:
        """What the features of a block have in common."""
        own = self.feature
        has_own = own.learned is not None or self.projection is not None
        apart = own.table if has_own else None, own.config.composed_by(own.space)
        return own.config.signature(own.lookups), own.reads, self.form, apart


class FeatureGroup(nn.Module):
    """Features that are encoded and gathered together, block by block."""

    def __init__(self, members: Sequence[Member]) -> None:
        super().__init__()
        members = sorted(members, key=lambda member: repr(member.block_key))
        self.kind: TableKind = members[0].feature.config.build([one.feature for one in members])
        self.names = [member.feature.name for member in members]
        self.are_lists = [member.form != "one" for member in members]
        self.part_tables = list(zip(*(member.physical for member in members), strict=True))
        self.blocks = [list(block) for _, block in groupby(members, key=lambda m: m.block_key)]
        reads = [member.feature.reads for member in members]
        self.num_parts = len(reads[0])
        self.register_buffer("reads_PF", torch.tensor(reads).T.contiguous(), persistent=False)
        self.reads_PF: Tensor
        last = torch.tensor([len(block) for block in self.blocks]).cumsum(0) - 1
        self.register_buffer("last_of_block", last, persistent=False)
        self.last_of_block: Tensor

    def forward(
        self, ids: Mapping[str, Ids], rows: RowsStore, weights: Mapping[str, Tensor]
    ) -> dict[str, Vectors]:
        """Return the vectors of each of the group's features.

        Raises:
            RecembError: If ids are of another form than their feature's, or outside its space.
        """
        if not is_tracing():  # a traced program checks its inputs itself
            check_forms(self.names, self.are_lists, ids, self.reads_PF.device)
        asked = [ids[name] for name in self.names]
        values = [one if isinstance(one, Tensor) else one.values for one in asked]
        ids_N, sizes_F = torch.cat(values), sizes_of(values)
        if ids_N.dtype != torch.int64:
            ids_N = ids_N.to(torch.int64)
        feature_F1 = torch.arange(len(values), device=sizes_F.device).unsqueeze(1)
        is_even = not is_tracing() and len({len(one) for one in values}) == 1
        if is_even:
            # One id per sample: constants of features broadcast, see TableKind.encode.
            ids_N = ids_N.view(len(values), len(values[0]))
            feature_N = feature_F1.expand_as(ids_N).reshape(-1)
        else:
            feature_N = torch.repeat_interleave(feature_F1.squeeze(1), sizes_F)
        places: list[Tensor | None] = [None] * len(self.blocks)
        if self.kind.is_costly and not is_tracing():
            ids_N, feature_N, place_N = distinct(ids_N.flatten(), feature_N)
            given_F, sizes_F = sizes_F, torch.bincount(feature_N, minlength=len(values))
            rows_PT = self.kind.encode(ids_N, feature_N)
            places = self._places(place_N, given_F, sizes_F)
        else:
            rows_PT = self.kind.encode(ids_N, feature_F1 if is_even else feature_N)
            ids_N = ids_N.flatten()
        cuts = [self._split_blocks(ids_N, sizes_F), self._split_blocks(feature_N, sizes_F)]
        for part, read in enumerate(rows_PT):
            if isinstance(read, PartialReads):
                rows_T, is_read_N = read.rows_T, read.is_read_N.reshape(-1)
                read_sizes_F = torch.zeros_like(sizes_F)
                read_sizes_F = read_sizes_F.index_add(0, feature_N, is_read_N.to(sizes_F.dtype))
            else:
                rows_T, read_sizes_F = read, sizes_F * self.reads_PF[part]
            gathered = rows.gather(self.part_tables[part], rows_T.reshape(-1), read_sizes_F)
            cuts.append(self._split_blocks(gathered, read_sizes_F))
        vectors: dict[str, Vectors] = {}
        for block, place, own_ids_N, own_feature_N, *parts in zip(
            self.blocks, places, *cuts, strict=True
        ):
            own = BlockIds(own_ids_N, own_feature_N)
            vectors_ND = self._compose(block, own, parts)
            if place is not None:
                vectors_ND = vectors_ND.index_select(0, place)
            vectors.update(_cut_by_feature(block, vectors_ND, ids, weights))
        return vectors

    def rows_read(self, feature: str, ids_N: Tensor, rows: RowsStore) -> dict[str, Tensor]:
        """Return which rows ids of one feature read, by physical table: (N, reads per id) each.

        -1 where an id reads none.
        """
        number = self.names.index(feature)
        read_P = self.kind.encode(ids_N, torch.full_like(ids_N, number))
        physical = [names[number] for names in self.part_tables]
        found = {}
        for name, read in zip(physical, read_P, strict=True):
            if isinstance(read, PartialReads):
                rows_N = torch.full_like(ids_N, -1)
                rows_N[read.is_read_N] = read.rows_T - rows.base_row(name)
                found[name] = rows_N.unsqueeze(1)
            else:
                found[name] = read.reshape(ids_N.shape[0], -1) - rows.base_row(name)
        return found

    def _places(self, place_N: Tensor, given_F: Tensor, sizes_F: Tensor) -> list[Tensor | None]:
        """Return, per block, where each given id is among the block's distinct ones."""
        ends = sizes_F.cumsum(0)[self.last_of_block].tolist()
        starts = [0, *ends[:-1]]
        cut = self._split_blocks(place_N, given_F)
        return [place - start for place, start in zip(cut, starts, strict=True)]

    def _split_blocks(self, values: Tensor, sizes_F: Tensor) -> list[Tensor]:
        """Cut what the features have into what each block has."""
        if len(self.blocks) == 1:
            return [values]
        totals = sizes_F.cumsum(0)[self.last_of_block]
        return split_rows(values, torch.cat([totals[:1], totals[1:] - totals[:-1]]))

    def _compose(self, block: list[Member], own: BlockIds, parts: list[Tensor]) -> Tensor:
        """Return the (N, D) vectors of a block's ids."""
        first = block[0]
        shaped = tuple(
            part.unflatten(0, (-1, reads))
            for part, reads in zip(parts, first.feature.reads, strict=True)
        )
        vectors_ND = self.kind.compose(shaped, first.feature, own)
        if first.projection is not None:
            vectors_ND = first.projection(vectors_ND)
        return vectors_ND


def _cut_by_feature(
    block: list[Member],
    vectors_ND: Tensor,
    ids: Mapping[str, Ids],
    weights: Mapping[str, Tensor],
) -> dict[str, Vectors]:
    """Pool a block's bags and return what each feature gets."""
    first = block[0]
    names = [member.feature.name for member in block]
    asked = [ids[name] for name in names]
    weights_N = _weights(names, asked, weights, vectors_ND.dtype)
    if weights_N is not None and first.form != "mean":
        vectors_ND = vectors_ND * weights_N.unsqueeze(1)
    if first.form == "one":
        tensors = [cast(Tensor, one) for one in asked]
        return dict(zip(names, split_rows(vectors_ND, sizes_of(tensors)), strict=True))
    bags = [cast(Jagged, one) for one in asked]
    if first.form == "none":
        cut = split_rows(vectors_ND, sizes_of([bag.values for bag in bags]))
        return {
            name: Jagged(values, bag.lengths)
            for name, values, bag in zip(names, cut, bags, strict=True)
        }
    lengths = torch.cat([bag.lengths for bag in bags])
    pooled = pool(Jagged(vectors_ND, lengths), cast(Pooling, first.form), weights_N)
    sizes = sizes_of([bag.lengths for bag in bags])
    return dict(zip(names, split_rows(pooled, sizes), strict=True))


def _weights(
    names: Sequence[str], asked: Sequence[Ids], weights: Mapping[str, Tensor], dtype: torch.dtype
) -> Tensor | None:
    """Return the weights of a block's ids, 1 where a feature has none; None where none has."""
    if not any(name in weights for name in names):
        return None
    parts = []
    for name, ids in zip(names, asked, strict=True):
        values = ids.values if isinstance(ids, Jagged) else ids
        ones = torch.ones(len(values), device=values.device)
        parts.append(weights.get(name, ones).to(dtype))
    return torch.cat(parts)
