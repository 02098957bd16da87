"""Id maps: which ids of a dynamic table have rows, how hot they are, and who may be next.

Shapes: K rows of ids' own, S id spaces, M slots of candidates; U distinct ids that a step has read,
D distinct slots, A ids admitted at once. See :mod:`recemb.tables.dynamic`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recemb.hashing import mix, rows_of
from recemb.tables.kind import distinct


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

    def __init__(
        self,
        num_rows: int,
        num_spaces: int,
        *,
        num_slots: int,
        admit_after: int,
        every: int,
        decay: float,
    ) -> None:
        super().__init__(num_rows, num_spaces)
        self.num_slots, self.admit_after = num_slots, admit_after
        self.every, self.decay = every, decay
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
