"""Teams: what goes wrong in one worker is the end of a job in all, and of nothing else."""

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest

from recemb import processes
from recemb.sweep.team import IS_LOST, Team
from recemb.sweep.trials import COMPLETE, FAILED
from recemb.sweep.worker import END, FAULT

PROCESSES = 2
REQUESTS = [{}, {"mistaken": 1}, {}, {"killed": 1}]
"""Jobs, and in which process one goes wrong while the other waits for it."""


class Summing:
    """Adds up a number of each process, unless told to go wrong; each asks what to add."""

    def __init__(self, meeting: str) -> None:
        processes.start(meeting)
        self.jobs = 0

    def __call__(self, request, ask):
        self.jobs += 1
        own = processes.rank()
        if own == request.get("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if own == request.get("mistaken"):
            return {"state": FAILED, "reason": "no such file"}
        try:
            heard = processes.from_first(None if own else ask("what", 20))
            numbers = processes.from_all(heard + own)
        except RuntimeError:
            return {"state": FAILED, "reason": "another was lost", IS_LOST: True}
        return {"state": COMPLETE, "numbers": numbers, "jobs": self.jobs}


def be_process(rank: int, port: int, folder: Path) -> None:
    """Be what torchrun starts; the first writes down how the jobs have ended."""
    here = {"RANK": rank, "WORLD_SIZE": PROCESSES, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    team = Team(Summing, folder / f"{rank}.log")
    if rank:
        team.follow()
        return
    said = []
    for request in REQUESTS:
        team.send(request)
        while (heard := team.receive())[0] not in (END, FAULT):
            team.answer(heard[1] + 1)
        said.append(heard)
    team.stop()
    (folder / "said.json").write_text(json.dumps(said))


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> list:
    """How the jobs have ended."""
    folder = tmp_path_factory.mktemp("team")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    members = [
        context.Process(target=be_process, args=(rank, port, folder)) for rank in range(PROCESSES)
    ]
    for one in members:
        one.start()
    for one in members:
        one.join(200)
        if one.is_alive():
            one.kill()
        assert one.exitcode == 0
    return json.loads((folder / "said.json").read_text())


def test_all_hear_what_the_first_is_answered(said):
    assert said[0] == [END, {"state": COMPLETE, "numbers": [21, 22], "jobs": 1}]


def test_the_reason_is_that_of_the_one_that_failed(said):
    assert said[1] == [END, {"state": FAILED, "reason": "no such file"}]


def test_after_a_bad_end_there_are_new_workers(said):
    assert said[2] == said[0]


def test_a_worker_that_is_killed_ends_the_job_of_all(said):
    what, reason = said[3]
    assert what == FAULT
    assert reason.startswith("process 1: its process was killed (signal 9)")
