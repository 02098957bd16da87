"""Processes: how those of one training find each other, and what only one of them does.

``torchrun`` tells each process its rank by environment variables. Without it there is one process,
which is a world of its own.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

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


def from_all(rows_NX: Tensor) -> Tensor:
    """Return the rows that all processes have given, the first process's first; all must call it.

    Args:
        rows_NX: Any number of rows, of one width everywhere.
    """
    if world_size() == 1:
        return rows_NX
    size = torch.tensor([len(rows_NX)], device=rows_NX.device)
    sizes = [torch.empty_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    counts = [int(one) for one in sizes]
    # Collectives want equal shapes.
    padded = rows_NX.new_zeros(max(counts), *rows_NX.shape[1:])
    padded[: len(rows_NX)] = rows_NX
    blocks = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(blocks, padded)
    return torch.cat([block[:count] for block, count in zip(blocks, counts, strict=True)])


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
