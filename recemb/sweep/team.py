"""Team: a worker in each process that ``torchrun`` has started; together they train one trial.

The processes themselves do not train. Only the workers form the process group of a training, so a
trial that ends badly in one of them takes the workers with it and nothing else: the next one gets
new workers and a new group. The first process says what is done, and is asked; the others follow.
"""

import functools
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from recemb import processes
from recemb.sweep.trials import FAILED
from recemb.sweep.worker import END, FAULT, Job, Worker

PATIENCE = timedelta(days=365)
"""How long processes wait for each other: for a training, and for other commands. One that dies is
noticed at once all the same: its connections close."""
GLANCE_S = 0.5
"""Between two looks at whether a job has failed elsewhere."""
IS_LOST = "is_lost"
"""An entry of outcomes that have failed only because another worker was lost."""


class Team(Worker):
    """The worker of this process, which does jobs together with those of the others.

    Making it, sending, receiving an end and stopping wait for the other processes, which
    :meth:`follow`. A job ends badly if it fails in one process; the reason is that of the first
    that did.

    Args:
        make: Makes what does the jobs, given the name under which the workers of a group meet;
            importable by name. That of the first process asks, and shares the answers.
        log: Where what the worker prints goes.
    """

    def __init__(self, make: Callable[[str], Job], log: Path) -> None:
        # Objects are sent: gloo, also where the workers have NCCL.
        dist.init_process_group("gloo", timeout=PATIENCE)
        super().__init__(functools.partial(make, ""), log)
        self._make = make
        self._store = processes.meeting_place()
        self._groups = 0
        self._meeting = ""
        self._is_busy = False

    def send(self, request: dict[str, Any]) -> None:
        """Begin a job in all processes; for the first one."""
        self._groups += not self.is_alive
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the store outlives it
        job = f"recemb/team-{life}-{self._groups}", request
        _from_first(job)
        self._begin(*job)

    def follow(self) -> None:
        """Take part in jobs until the first process stops; for the others."""
        while (job := _from_first(None)) is not None:
            self._begin(*job)
            self.receive()
        self.end()
        dist.destroy_process_group()

    def _begin(self, meeting: str, request: dict[str, Any]) -> None:
        self.make = functools.partial(self._make, meeting)
        self._meeting, self._is_busy = meeting, True
        super().send(request)

    def receive(self) -> tuple[str, Any]:
        """Return what the worker says next; an end is that of all."""
        assert self.connection is not None
        while not self.connection.poll(GLANCE_S):
            if self._store.check([f"{self._meeting}/failed"]):
                # What the worker does may wait for the lost one, and for how long is its own rule.
                lost = {"state": FAILED, "reason": "another process was lost", IS_LOST: True}
                return self._agreed((END, lost))
        said = super().receive()
        return self._agreed(said) if said[0] in (END, FAULT) else said

    def _agreed(self, said: tuple[str, Any]) -> tuple[str, Any]:
        """Return how a job has ended that has ended like this here."""
        what, payload = said
        is_bad = what == FAULT or payload["state"] == FAILED
        if is_bad:
            self._store.set(f"{self._meeting}/failed", "")
        is_lost = what == END and payload.get(IS_LOST, False)
        rank = dist.get_rank()
        reason = f"process {rank}: {payload}" if what == FAULT else payload
        ends: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ends, (is_bad, is_lost, time.time(), rank, (what, reason)))
        self._is_busy = False
        bad = [end[1:] for end in ends if end[0]]
        if not bad:
            return said
        self.end()
        what, reason = min(bad)[-1]
        return what, reason

    def stop(self) -> None:
        """End the workers of all processes, and let the others go; for the first one."""
        with suppress(RuntimeError):  # another process may be gone
            if self._is_busy:
                self._agreed((FAULT, "the command has ended"))
            _from_first(None)
        self.end()
        dist.destroy_process_group()


def _from_first(value: Any) -> Any:
    """Return what the first process has given."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
