"""Embeddings: where table kinds and the rows store meet.

    ids --encode--> row numbers --gather--> row vectors --compose--> one vector per id --pool--> bag

Planning (which features go through which encode, gather and pool together) happens once, in the
constructor; a forward pass only executes the plan. Features of one kind whose parts are equally
wide form a *group* and are encoded and gathered together; within a group, features whose vectors
are composed and pooled alike form a *block*.

Shapes: F features of a group, N ids of a group or block, B bags per feature, D per vector.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.features import Feature
from recemb.jagged import Jagged, sizes_of, split_rows
from recemb.physical import PhysicalTable
from recemb.pooling import Pooling, pool
from recemb.rows.store import RowsStore
from recemb.tables.kind import IdSpace, TableConfig, TableFeature

Ids = Tensor | Jagged
"""One id per sample, (B,) int64; or a bag of ids per sample."""
Vectors = Tensor | Jagged
"""One vector per sample, (B, D); or, unpooled, a sequence of vectors per sample."""
StoreFactory = Callable[[dict[str, PhysicalTable]], RowsStore]
"""Makes the rows store for the physical tables that the kinds ask for."""


class Embeddings(nn.Module):
    """Turn the ids of all features into vectors.

    Args:
        tables: Table configurations by name.
        features: Which features read them (:func:`recemb.features.resolve_features`).
        make_store: Called once with every physical table.

    Raises:
        RecembError: If a table's settings are out of range or do not fit its features.

    Attributes:
        rows: The rows store. After a backward pass, call ``rows.step()``.
        dims: D of each feature.
        physical_of: The physical tables of each table.
    """

    def __init__(
        self,
        tables: Mapping[str, TableConfig],
        features: Sequence[Feature],
        make_store: StoreFactory,
    ) -> None:
        super().__init__()
        self.tables = dict(tables)
        parts = {name: _physical_tables(name, config, features) for name, config in tables.items()}
        self.physical_of = {name: tuple(named) for name, named in parts.items()}
        self.rows = make_store({key: one for named in parts.values() for key, one in named.items()})
        self.dims = {
            feature.name: tables[feature.config.table].output_dim(feature.config.lookups)
            for feature in features
        }
        members: dict[Hashable, list[_Member]] = {}
        for feature in features:
            member = self._member(feature, parts[feature.config.table])
            widths = tuple(part.dim for part in member.feature.parts)
            members.setdefault((type(member.feature.config), widths), []).append(member)
        self.groups = nn.ModuleList(_Group(group) for group in members.values())

    def _member(self, feature: Feature, parts: Mapping[str, PhysicalTable]) -> "_Member":
        table_feature = TableFeature(
            name=feature.name,
            table=feature.config.table,
            config=self.tables[feature.config.table],
            space=feature.space,
            lookups=feature.config.lookups,
            parts=tuple(parts.values()),
            base_rows=tuple(self.rows.base_row(name) for name in parts),
        )
        form = feature.config.pooling if feature.is_list else "one"
        return _Member(table_feature, form, tuple(parts))

    def forward(self, ids: Mapping[str, Ids]) -> dict[str, Vectors]:
        """Return the vectors of each feature.

        Args:
            ids: For each feature its ids: a tensor where a sample has one id, a
                :class:`~recemb.jagged.Jagged` where it has a bag. The number of samples may differ
                between features.

        Returns:
            Per feature (B, D), pooled; or a ``Jagged`` of vectors where its pooling is ``none``.

        Raises:
            RecembError: If the ids of a feature are missing.
        """
        missing = [name for name in self.dims if name not in ids]
        if missing:
            raise RecembError(f"feature {missing[0]!r}: its ids are missing, got {sorted(ids)}")
        vectors: dict[str, Vectors] = {}
        for group in self.groups:
            vectors.update(group(ids, self.rows))
        return vectors


def _physical_tables(
    table: str, config: TableConfig, features: Sequence[Feature]
) -> dict[str, PhysicalTable]:
    """Return the parts of a table under the names that a rows store knows them by."""
    where = f"table {table!r}"
    config.check(where)
    readers = [feature.space for feature in features if feature.config.table == table]
    spaces: dict[str, IdSpace] = {space.name: space for space in readers}
    parts = config.physical_tables(where, list(spaces.values()))
    if len(parts) == 1:
        return {table: next(iter(parts.values()))}
    return {f"{table}.{part}": physical for part, physical in parts.items()}


@dataclass(frozen=True, slots=True)
class _Member:
    """A feature in its group: how it is read and what happens to its bags."""

    feature: TableFeature
    form: str
    """``one`` (an id per sample) or the pooling of bags."""
    physical: tuple[str, ...]

    @property
    def block_key(self) -> tuple[Hashable, str]:
        return self.feature.config.signature(self.feature.lookups), self.form


class _Group(nn.Module):
    """Features that are encoded and gathered together, block by block."""

    def __init__(self, members: Sequence[_Member]) -> None:
        super().__init__()
        members = sorted(members, key=lambda member: repr(member.block_key))
        self.kind = members[0].feature.config.build([member.feature for member in members])
        self.names = [member.feature.name for member in members]
        self.part_tables = list(zip(*(member.physical for member in members), strict=True))
        self.blocks = [list(block) for _, block in groupby(members, key=lambda m: m.block_key)]
        reads = torch.tensor([member.feature.reads for member in members])
        self.register_buffer("reads_F", reads, persistent=False)
        self.reads_F: Tensor
        last = torch.tensor([len(block) for block in self.blocks]).cumsum(0) - 1
        self.register_buffer("last_of_block", last, persistent=False)
        self.last_of_block: Tensor

    def forward(self, ids: Mapping[str, Ids], rows: RowsStore) -> dict[str, Vectors]:
        asked = [ids[name] for name in self.names]
        values = [one if isinstance(one, Tensor) else one.values for one in asked]
        sizes_F = sizes_of(values)
        feature_N = torch.repeat_interleave(
            torch.arange(len(values), device=sizes_F.device), sizes_F
        )
        read_sizes_F = sizes_F * self.reads_F
        parts = [
            rows.gather(tables, rows_T, read_sizes_F)
            for tables, rows_T in zip(
                self.part_tables, self.kind.encode(torch.cat(values), feature_N), strict=True
            )
        ]
        vectors: dict[str, Vectors] = {}
        block_parts = self._split_blocks(parts, read_sizes_F)
        for block, own_parts in zip(self.blocks, block_parts, strict=True):
            vectors.update(self._finish(block, own_parts, ids))
        return vectors

    def _split_blocks(self, parts: list[Tensor], read_sizes_F: Tensor) -> list[list[Tensor]]:
        """Cut the gathered rows of each part into those of each block."""
        if len(self.blocks) == 1:
            return [parts]
        totals = read_sizes_F.cumsum(0)[self.last_of_block]
        sizes = torch.cat([totals[:1], totals[1:] - totals[:-1]])
        return [list(cut) for cut in zip(*(split_rows(part, sizes) for part in parts), strict=True)]

    def _finish(
        self, block: list[_Member], parts: list[Tensor], ids: Mapping[str, Ids]
    ) -> dict[str, Vectors]:
        """Compose a block's vectors, pool its bags, and cut the result by feature."""
        first = block[0]
        names = [member.feature.name for member in block]
        shaped = tuple(part.unflatten(0, (-1, first.feature.reads)) for part in parts)
        vectors_ND = self.kind.compose(shaped, first.feature)
        asked = [ids[name] for name in names]
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
        pooled = pool(Jagged(vectors_ND, lengths), cast(Pooling, first.form))
        sizes = sizes_of([bag.lengths for bag in bags])
        return dict(zip(names, split_rows(pooled, sizes), strict=True))
