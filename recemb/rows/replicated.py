"""Replicated rows: small tables that every process has whole and updates alike.

Each process gathers by itself. Before a step the gradients of the rows that any process touched go
to all of them, so that all make the same update: no process owns the table, and none waits for
another to read it.

Shapes: U distinct rows of a process, D elements per row.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from recemb import collectives
from recemb.rows.local import Learning, LocalRowsStore, Update, _Block
from recemb.rows.pending import Gradients, sum_duplicates


class ReplicatedRowsStore(LocalRowsStore):
    """A local store in each process of the default group; gradients are averaged over them."""

    def store(self, updates: Sequence[Update], is_reevaluated: bool) -> list[Learning]:
        """Store updates, rounded at random alike in all processes."""
        with self._same_draws():
            return super().store(updates, is_reevaluated)

    def learn_steps(self, learning: Sequence[Learning]) -> None:
        """Move learned steps, rounded at random alike in all processes."""
        with self._same_draws():
            super().learn_steps(learning)

    def reset(self, table: str, rows_U: Tensor, values_UD: Tensor) -> None:
        """Let rows begin anew; what a step outgrows is rounded at random alike everywhere."""
        with self._same_draws():
            super().reset(table, rows_U, values_UD)

    @contextmanager
    def _same_draws(self) -> Iterator[None]:
        """Draw from the seed and the step alone: processes have drawn differently before."""
        device = next(self.buffers(), torch.empty(0)).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed((torch.initial_seed() + self.num_steps) % 2**63)
            yield

    def take_gradients(self, block: _Block) -> Gradients | None:
        """Return the mean over processes of what a block's rows have got.

        Every process must ask, also one that touched nothing.
        """
        if not block.flat.is_trainable:
            return None
        own = super().take_gradients(block)
        if own is None:
            empty = torch.zeros(0, dtype=torch.int64, device=block.flat.starts_K.device)
            own = Gradients(empty, torch.zeros(0, block.flat.dim, device=empty.device), 0)
        rows_T, grads_TD, reads = exchange(own)
        if not len(rows_T):
            return None
        rows_U, grads_UD = sum_duplicates(rows_T, grads_TD / dist.get_world_size())
        return Gradients(rows_U, grads_UD, reads)


def exchange(own: Gradients) -> Gradients:
    """Return the gradients of all processes one after the other; rows may repeat.

    Row numbers go beside gradients, because on a CPU a message costs more than what is in it.
    """
    # A row number takes the place of two fp32 elements.
    rows_U2 = own.rows_U.view(torch.float32).view(-1, 2)
    together = torch.cat(collectives.rows_of_all(torch.cat([rows_U2, own.grads_UD], 1)))
    rows_T = together[:, :2].contiguous().view(torch.int64).flatten()
    return Gradients(rows_T, together[:, 2:].contiguous(), own.reads)
