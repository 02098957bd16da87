"""Collectives: sums and sets over what all processes have of a batch.

Shapes: N own rows, of which T in all processes and U distinct; K elements each.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from recemb import processes


def mean_over_processes(number: int, device: torch.device) -> float:
    """Return the mean of what all processes have counted; all must call it.

    A sum over one process's part of a batch, divided by this and then averaged over processes, is
    the mean over the whole batch, however uneven the parts are.
    """
    if processes.world_size() == 1:
        return number
    total = torch.tensor([number], device=device)
    dist.all_reduce(total)
    return int(total) / processes.world_size()


class _Sum(torch.autograd.Function):
    """A sum over processes, whose gradient is the sum of the gradients that they have for it."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _summed(own)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _summed(grad)


def _summed(own: Tensor) -> Tensor:
    total = own.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def sum_over_processes(own: Tensor) -> Tensor:
    """Return the sum of what all processes have, differentiable; all must call it.

    All must also run the backward pass, and everything that is summed must need a gradient in all
    of them or in none: each pass is one message, in the same order everywhere.

    The gradients are those of one process that trains the whole batch. With W processes, process p
    takes the loss L_p = W x (its part of the whole loss L), so that L is the mean of the L_p, and
    the copies t_p of a parameter t, of which the processes average the gradients. As t_p = t,

        dL/dt = sum_p dL/dt_p = 1/W sum_p d(sum_q L_q)/dt_p,

    the average of d(sum_q L_q)/dt_p: what a process must find is the gradient of the sum of *all*
    losses. By its own values alone only L_p depends on t_p, and backward is as ever. By s = sum_p
    s_p all do: d(sum_q L_q)/ds_p = sum_q dL_q/ds, the sum over processes of the gradients for s.

    Args:
        own: Of one shape and type in all processes.
    """
    if processes.world_size() == 1:
        return own
    return cast(Tensor, _Sum.apply(own))  # type: ignore[no-untyped-call, unused-ignore]


def rows_of_all(own_NK: Tensor) -> list[Tensor]:
    """Return the rows that each process has, by rank, as many as it has; all must call it."""
    if processes.world_size() == 1:
        return [own_NK]
    size = torch.tensor([own_NK.shape[0]], device=own_NK.device)
    sizes_of_all = [torch.empty_like(size) for _ in range(processes.world_size())]
    dist.all_gather(sizes_of_all, size)
    sizes = torch.cat(sizes_of_all).tolist()
    # Collectives want equal shapes.
    padded = own_NK.new_zeros(max(sizes), own_NK.shape[1])
    padded[: own_NK.shape[0]] = own_NK
    blocks = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(blocks, padded)
    return [block[:size] for block, size in zip(blocks, sizes, strict=True)]


def is_first_holder(keys_NK: Tensor) -> Tensor:
    """Return which rows no process of a lower rank has: (N,) bool; all must call it.

    So each distinct row of all processes is held first by exactly one.

    Args:
        keys_NK: Rows of integers, distinct within this process.
    """
    if processes.world_size() == 1:  # all of them, without a search
        return torch.ones(keys_NK.shape[0], dtype=torch.bool, device=keys_NK.device)
    blocks = rows_of_all(keys_NK)
    place_T = torch.unique(torch.cat(blocks), dim=0, return_inverse=True)[1]
    places = place_T.split([len(block) for block in blocks])
    is_held_U = torch.zeros_like(place_T, dtype=torch.bool)  # as long as all rows are different
    is_held_U[torch.cat([place_T[:0], *places[: processes.rank()]])] = True
    return ~is_held_U[places[processes.rank()]]
