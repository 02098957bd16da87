"""Locks: files that one process holds, and that a dead one lets go."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recemb.files import writing


class Lock:
    """A file that at most one holder has; the system frees it when its process ends, however.

    The file names its holder. One that a killed process has left is nobody's, and is taken as a new
    one is.

    Args:
        path: Of the file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self, wait: bool = False) -> bool:
        """Take it, and return whether it was free; with ``wait`` it is waited for.

        Raises:
            RecembError: If the file cannot be written.
        """
        while True:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(file)
                return False
            if self._is_there(file):
                break
            os.close(file)  # its holder has removed it since: another one is the lock now
        self._file = file
        os.ftruncate(file, 0)
        os.write(file, json.dumps(_this_process()).encode())
        return True

    def _is_there(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except FileNotFoundError:
            return False

    @property
    def holder(self) -> str:
        """Who holds it, in words: host, process and since when."""
        try:
            found = json.loads(self.path.read_text())
            return f"process {found['process']} on {found['host']} since {found['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"  # it has not said so yet, or has just ended

    def give_back(self, remove: bool = False) -> None:
        """Let others have it; with ``remove`` the file goes too."""
        if self._file is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def _this_process() -> dict[str, str | int]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a lock in the block; wait for it first."""
    lock = Lock(path)
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.give_back()
