"""Fitting: a table of any kind learns the vectors that another one has of the same ids.

    minimise  sum_k weight_k |new vector of id k - old vector of id k|^2

A row that ids read as it is (or as one of the parts that are put side by side) starts as the
weighted mean of what those ids want of it. For kinds whose vector is a row (full, hashed with one
hash, unified, matryoshka) that is the least-squares answer itself; elsewhere it is a start for
Adam, whose rate falls to 0. What is kept is the best of all by the distance that is measured.

Shapes: K pairs of ids, B of a batch, D elements per vector, R rows of d elements.

Source: distillation of embeddings is Hinton et al., "Distilling the Knowledge in a Neural Network",
2015, arXiv:1503.02531, with vectors for targets.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import Adam
from recemb.tables.kind import IdSpace
from recemb.warm_start.ids import Pairs
from recemb.warm_start.reading import TableReader

BATCH = 1 << 14
"""Ids per step."""
STEPS = 400
"""At least."""
PASSES = 20
"""Over all ids, at least."""
ROWS_RATE = 0.1
"""First rate of rows, in deviations of the vectors that are to be learned."""
LEARNED_RATE = 0.01
"""First rate of learned modules."""
EXACT = 1e-6
"""A relative error that is no more than rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """Ids of a new table's id space and the old table that knows them."""

    space: IdSpace
    old_table: str
    old_space: IdSpace
    pairs: Pairs


