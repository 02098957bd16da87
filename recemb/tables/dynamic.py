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
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from recemb import processes
from recemb.errors import RecembError
from recemb.hashing import SMALL_ROWS, mix, rows_of, salt_of
from recemb.jagged import is_tracing, split_rows
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import (
    BlockIds,
    Handover,
    IdSpace,
    TableConfig,
    TableContent,
    TableFeature,
    TableKind,
    distinct,
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
        return ChangingIds(self, len(spaces))

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


class Admitted(NamedTuple):
    """Ids that have got rows: the number of their id space, the id, and the row."""

    space_A: Tensor
    ids_A: Tensor
    rows_A: Tensor


class Reads(NamedTuple):
    """Distinct ids, by id space and then by value, and how often each was read."""

    space_U: Tensor
    ids_U: Tensor
    count_U: Tensor


def tally(space_N: Tensor, ids_N: Tensor, count_N: Tensor) -> Reads:
    """Return distinct ids with the sums of their counts."""
    ids_U, space_U, place_N = distinct(ids_N, space_N)
    count_U = torch.zeros_like(ids_U).index_add_(0, place_N, count_N)
    return Reads(space_U, ids_U, count_U)


def search(key_K: Tensor, sections: Sequence[tuple[Any, Any]], blocks: Sequence[Tensor]) -> Tensor:
    """Return where each id is among the keys, or would be: (N,), block after block.

    Args:
        key_K: Keys, ascending within each section.
        sections: For each block where its section begins and ends; tensors in a traced program,
            which must not take them for constants.
        blocks: Ids.
    """
    # Id spaces are few: one call for each is ten times as fast as one search of all ids together
    # in steps of tensor operations.
    places = [
        torch.searchsorted(key_K[first:end], ids) + first
        for (first, end), ids in zip(sections, blocks, strict=True)
    ]
    return torch.cat(places)


class KnownIds(nn.Module):
    """Which ids have rows: all that serving needs.

    Shapes: K rows of ids' own, S id spaces.

    Args:
        num_rows: K.
        num_spaces: S.
    """

    key_K: Tensor
    """Ids that have rows, space after space, ascending in each; behind the last one nothing."""
    end_S: Tensor
    """Where the keys of each space end."""

    def __init__(self, num_rows: int, num_spaces: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.register_buffer("key_K", torch.zeros(num_rows, dtype=torch.int64))
        self.register_buffer("end_S", torch.zeros(num_spaces, dtype=torch.int64))

    @property
    def num_known(self) -> int:
        """How many ids have rows."""
        return int(self.end_S[-1])

    def row_of_key(self) -> Tensor:
        """Return the row of each key: (K,)."""
        return torch.arange(self.num_rows, device=self.key_K.device)


class ChangingIds(KnownIds):
    """Which ids have rows, how hot they are, and which others are candidates for one.

    Shapes: M slots of candidates; A ids admitted at once.
    """

    row_K: Tensor
    """The row of each key."""
    heat_K: Tensor
    """By row: decayed reads of its id."""
    candidate_M: Tensor
    """The id that has the slot."""
    space_M: Tensor
    """Its id space."""
    heat_M: Tensor
    """What the slot counts: at most the decayed reads of its id; 0 where the slot is free."""
    num_steps: Tensor
    """Training steps so far."""
    epoch: Tensor
    """The training epoch that has started last, from 0."""
    reads_2: Tensor
    """Reads of this epoch, and those that hit a row of the id's own."""
    changes_2: Tensor
    """Ids admitted so far, and evicted."""

    def __init__(self, config: Dynamic, num_spaces: int) -> None:
        num_rows = config.num_own
        super().__init__(num_rows, num_spaces)
        self.every, self.decay = config.every, config.decay
        self.admit_after = config.admit_after
        self.num_slots = config.num_candidates or 2 * num_rows
        for name, size, dtype in (
            ("row_K", (num_rows,), torch.int32),
            ("heat_K", (num_rows,), torch.float32),
            ("candidate_M", (self.num_slots,), torch.int64),
            ("space_M", (self.num_slots,), torch.int32),
            ("heat_M", (self.num_slots,), torch.float32),
            ("num_steps", (), torch.int64),
            ("epoch", (), torch.int64),
            ("reads_2", (2,), torch.int64),
            ("changes_2", (2,), torch.int64),
        ):
            self.register_buffer(name, torch.zeros(size, dtype=dtype))

    def row_of_key(self) -> Tensor:
        """Return the row of each key: (K,)."""
        return self.row_K

    def count_known(self, place_U: Tensor, count_U: Tensor) -> None:
        """Add the reads of a step to the heat of rows.

        Args:
            place_U: Places of keys, each of them once.
            count_U: How often their ids were read: whole numbers, added at once, so that a sum is
                the same whatever process has read what.
        """
        self.heat_K[self.row_K[place_U].to(torch.int64)] += count_U
        self.reads_2 += count_U.sum()

    def count_new(self, reads: Reads) -> None:
        """Let ids without rows contend for slots by their reads of a step."""
        space_U, ids_U, count_U = reads
        if not len(ids_U):
            return
        self.reads_2[0] += count_U.sum()
        slot_U = rows_of(ids_U, mix(space_U), torch.full_like(ids_U, self.num_slots))
        is_own_U = (self.candidate_M[slot_U] == ids_U) & (self.space_M[slot_U] == space_U)
        is_own_U &= self.heat_M[slot_U] > 0
        slot_D, place_U = torch.unique(slot_U, return_inverse=True)
        for_D = torch.zeros_like(slot_D).index_add_(0, place_U, count_U * is_own_U)
        other_U = count_U * ~is_own_U
        against_D = torch.zeros_like(slot_D).index_add_(0, place_U, other_U)
        heat_D = self.heat_M[slot_D] + (for_D - against_D)
        # The most read of the others takes a slot that is lost; of several, the first.
        most_D = torch.zeros_like(slot_D).scatter_reduce_(0, place_U, other_U, "amax")
        number_U = torch.arange(len(ids_U), device=ids_U.device)
        number_U = torch.where(other_U == most_D[place_U], number_U, len(ids_U))
        first_D = torch.full_like(slot_D, len(ids_U))
        first_D.scatter_reduce_(0, place_U, number_U, "amin")
        is_lost_D = (heat_D <= 0) & (most_D > 0)
        self.heat_M[slot_D] = torch.where(is_lost_D, most_D, heat_D)
        lost_L, taker_L = slot_D[is_lost_D], first_D[is_lost_D]
        self.candidate_M[lost_L] = ids_U[taker_L]
        self.space_M[lost_L] = space_U[taker_L].to(torch.int32)

    def end_step(self) -> Admitted | None:
        """Count the step, and see to the map where it is time; return who was admitted."""
        self.num_steps += 1
        if int(self.num_steps) % self.every:
            return None
        rows_A, slot_A = self._chosen()
        admitted = None
        if len(rows_A):
            space_A, ids_A = self.space_M[slot_A].to(torch.int64), self.candidate_M[slot_A]
            self._rewrite(space_A, ids_A, rows_A)
            self.heat_K[rows_A] = self.heat_M[slot_A]
            self.heat_M[slot_A] = 0
            admitted = Admitted(space_A, ids_A, rows_A)
        self.heat_K *= self.decay
        self.heat_M *= self.decay
        return admitted

    def _chosen(self) -> tuple[Tensor, Tensor]:
        """Return the rows that candidates get, free ones or those of colder ids, and their slots.

        Of equally hot ones the order is that of slots and rows, which is the same everywhere.
        """
        known = self.num_known
        due_A = (self.heat_M >= self.admit_after).nonzero().flatten()
        due_A = due_A[self.heat_M[due_A].argsort(descending=True, stable=True)]
        num_free = min(self.num_rows - known, len(due_A))
        free_A = torch.arange(known, known + num_free, device=due_A.device)
        left_A = due_A[num_free:]
        if not len(left_A):
            return free_A, due_A
        cold_A = self.heat_K[:known].argsort(stable=True)[: len(left_A)]
        left_A = left_A[: len(cold_A)]
        # The hottest meets the coldest: hotter ones are the first few.
        is_hotter_A = self.heat_M[left_A] > self.heat_K[cold_A]
        rows_A = torch.cat([free_A, cold_A[is_hotter_A]])
        return rows_A, torch.cat([due_A[:num_free], left_A[is_hotter_A]])

    def _rewrite(self, space_A: Tensor, ids_A: Tensor, rows_A: Tensor) -> None:
        """Give rows to ids; those that had them lose them."""
        known, num_spaces = self.num_known, len(self.end_S)
        is_lost_K = torch.zeros(self.num_rows, dtype=torch.bool, device=rows_A.device)
        is_lost_K[rows_A] = True
        row_K = self.row_K[:known].to(torch.int64)
        kept_K = ~is_lost_K[row_K]
        sizes_S = self.end_S.diff(prepend=self.end_S.new_zeros(1))
        space_K = torch.arange(num_spaces, device=rows_A.device).repeat_interleave(sizes_S)
        key_K = torch.cat([self.key_K[:known][kept_K], ids_A])
        row_K = torch.cat([row_K[kept_K], rows_A])
        space_K = torch.cat([space_K[kept_K], space_A])
        # By key within each space: two stable sorts.
        order_K = key_K.argsort()
        order_K = order_K[space_K[order_K].argsort(stable=True)]
        self.key_K[: len(order_K)] = key_K[order_K]
        self.row_K[: len(order_K)] = row_K[order_K].to(torch.int32)
        self.end_S.copy_(torch.bincount(space_K, minlength=num_spaces).cumsum(0))
        evicted = known + len(ids_A) - len(order_K)
        self.changes_2 += self.changes_2.new_tensor([len(ids_A), evicted])


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
            found = tally(*processes.from_all(torch.stack(found, 1)).unbind(1))
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
