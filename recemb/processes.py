"""Processes: how those of one training find each other, and what only one of them does.

``torchrun`` tells each process its rank by environment variables. Without it there is one process,
which is a world of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(seconds=60)
"""How long a process waits for the others before it takes them for dead."""

T = TypeVar("T")


def start() -> None:
    """Join the default process group: NCCL where there are GPUs, else gloo."""
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        backend = "nccl"
    else:
        backend = "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return this process's number among all; 0 without a group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes; 1 without a group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Return this process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def device() -> torch.device:
    """Return where this process's rows go."""
    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def from_first(value: T) -> T:
    """Return what the first process has given; all must call it."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def mean_over_processes(number: int, device: torch.device) -> float:
    """Return the mean of what all processes have counted; all must call it.

    A sum over one process's part of a batch, divided by this and then averaged over processes, is
    the mean over the whole batch, however uneven the parts are.
    """
    if world_size() == 1:
        return number
    total = torch.tensor([number], device=device)
    dist.all_reduce(total)
    return int(total) / world_size()


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
    if world_size() == 1:
        return own
    return cast(Tensor, _Sum.apply(own))  # type: ignore[no-untyped-call]


def rows_of_all(own_NK: Tensor) -> list[Tensor]:
    """Return the rows that each process has, by rank, as many as it has; all must call it."""
    size = torch.tensor([own_NK.shape[0]], device=own_NK.device)
    sizes_of_all = [torch.empty_like(size) for _ in range(world_size())]
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
    if world_size() == 1:
        return torch.ones(keys_NK.shape[0], dtype=torch.bool, device=keys_NK.device)
    blocks = rows_of_all(keys_NK)
    place_T = torch.unique(torch.cat(blocks), dim=0, return_inverse=True)[1]
    places = place_T.split([len(block) for block in blocks])
    is_held_U = torch.zeros_like(place_T, dtype=torch.bool)  # as long as all rows are different
    is_held_U[torch.cat([place_T[:0], *places[: rank()]])] = True
    return ~is_held_U[places[rank()]]


@contextmanager
def first_one_first() -> Iterator[None]:
    """Let the first process through the block before the others: it writes what they then find."""
    if rank() and world_size() > 1:
        dist.barrier()
    try:
        yield
    finally:
        if not rank() and world_size() > 1:
            dist.barrier()