class Student:
    """A table in fp32 that learns; see the module.

    Args:
        reader: The new table over a local store of fp32 rows.
        table: Its name.
        teacher: The old tables.
        lessons: What it learns, at least one id.
    """

    def __init__(
        self, reader: TableReader, table: str, teacher: TableReader, lessons: list[Lesson]
    ) -> None:
        self.reader, self.table, self.teacher, self.lessons = reader, table, teacher, lessons
        sizes = torch.tensor([len(one.pairs.old_K) for one in lessons])
        self.lesson_K = torch.repeat_interleave(torch.arange(len(lessons)), sizes)
        self.old_K = torch.cat([one.pairs.old_K for one in lessons])
        self.new_K = torch.cat([one.pairs.new_K for one in lessons])
        weight_K = torch.cat([one.pairs.weight_K for one in lessons])
        self.weight_K = weight_K / weight_K.mean()
        store = reader.embeddings.rows
        assert isinstance(store, LocalRowsStore)
        teacher.embeddings.eval()
        self.store = store

    @torch.no_grad()
    def error(self) -> float:
        """Return the weighted root mean square of what is wrong, relative to the old vectors'."""
        self.reader.embeddings.eval()
        wrong = size = 0.0
        for batch_B in torch.arange(len(self.old_K)).split(BATCH):
            for wanted_BD, own_BD, weight_B in self._compared(batch_B):
                wrong += float(((own_BD - wanted_BD).square().sum(1) * weight_B).sum())
                size += float((wanted_BD.square().sum(1) * weight_B).sum())
        return math.sqrt(wrong / size) if size else math.sqrt(wrong)

    def _compared(self, batch_B: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield, per lesson, the vectors that are wanted, those there are, and weights."""
        chosen = {
            number: batch_B[self.lesson_K[batch_B] == number] for number in range(len(self.lessons))
        }
        old = {number: self.old_K[place_B] for number, place_B in chosen.items()}
        new = {
            (self.table, one.space.name): self.new_K[chosen[number]]
            for number, one in enumerate(self.lessons)
        }
        own = self.reader.vectors(new)
        for number, one in enumerate(self.lessons):
            with torch.no_grad():
                key = (one.old_table, one.old_space.name)
                wanted_BD = self.teacher.vectors({key: old[number]})[key]
            yield wanted_BD, own[self.table, one.space.name], self.weight_K[chosen[number]]

    def learn(self, progress: bool) -> float:
        """Learn the vectors; return the error that is left."""
        best, kept = self.error(), self.state()
        self.start_from_means()
        started = self.error()
        if started > 0.9 * best:  # a mean of what is multiplied with something else is no start
            self.load(kept)
        else:
            best, kept = started, self.state()
        if best <= EXACT:
            return best
        self.descend(progress)
        final = self.error()
        if final < best:
            return final
        self.load(kept)
        return best

    @torch.no_grad()
    def start_from_means(self) -> None:
        """Set rows to the weighted mean of what the ids that read them want; others stay."""
        physical = self.reader.embeddings.rows.physical
        sums = {
            name: (torch.zeros(one.num_rows, one.dim), torch.zeros(one.num_rows, 1))
            for name, one in physical.items()
            if one.precision != "uint8"
        }
        for number, one in enumerate(self.lessons):
            (place_K,) = torch.nonzero(self.lesson_K == number, as_tuple=True)
            key = (one.old_table, one.old_space.name)
            for place_B in place_K.split(BATCH):
                wanted_BD = self.teacher.vectors({key: self.old_K[place_B]})[key]
                read = self.reader.rows_read(self.table, one.space, self.new_K[place_B])
                for name, rows_Br in read.items():
                    if name in sums:
                        _add_wanted(*sums[name], rows_Br, wanted_BD, self.weight_K[place_B])
        for name, (sum_RD, weight_R1) in sums.items():
            mean_RD = sum_RD / weight_R1.clamp(min=1e-30)
            self.store.assign(
                name, torch.where(weight_R1 > 0, mean_RD, self.store.values(name)).contiguous()
            )

    def descend(self, progress: bool) -> None:
        """Take the steps of Adam."""
        embeddings = self.reader.embeddings.train()
        count = len(self.old_K)
        per_pass = math.ceil(count / BATCH)
        steps = max(STEPS, PASSES * per_pass)
        learned = [one for one in embeddings.parameters() if one.numel()]
        optimizer = torch.optim.Adam(learned, lr=LEARNED_RATE) if learned else None
        rate = ROWS_RATE * self._deviation()
        generator = torch.Generator().manual_seed(0)
        bar = tqdm(range(steps), f"fit {self.table}", leave=False, disable=not progress)
        batches: list[Tensor] = []
        for step in bar:
            batches = batches or list(torch.randperm(count, generator=generator).split(BATCH))
            left = 0.5 * (1 + math.cos(math.pi * step / steps))
            self.store.optimizer = Adam(learning_rate=max(1e-12, rate * left))
            loss, weight = torch.zeros(()), 0.0
            for wanted_BD, own_BD, weight_B in self._compared(batches.pop()):
                loss = loss + ((own_BD - wanted_BD).square().mean(1) * weight_B).sum()
                weight += float(weight_B.sum())
            if optimizer is not None:
                optimizer.param_groups[0]["lr"] = LEARNED_RATE * left
                optimizer.zero_grad()
            (loss / weight + embeddings.loss()).backward()
            if optimizer is not None:
                optimizer.step()
            self.store.step()

    @torch.no_grad()
    def _deviation(self) -> float:
        some_B = torch.arange(min(BATCH, len(self.old_K)))
        squares = [
            wanted_BD.square().sum() / max(1, wanted_BD.numel())
            for wanted_BD, _, _ in self._compared(some_B)
        ]
        return max(1e-6, math.sqrt(float(max(squares))))

    def state(self) -> dict[str, Any]:
        """Return a copy of rows and learned modules."""
        return copy.deepcopy(self.reader.embeddings.state_dict())

    def load(self, state: dict[str, Any]) -> None:
        """Go back to such a copy."""
        self.reader.embeddings.load_state_dict(state)


def _add_wanted(
    sum_RD: Tensor, total_R1: Tensor, rows_Br: Tensor, wanted_BD: Tensor, weight_B: Tensor
) -> None:
    """Add what ids want of the rows that they read, where a row is a vector or a part of one."""
    reads, width = rows_Br.shape[1], sum_RD.shape[1]
    if width == wanted_BD.shape[1]:
        parts_BrD = wanted_BD.unsqueeze(1).expand(-1, reads, -1)
    elif width * reads == wanted_BD.shape[1]:
        parts_BrD = wanted_BD.unflatten(1, (reads, width))
    else:
        return
    is_read_B = rows_Br[:, 0] >= 0
    rows_Br, parts_BrD, weight_B = rows_Br[is_read_B], parts_BrD[is_read_B], weight_B[is_read_B]
    weight_T1 = weight_B.repeat_interleave(reads).unsqueeze(1)
    sum_RD.index_add_(0, rows_Br.flatten(), parts_BrD.flatten(0, 1) * weight_T1)
    total_R1.index_add_(0, rows_Br.flatten(), weight_T1)
