"""One line for all processes, also where ``torchrun`` ends the one that is about to write it."""

import os
import signal
import subprocess
import sys

import torch.distributed as dist

from recemb import processes

LOSE_ANOTHER_TWICE = """
import os, signal
from recemb import processes
from recemb.distributed.lost import EndOnSignal, leave

EndOnSignal("recemb fit")
ask = processes._is_first_to_ask

def ask_and_be_ended():
    first = ask()
    processes._is_first_to_ask = ask
    os.kill(os.getpid(), signal.SIGTERM)
    return first

processes._is_first_to_ask = ask_and_be_ended
leave("recemb fit", None, "a connection was closed")
"""


def meeting_point() -> tuple[dist.TCPStore, dict[str, str]]:
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return store, {"RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}


def test_one_process_speaks_of_all(monkeypatch):
    _store, variables = meeting_point()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answers = []
    for _ in range(3):
        with processes.first_to_speak() as is_first:
            answers.append(is_first)
    assert answers == [True, False, False]


def test_sigterm_waits_for_the_line_and_is_not_lost():
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        with processes.first_to_speak() as is_first:
            signal.raise_signal(signal.SIGTERM)
            assert is_first
            assert came == []
        assert came == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_that_is_ended_while_it_asks_still_speaks():
    _store, variables = meeting_point()
    ended = subprocess.run(
        [sys.executable, "-c", LOSE_ANOTHER_TWICE],
        env={**os.environ, **variables, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 3
    assert ended.stderr.count("recemb fit: another process was lost") == 1, ended.stderr
