"""Replicated rows: small tables that every process has whole and updates alike.

Each process gathers by itself. Before a step the gradients of the rows that any process touched go
to all of them, so that all make the same update: no process owns the table, and none waits for
another to read it.

Shapes: U distinct rows of a process, D elements per row.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from recemb.rows.local import Gradients, LocalRowsStore, _Block, sum_duplicates


class ReplicatedRowsStore(LocalRowsStore):
    """A local store in each process of the default group; gradients are averaged over them."""

    def take_gradients(self, block: _Block) -> Gradients | None:
        """Return the mean over processes of what a block's rows have got.

        Every process must ask, also one that touched nothing.
        """
        if not block.flat.is_trainable:
            return None
        own = block.take_pending() if block.pending else None
        if own is None:
            empty = torch.zeros(0, dtype=torch.int64, device=block.flat.starts_K.device)
            own = Gradients(empty, torch.zeros(0, block.flat.dim, device=empty.device), 0)
        rows_T, grads_TD = gather_blocks(own.rows_U), gather_blocks(own.grads_UD)
        reads = torch.tensor([own.reads], device=own.rows_U.device)
        dist.all_reduce(reads)
        if not len(rows_T):
            return None
        rows_U, grads_UD = sum_duplicates(rows_T, grads_TD / dist.get_world_size())
        return Gradients(rows_U, grads_UD, int(reads))


def gather_blocks(own: Tensor) -> Tensor:
    """Return the blocks of all processes one after the other; they may differ in length."""
    length = torch.tensor([len(own)], device=own.device)
    lengths = [torch.empty_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    sizes = [int(one) for one in lengths]
    # Collectives want equal shapes.
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own
    blocks = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])
