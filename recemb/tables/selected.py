"""Selected: of each frequency block of ids only some dimensions are stored, and of ids only some.

    vector[keep[b]] = E_b[row of id], b the block of the id; 0 elsewhere, and for dropped ids
    bytes = sum_b ids of b * len(keep[b]) * 4 (fp32), and ids * 2 of map where ids are dropped (4
    from 32,768 rows of a block on)

What a search of dimensions leaves (``recemb search``): plain tables, one per block, that are
trained, sharded and served as any other. Under a budget without a search all blocks keep their
first dimensions, equally many, frequent blocks one more.

Source: the form is that of Cheng et al., "Differentiable Neural Input Search for Recommender
Systems", 2020, arXiv:2006.04466; dropped ids are those of Lyu et al., "OptEmbed", CIKM 2022,
arXiv:2208.04482.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.flags import unpacked
from recemb.tables.frequency_blocks import block_sizes, block_starts, check_ends, ranks, starts_of
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    PartialReads,
    TableConfig,
    TableFeature,
    int_buffer,
    num_ids,
)
from recemb.tables.numbered import NumberedIds


@dataclass(frozen=True, kw_only=True, slots=True)
class Selected(TableConfig):
    """A plain table per frequency block, of the dimensions that the block keeps."""

    kind: Literal["selected"] = "selected"
    """The name of the kind."""
    ends: list[int] | None = None
    """Ranks by falling training frequency at which blocks end, ascending; the last block, one more
    than there are ends, has the rest of the ids. None: one block."""
    keep: list[list[int]] | None = None
    """The dimensions that each block keeps, ascending, in 0..dim-1, perhaps none; a share or a
    budget may choose them."""
    kept_ids: str | None = None
    """Which ids have rows, as :func:`recemb.tables.flags.packed` writes it (None: all)."""

    searched: ClassVar[str] = "keep"
    formula: ClassVar[str] = "E_b[id] in the dimensions that block b of the id keeps, 0 elsewhere"
    memory: ClassVar[str] = "sum over blocks of ids x kept dimensions, and a map if ids are dropped"
    paper: ClassVar[str] = "Cheng et al. 2020, arXiv:2006.04466; Lyu et al. 2022, arXiv:2208.04482"

    @property
    def all_ends(self) -> list[int]:
        """The ends of blocks; none where there is one block."""
        return self.ends or []

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_ends(where, self.all_ends)
        if self.keep is None:
            return
        if len(self.keep) != len(self.all_ends) + 1:
            raise RecembError(
                f"{where}: keep must have a list for each of the {len(self.all_ends) + 1} blocks "
                f"that ends makes, got {len(self.keep)}"
            )
        for kept in self.keep:
            if kept != sorted(set(kept)) or (kept and not 0 <= kept[0] <= kept[-1] < self.dim):
                raise RecembError(
                    f"{where}: keep must be dimensions in 0..{self.dim - 1}, ascending, got {kept}"
                )

    @property
    def kept_dims(self) -> list[list[int]]:
        """The dimensions of each block; of a solved configuration."""
        assert self.keep is not None
        return self.keep

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return a part for each block that keeps a dimension, under its number."""
        sizes = block_sizes(where, self, spaces, self.all_ends)
        if self.kept_ids is not None:
            is_kept_V = unpacked(f"{where}: kept_ids", self.kept_ids, num_ids(where, self, spaces))
            block_V = ranks(where, spaces, self.all_ends)[is_kept_V]
            sizes = torch.bincount(block_V, minlength=len(sizes)).tolist()
        return {
            str(block): self.part(size, len(kept), Uniform(self.init_scale))
            for block, (size, kept) in enumerate(zip(sizes, self.kept_dims, strict=True))
            if kept and size
        }

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the map from ids to rows where ids are dropped."""
        if self.kept_ids is None:
            return None
        return RowMap(row_of_each(where, self, spaces))

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return first dimensions: block after block one more, the frequent ones first."""
        blocks = len(block_sizes(where, self, spaces, self.all_ends))
        return [
            [list(range(count // blocks + (block < count % blocks))) for block in range(blocks)]
            for count in range(1, blocks * self.dim + 1)
        ]

    def share_of_reads(self, part: str, space: IdSpace, spaces: Sequence[IdSpace]) -> float:
        """Return the share of training reads of ids of a block; of ids, where none are counted."""
        where = f"id space {space.name!r}"
        place = [one.name for one in spaces].index(space.name)
        starts = block_starts(where, spaces, self.all_ends)[place]
        first, end = starts[int(part)], starts[int(part) + 1]
        read_V = torch.zeros(space.num_ids or 0)
        if space.counts_V is None:
            read_V += 1
        else:
            read_V[: len(space.counts_V)] = space.counts_V.float()
        total = float(read_V.sum())
        if self.kept_ids is not None:
            all_ids = num_ids(where, self, spaces)
            before = sum(one.num_ids or 0 for one in spaces[:place])
            is_kept_V = unpacked(f"{where}: kept_ids", self.kept_ids, all_ids)
            read_V = read_V * is_kept_V[before : before + len(read_V)]
        return float(read_V[first:end].sum()) / total if total else 0.0

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where blocks keep the same."""
        return self.dim, tuple(map(tuple, self.kept_dims))

    def build(self, features: Sequence[TableFeature]) -> "SelectedKind":
        """Return the module for ``features``."""
        return SelectedKind(features)


def row_of_each(where: str, config: Selected, spaces: Sequence[IdSpace]) -> Tensor:
    """Return the row that each id of a table has in its block, by its number; -1 for none: (V,)."""
    # Not on the meta device, where a module may be built: the numbers themselves are needed.
    with torch.device("cpu"):
        block_V = ranks(where, spaces, config.all_ends)
        is_kept_V = torch.ones_like(block_V, dtype=torch.bool)
        if config.kept_ids is not None:
            is_kept_V = unpacked(f"{where}: kept_ids", config.kept_ids, len(block_V))
        row_V = torch.full_like(block_V, -1)
        for block, kept in enumerate(config.kept_dims):
            own_V = is_kept_V & (block_V == block)
            if kept:
                row_V[own_V] = torch.arange(int(own_V.sum()))
    return row_V


class RowMap(nn.Module):
    """The row of each id of a table in its block; -1 for none."""

    row_V: Tensor

    def __init__(self, row_V: Tensor) -> None:
        super().__init__()
        largest = int(row_V.max()) if len(row_V) else 0
        self.register_buffer("row_V", row_V.to(torch.int16 if largest < 2**15 else torch.int32))


class SelectedKind(NumberedIds):
    """Reads the table of an id's block, and writes its row into zeros.

    Shapes: P parts; F features, N ids.
    """

    first_PF: Tensor
    """Per part, the first id of its block in the feature's id space."""
    end_PF: Tensor
    """The id after its last one."""
    base_PF: Tensor
    """What is added to an id's place among the block's ids of its space, or to its mapped row."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        self.parts = features[0].parts
        self.number_of = {feature.name: number for number, feature in enumerate(features)}
        widest = max(feature.config.dim for feature in features)
        # Where a dimension is in a row; where it is not kept, the zero that is put after each row.
        column_FPD = torch.empty(len(features), len(self.parts), widest, dtype=torch.int64)
        columns: dict[str, list[list[int]]] = {"first_PF": [], "end_PF": [], "base_PF": []}
        for number, feature in enumerate(features):
            config = cast(Selected, feature.config)
            starts = starts_of(feature, config.all_ends)
            where = f"table {feature.table!r}"
            blocks = [int(part) for part in config.physical_tables(where, feature.spaces)]
            for part, block in enumerate(blocks):
                kept = config.kept_dims[block]
                column_FPD[number, part] = len(kept)
                column_FPD[number, part, kept] = torch.arange(len(kept))
            columns["first_PF"].append([starts[block] for block in blocks])
            columns["end_PF"].append([starts[block + 1] for block in blocks])
            before = [0] * len(starts)
            if config.kept_ids is None and feature.spaces_before:
                for own in block_starts(where, feature.spaces, config.all_ends)[
                    : len(feature.spaces_before)
                ]:
                    before = [one + end for one, end in zip(before, own, strict=True)]
            columns["base_PF"].append(
                [
                    base + before[block + 1] - before[block]
                    for base, block in zip(feature.base_rows, blocks, strict=True)
                ]
            )
        for name, values in columns.items():
            buffer = torch.tensor(values, dtype=torch.int64).T.contiguous()
            self.register_buffer(name, buffer, persistent=False)
        self.register_buffer("column_FPD", column_FPD, persistent=False)
        self.column_FPD: Tensor
        # The maps of all tables that have one lie one after the other; -1 for a feature without.
        self._maps = list({id(f.learned): f.learned for f in features if f.learned}.values())
        offsets, start = {id(None): -1}, 0
        for one in self._maps:
            offsets[id(one)] = start
            start += len(cast(RowMap, one).row_V)
        self.num_mapped = start
        offset = int_buffer([offsets[id(feature.learned)] for feature in features])
        self.register_buffer("map_F", offset, persistent=False)
        self.map_F: Tensor

    def _reads(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row that an id has in each part, and whether it has one: (P, N) both."""
        first_PN = self.first_PF[:, feature_N]
        is_read_PN = (ids_N >= first_PN) & (ids_N < self.end_PF[:, feature_N])
        row_PN = ids_N - first_PN
        if self._maps:
            maps = [cast(RowMap, one).row_V for one in self._maps]
            row_V = maps[0] if len(maps) == 1 else torch.cat([one.to(torch.int64) for one in maps])
            map_N = self.map_F[feature_N]
            place_N = (ids_N + self.first_id_F[feature_N] + map_N).clamp(
                min=0, max=self.num_mapped - 1
            )
            mapped_N = row_V[place_N].to(torch.int64)
            row_PN = torch.where(map_N >= 0, mapped_N, row_PN)
            is_read_PN = is_read_PN & (row_PN >= 0)
        return row_PN + self.base_PF[:, feature_N], is_read_PN

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[PartialReads, ...]:
        """Return, per part, the rows of the ids whose block it holds."""
        self.check_ids(ids_N, feature_N)
        row_PN, is_read_PN = self._reads(ids_N, feature_N)
        return tuple(
            PartialReads(row_PN[part][is_read_PN[part]], is_read_PN[part])
            for part in range(len(self.parts))
        )

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return vectors that are 0 but for the dimensions that the id's block keeps."""
        config = cast(Selected, feature.config)
        _, is_read_PN = self._reads(ids.ids_N, ids.feature_N)
        column_PD = self.column_FPD[self.number_of[feature.name], :, : config.dim]
        zero_1D = torch.zeros(1, config.dim, device=ids.ids_N.device)
        rows = [
            F.pad(part.squeeze(1), (0, 1)).index_select(1, column_PD[number])
            for number, part in enumerate(parts)
        ]
        # Rows come part by part, and within a part in the order of ids: an id's place is the number
        # of reads before its own. The last row is for those without one.
        place_PN = (is_read_PN.flatten().cumsum(0) - 1).view(is_read_PN.shape)
        none_N = (~is_read_PN.any(0)) * is_read_PN.sum()
        place_N = (place_PN * is_read_PN).sum(0) + none_N
        return torch.cat([*rows, zero_1D]).index_select(0, place_N)
