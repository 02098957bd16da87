"""Worker: a process of its own that trains trials one after the other, and may die of one.

What it has imported and prepared stays for the next trial. Its parent hears of everything through a
pipe; a worker whose parent has died ends at once.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

Ask = Callable[[str, Any], Any]
"""Tells the parent something and returns its answer."""
Job = Callable[[dict[str, Any], Ask], dict[str, Any]]
"""Does what a request says and returns the outcome; a worker makes one and keeps it."""
END, FAULT = "end", "fault"


class Worker:
    """A process that does jobs; started when it is first needed, and again after it has died.

    Args:
        make: Makes what does the jobs; importable by name.
        log: Where what it prints goes.
    """

    def __init__(self, make: Callable[[], Job], log: Path) -> None:
        self.make, self.log = make, log
        self.connection: Connection | None = None
        self._process: multiprocessing.process.BaseProcess | None = None

    @property
    def pid(self) -> int | None:
        """The number of the process; None if there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, which has what it has imported and prepared."""
        return self._process is not None and self._process.is_alive()

    def send(self, request: dict[str, Any]) -> None:
        """Begin a job."""
        if not self.is_alive:
            self.end()
            self._start()
        assert self.connection is not None
        try:
            self.connection.send(request)
        except OSError:
            return  # it has died since; receive says so

    def _start(self) -> None:
        # A new interpreter: threads of torch, polars and others do not live through a fork.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(self.make, theirs, self.log, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()

    def receive(self) -> tuple[str, Any]:
        """Return what it says next; that it has died is said as an end by a fault."""
        assert self.connection is not None
        try:
            what, payload = self.connection.recv()
        except (EOFError, OSError):
            what, payload = FAULT, self._death()
        if what == FAULT:
            self.end()
        return what, payload

    def answer(self, value: Any) -> None:
        """Answer what it has asked."""
        assert self.connection is not None
        try:
            self.connection.send(value)
        except OSError:
            return  # it has died; receive says so

    def _death(self) -> str:
        assert self._process is not None
        self._process.join()
        code = self._process.exitcode or 0
        if code == -signal.SIGKILL:
            return (
                "its process was killed (signal 9): by hand, or because the machine ran out of "
                "memory"
            )
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"its process died ({how}); see {self.log}"

    def stop(self) -> None:
        """Have no more jobs."""
        self.end()

    def end(self) -> None:
        """End the process; the next job gets a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self.connection is not None:
            self.connection.close()
        self._process = self.connection = None


def speaking(workers: Sequence[Worker]) -> list[Worker]:
    """Wait until workers have something to say, and return those; a single one can be listened to.

    Args:
        workers: With a job each.
    """
    if len(workers) == 1:
        return list(workers)
    waited = {one.connection: one for one in workers if one.connection is not None}
    return [waited[one] for one in multiprocessing.connection.wait(list(waited))]  # type: ignore[index]


def _work(make: Callable[[], Job], connection: Connection, log: Path, parent: int) -> None:
    """Be a worker."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Of a terminal it is the parent's business, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # By default a semaphore of the system's, which a process that is killed leaves behind.
    tqdm.set_lock(threading.RLock())
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        job: Job | None = None

        def ask(what: str, payload: Any) -> Any:
            connection.send((what, payload))
            return connection.recv()

        while True:
            try:
                request = connection.recv()
            except EOFError:
                return
            try:
                job = job or make()
                outcome = job(request, ask)
            except BaseException as error:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                # Memory and threads may be in any state: the next trial gets a new process.
                words = " ".join(str(error).split())[:300]
                connection.send((FAULT, f"{type(error).__name__}: {words}"))
                return
            connection.send((END, outcome))


def _end_with(parent: int) -> None:
    """End this process when its parent is no more."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
