"""Dynamic: ids get rows while training, and lose them to hotter ones; there is no vocabulary.

    vector = E[row of id] for admitted ids, else S[h(id)]
    served: num_rows * dim * 4 bytes (fp32) + 8 for each row of an id's own (its key)

Any 64-bit number is an id. An id that has no row of its own reads one of a few shared rows, by a
stable hash. It is *admitted* after ``admit_after`` reads; its row then begins with the vector of
the shared row that it has read until now, so that what it means does not jump, and without
optimizer state. Once all rows are taken, the hottest candidates replace the coldest ids, each only
if it is hotter. *Heat* is the number of reads in training, of which every maintenance leaves the
share ``decay``: least frequently used, with ageing.

How memory is bounded: what is not admitted is counted in ``num_candidates`` slots. An id has one
slot, by a hash; its reads add to the slot's count where the slot is its own, and take from it where
it is another id's, which loses the slot when nothing is left. So a count is never more than the
reads of its id, and no id is admitted too early.

Every process holds the same map: each step they tell each other the distinct ids that they have
read and how often, and the rest is a function of that.

Looking an id up is a binary search among the sorted keys of its id space.

Sources: admission by frequency and expiry: Liu et al., "Monolith: Real Time Recommendation System
With Collisionless Embedding Table", ORSUM at RecSys 2022, arXiv:2209.07663; replacement of the
coldest: TorchRec's managed collisions ("zero collision hashing"); slots by majority vote: Tang et
al., "MV-Sketch", INFOCOM 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from recemb import collectives, processes
from recemb.errors import RecembError
from recemb.hashing import SMALL_ROWS, rows_of, salt_of
from recemb.jagged import is_tracing, split_rows
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.id_map import ChangingIds, KnownIds, Reads, search, tally
from recemb.tables.kind import (
    BlockIds,
    Handover,
    IdSpace,
    TableConfig,
    TableContent,
    TableFeature,
    TableKind,
    int_buffer,
    spread,
)

MAX_ROWS = 2**31 - 1
"""Rows are numbered by four bytes."""
KNOWN = -1
"""In place of an id space: ids that have rows, by the place of their keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dynamic(TableConfig):
    """``num_rows`` rows, of which a share is hashed into by ids that have none of their own."""

    kind: Literal["dynamic"] = "dynamic"
    """The name of the kind."""
    num_rows: int | None = None
    """Rows in all, at least 2; a share or a budget may choose it."""
    shared: float = 0.1
    """Share of the rows for ids without one, above 0 and below 1; at least one row."""
    admit_after: int = 2
    """Reads after which an id may have a row, at least 1."""
    every: int = 100
    """Training steps from one maintenance (admission, eviction, ageing) to the next, at least 1."""
    decay: float = 0.98
    """What a maintenance leaves of every count of reads, above 0 and at most 1 (all of it)."""
    num_candidates: int | None = None
    """Slots in which ids without a row are counted, at least 1; by default twice the rows."""
    num_known: int | None = None
    """Of the served form: how many ids have rows. Nothing is admitted or evicted then."""

    searched: ClassVar[str] = "num_rows"
    formula: ClassVar[str] = "E[row of id] for admitted ids, S[h(id)] for the rest"
    memory: ClassVar[str] = "rows x dim, and 8 bytes per id with a row; trained: 40 more"
    paper: ClassVar[str] = "Liu et al. 2022, arXiv:2209.07663 (admission, expiry)"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if self.num_rows is not None and not 2 <= self.num_rows <= MAX_ROWS:
            raise RecembError(f"{where}: num_rows must be in 2..{MAX_ROWS}, got {self.num_rows}")
        if not 0 < self.shared < 1:
            raise RecembError(
                f"{where}: shared must be above 0 and below 1, got {self.shared}; at 1 it is kind "
                "hashed"
            )
        for name in ("admit_after", "every", "num_candidates", "num_known"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecembError(f"{where}: {name} must be at least 1, got {value}")
        if not 0 < self.decay <= 1:
            raise RecembError(f"{where}: decay must be above 0 and at most 1, got {self.decay}")

    @property
    def num_shared(self) -> int:
        """Rows for ids without one."""
        assert self.num_rows is not None
        return min(self.num_rows - 1, max(1, round(self.shared * self.num_rows)))

    @property
    def num_own(self) -> int:
        """Rows that ids may have for themselves; of the served form, those that some have."""
        assert self.num_rows is not None
        return self.num_rows - self.num_shared if self.num_known is None else self.num_known

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: those of ids' own, then the shared ones."""
        rows = self.part(self.num_own + self.num_shared, self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return which ids have rows."""
        if self.num_known is not None:
            return KnownIds(self.num_known, len(spaces))
        return ChangingIds(
            self.num_own,
            len(spaces),
            num_slots=self.num_candidates or 2 * self.num_own,
            admit_after=self.admit_after,
            every=self.every,
            decay=self.decay,
        )

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return every number of rows."""
        return range(2, MAX_ROWS + 1)

    def build(self, features: Sequence[TableFeature]) -> "DynamicKind":
        """Return the module for ``features``."""
        return DynamicKind(features)

    def served(self, where: str, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the configuration without counts, as if every row had its id."""
        return self if self.num_known is not None else replace(self, num_known=self.num_own)

    def to_served(
        self, where: str, spaces: Sequence[IdSpace], content: TableContent
    ) -> TableContent:
        """Keep the rows that ids have, in the order of the keys, and the shared ones."""
        ids = content.learned
        if not isinstance(ids, ChangingIds):
            return content
        # Row 0 stays where nobody has one yet: a program cannot search among no keys.
        count = max(1, ids.num_known)
        known = KnownIds(count, len(spaces))
        known.key_K.copy_(ids.key_K[:count])
        known.end_S.copy_(ids.end_S)
        own_K = ids.row_K[:count].to(torch.int64)
        shared_K = torch.arange(self.num_own, self.num_own + self.num_shared, device=own_K.device)
        return TableContent(
            config=replace(self, num_known=count),
            values={},
            learned=known,
            selected={"rows": torch.cat([own_K, shared_K])},
        )

    def start_epoch(self, epoch: int, content: TableContent) -> None:
        """Report the reads of this epoch, and not of those before."""
        ids = content.learned
        # A run that goes on within an epoch begins it again, with what was counted before.
        if isinstance(ids, ChangingIds) and int(ids.epoch) != epoch:
            ids.epoch.fill_(epoch)
            ids.reads_2.zero_()

    def report(self, learned: nn.Module | None) -> dict[str, float]:
        """Return ids known, ids admitted and evicted so far, and the share of reads that hit.

        ``hits`` is the share of the reads in the current training epoch that found a row of the
        id's own; 0 before the first.
        """
        assert isinstance(learned, KnownIds)
        report: dict[str, float] = {"known": learned.num_known}
        if isinstance(learned, ChangingIds):
            reads, hits = learned.reads_2.tolist()
            admitted, evicted = learned.changes_2.tolist()
            share = round(hits / max(1, reads), 6)
            report |= {"admitted": admitted, "evicted": evicted, "hits": share}
        return report


class DynamicKind(TableKind):
    """Own rows for known ids, hashed ones for the others.

    A *segment* is an id space of a table; G of them, table after table.
    """

    segment_F: Tensor
    first_key_F: Tensor
    base_F: Tensor
    shared_first_F: Tensor
    num_shared_F: Tensor
    salt_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__()
        self.tables = {feature.table: feature for feature in features}
        # In a dictionary, past nn.Module's registration: they belong to the embeddings.
        self.ids = {table: cast(KnownIds, one.learned) for table, one in self.tables.items()}
        segments = [(table, space) for table, one in self.tables.items() for space in one.spaces]
        sizes = [ids.num_rows for ids in self.ids.values()]
        self.first_keys = dict(zip(self.tables, accumulate(sizes, initial=0), strict=False))
        self.num_keys, self.num_features = sum(sizes), len(features)
        configs = [cast(Dynamic, feature.config) for feature in features]
        bases = [feature.base_rows[0] for feature in features]
        for name, values in (
            ("segment_F", [segments.index((one.table, one.space)) for one in features]),
            ("first_key_F", [self.first_keys[feature.table] for feature in features]),
            ("base_F", bases),
            ("shared_first_F", [b + one.num_own for b, one in zip(bases, configs, strict=True)]),
            ("num_shared_F", [one.num_shared for one in configs]),
            ("salt_F", [salt_of(one.table, one.space.name, 0) for one in features]),
        ):
            self.register_buffer(name, int_buffer(values), persistent=False)
        self.is_small = all(one.num_shared <= SMALL_ROWS for one in configs)
        self._reads: list[tuple[Tensor, ...]] = []
        self._is_counted = True

    def set_form(self, number: int | None) -> None:
        """Count the reads of a batch in the first of its forms only."""
        self._is_counted = not number

    def _bounds(self) -> Tensor:
        """Return where the keys of each feature's segment begin and end: (F, 2)."""
        bounds = []
        for table, ids in self.ids.items():
            edge_S = torch.cat([ids.end_S.new_zeros(1), ids.end_S]) + self.first_keys[table]
            bounds.append(torch.stack([edge_S[:-1], edge_S[1:]], 1))
        return torch.cat(bounds)[self.segment_F]

    def _blocks(self, ids_N: Tensor, feature_N: Tensor) -> list[Tensor]:
        """Return the ids of each feature."""
        if feature_N.dim() == 2:
            return list(ids_N)
        return split_rows(ids_N, torch.bincount(feature_N, minlength=self.num_features))

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the row that an id has, or a shared one."""
        key_K = _joined([ids.key_K for ids in self.ids.values()])
        bounds_F2 = self._bounds()
        sections: list[tuple[Any, Any]] = (
            [(bounds_F2[f, 0], bounds_F2[f, 1]) for f in range(self.num_features)]
            if is_tracing()
            else bounds_F2.tolist()
        )
        place_N = search(key_K, sections, self._blocks(ids_N, feature_N)).view(ids_N.shape)
        is_known_N = place_N < spread(bounds_F2[:, 1], feature_N)
        is_known_N &= key_K[place_N.clamp(max=self.num_keys - 1)] == ids_N
        if self.training and torch.is_grad_enabled() and self._is_counted:
            segment_N = spread(self.segment_F, feature_N).expand_as(ids_N)
            read = (segment_N, ids_N, place_N, is_known_N)
            self._reads.append(tuple(one.flatten() for one in read))
        if any(isinstance(ids, ChangingIds) for ids in self.ids.values()):
            row_K = _joined([ids.row_of_key() for ids in self.ids.values()])
            own_N = row_K[place_N.clamp(max=self.num_keys - 1)].to(torch.int64)
        else:  # rows lie in the order of their keys
            own_N = place_N - spread(self.first_key_F, feature_N)
        shared_N = rows_of(
            ids_N,
            spread(self.salt_F, feature_N),
            spread(self.num_shared_F, feature_N),
            self.is_small,
        )
        row_N = torch.where(
            is_known_N,
            own_N + spread(self.base_F, feature_N),
            shared_N + spread(self.shared_first_F, feature_N),
        )
        return (row_N,)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows as they are."""
        return parts[0].squeeze(1)

    def count_reads(self) -> None:
        """Tell each table's ids what all processes have read of them."""
        nothing = self.segment_F.new_zeros(0)
        columns = zip((nothing, nothing, nothing, nothing.bool()), *self._reads, strict=True)
        segment_N, ids_N, place_N, is_known_N = (torch.cat(column) for column in columns)
        self._reads.clear()
        # Of an id that has a row the place among the keys says all; it needs no sorting by id.
        place_U, count_U = torch.unique(place_N[is_known_N], return_counts=True)
        new = tally(segment_N[~is_known_N], ids_N[~is_known_N], torch.ones_like(ids_N)[~is_known_N])
        known = (torch.full_like(place_U, KNOWN), place_U, count_U)
        found = Reads(*(torch.cat(pair) for pair in zip(known, new, strict=True)))
        if processes.world_size() > 1:
            found = tally(*torch.cat(collectives.rows_of_all(torch.stack(found, 1))).unbind(1))
        num_known = int((found.space_U == KNOWN).sum())
        place_U, segment_U = found.ids_U[:num_known], found.space_U[num_known:]
        first = 0
        for table, ids in self.ids.items():
            own = _between(place_U, self.first_keys[table], ids.num_rows)
            new_own = _between(segment_U, first, len(ids.end_S), num_known)
            if isinstance(ids, ChangingIds):
                ids.count_known(place_U[own] - self.first_keys[table], found.count_U[own])
                space_U, ids_U, count_U = (one[new_own] for one in found)
                ids.count_new(Reads(space_U - first, ids_U, count_U))
            first += len(ids.end_S)

    def end_step(self) -> Sequence[Handover]:
        """Let each table see to its map."""
        self._reads.clear()
        handovers = []
        for table, ids in self.ids.items():
            admitted = ids.end_step() if isinstance(ids, ChangingIds) else None
            if admitted is None:
                continue
            feature = self.tables[table]
            config = cast(Dynamic, feature.config)
            salts = [salt_of(table, space.name, 0) for space in feature.spaces]
            salt_A = int_buffer(salts).to(admitted.ids_A.device)[admitted.space_A]
            shared = torch.full_like(salt_A, config.num_shared)
            first_A = config.num_own + rows_of(admitted.ids_A, salt_A, shared, self.is_small)
            handovers.append(Handover(table, "rows", admitted.rows_A, first_A))
        return handovers


def _between(values_U: Tensor, first: int, count: int, shift: int = 0) -> slice:
    """Return where ascending values are within ``first .. first + count - 1``, shifted."""
    bounds_2 = torch.searchsorted(values_U, values_U.new_tensor([first, first + count]))
    start, end = bounds_2.tolist()
    return slice(start + shift, end + shift)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other; of one no copy is made."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
