"""Processes: how those of one training find each other, and what only one of them does.

``torchrun`` tells each process its rank by environment variables. Without it there is one process,
which is a world of its own.
"""

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist

from recemb.errors import RecembError

PATIENCE = timedelta(seconds=float(os.environ.get("RECEMB_PATIENCE", "45")))
"""How long a process waits for the others in a step before it takes them for dead."""
FILES_PATIENCE = timedelta(hours=1)
"""The same where they read and write files. One that dies is noticed at once all the same: its
connections close."""

T = TypeVar("T")


def start(meeting: str = "") -> None:
    """Join the default process group: NCCL where there are GPUs, else gloo.

    Args:
        meeting: A name of the group, where ``torchrun`` has started other processes than those that
            join it, one for each of them: they meet under it in the same store.
    """
    if dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
        backend = "nccl"
    else:
        backend = "gloo"
    if meeting:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(meeting, meeting_place()),  # type: ignore[attr-defined]
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            timeout=PATIENCE,
        )
    elif "RANK" in os.environ:
        dist.init_process_group(backend, timeout=PATIENCE)
    else:
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


def meeting_place() -> "dist.Store":  # type: ignore[name-defined]
    """Return the store that the processes met at; it is there once they have."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, is_master=False, timeout=PATIENCE)  # type: ignore[attr-defined]


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def end(code: int) -> NoReturn:
    """End this process; what was to be done at its exit is done.

    One of several ends before the libraries take themselves down: threads of gloo that are still
    there then abort it now and then ("terminate called without an active exception"), and a
    training that has ended well would be taken for one that failed.
    """
    if "RANK" not in os.environ:
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


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


def patient_group() -> dist.ProcessGroup | None:
    """Return the group that waits for files; None for one process. The first call is for all."""
    global _patient
    if world_size() == 1:
        return None
    if _patient is None or _patient[0] is not dist.group.WORLD:
        # Objects are sent, so gloo, also beside NCCL.
        group = dist.new_group(timeout=FILES_PATIENCE, backend="gloo")
        assert isinstance(group, dist.ProcessGroup)  # every process is a member
        _patient = dist.group.WORLD, group
    return _patient[1]


_patient: tuple[dist.ProcessGroup | None, dist.ProcessGroup] | None = None


def least(number: int) -> int:
    """Return the least of what the processes give; all must call it."""
    if world_size() == 1:
        return number
    smallest = torch.tensor([number], device=device())
    dist.all_reduce(smallest, dist.ReduceOp.MIN)
    return int(smallest)


def from_first(value: T) -> T:
    """Return what the first process has given; all must call it."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, group=patient_group())
    return values[0]


def from_all(value: T) -> list[T]:
    """Return what each process has given, by rank; all must call it."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value, group=patient_group())
    return values


@contextmanager
def agreement() -> Iterator[None]:
    """Let a mistake that is found in one process be one in all; all must enter the block.

    Nothing in the block may wait for other processes.

    Raises:
        RecembError: What the first process to find one has found.
    """
    mistake: RecembError | None = None
    try:
        yield
    except RecembError as error:
        mistake = error
    first = next((one for one in from_all(mistake and str(mistake)) if one is not None), None)
    if first is not None:
        raise RecembError(first) from mistake


@contextmanager
def first_to_speak() -> Iterator[bool]:
    """Tell whether no other process has asked: one line tells what has ended all of them.

    SIGTERM waits for the block's end. ``torchrun`` sends it to a process whose peer is dead, and
    one that ends between this answer and its line would leave all of them silent.
    """
    with _sigterm_waits():
        yield _is_first_to_ask()


@contextmanager
def _sigterm_waits() -> Iterator[None]:
    """Hold SIGTERM back until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted
        return
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
        if came:
            signal.raise_signal(signal.SIGTERM)


def _is_first_to_ask() -> bool:
    """Count at the store that the processes met at; it is there when groups are no more."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if "RANK" not in os.environ or host is None or port is None:
        return True
    life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        # First a bare connection: the store's own client reports a failed one at length.
        socket.create_connection((host, int(port)), timeout=2).close()
        wait = timedelta(seconds=2)
        store = dist.TCPStore(host, int(port), is_master=False, timeout=wait)  # type: ignore[attr-defined]
        return bool(store.add(f"recemb/spoken/{life}", 1) == 1)
    except (RuntimeError, OSError, ValueError):
        return True  # it went with its machine


@contextmanager
def first_one_first() -> Iterator[None]:
    """Let the first process through the block before the others: it writes what they then find."""
    if rank() and world_size() > 1:
        dist.barrier(patient_group())
    try:
        yield
    finally:
        if not rank() and world_size() > 1:
            dist.barrier(patient_group())
