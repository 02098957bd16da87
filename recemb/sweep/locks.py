"""Locks: files that one process holds, and that a dead one lets go."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Lock:
    """A file that at most one holder has; the system frees it when its process ends, however.

    Args:
        path: Of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self, wait: bool = False) -> bool:
        """Take it, and return whether it was free; with ``wait`` it is waited for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file
        return True

    def give_back(self) -> None:
        """Let others have it."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock in the block; wait for it first."""
    lock = Lock(path)
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.give_back()
