"""How processes end: one line for all of them, and none is aborted at its exit."""

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


ABORT_AT_EXIT = """
import atexit, ctypes, sys
from recemb import processes

atexit.register(print, "at the exit")
libc = ctypes.CDLL(None)
libc.__cxa_atexit(libc.abort, None, None)
processes.end(int(sys.argv[1]))
"""


def test_one_of_several_ends_before_libraries_do():
    """As gloo's threads do now and then, something aborts the process when libraries end."""
    command = [sys.executable, "-c", ABORT_AT_EXIT]
    alone = {name: value for name, value in os.environ.items() if name != "RANK"}
    variables = {**alone, "PYTHONPATH": os.getcwd()}
    for code in (0, 3):
        ended = subprocess.run(
            [*command, str(code)], env={**variables, "RANK": "1"}, capture_output=True, text=True
        )
        assert ended.returncode == code, ended.stderr
        assert ended.stdout == "at the exit\n"
    ended = subprocess.run([*command, "0"], env=variables, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGABRT
