"""Locks: one holder, who is named, and who lets go however it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recemb.errors import RecembError
from recemb.locks import Lock, held

HOLD = """
import sys, time
from pathlib import Path
from recemb.locks import Lock
assert Lock(Path(sys.argv[1])).take()
print("held", flush=True)
time.sleep(60)
"""


def test_one_holder_at_a_time(tmp_path):
    first, second = Lock(tmp_path / "a/lock"), Lock(tmp_path / "a/lock")
    assert first.take()
    assert not second.take()
    first.give_back()
    assert second.take()
    second.give_back()


def test_a_lock_names_its_holder_and_leaves_nothing_where_asked(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert lock.take()
    said = Lock(tmp_path / "lock").holder
    own = rf"process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\d "
    assert re.match(own + r"\d\d:\d\d:\d\d [+-]\d{4}$", said), said
    lock.give_back(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_by_its_holder_is_not_the_lock(tmp_path):
    """Whoever opened the old file before its removal must not hold it beside the new one."""
    path = tmp_path / "lock"
    first, waiting, third = Lock(path), Lock(path), Lock(path)
    assert first.take()
    old = os.open(path, os.O_RDWR)
    first.give_back(remove=True)
    assert third.take()
    assert not waiting._is_there(old)
    assert not waiting.take()
    os.close(old)
    third.give_back()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signals")
def test_a_killed_holder_lets_go(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not Lock(path).take()
        assert f"process {holder.pid} on " in Lock(path).holder
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with held(path):
            assert f"process {os.getpid()} on " in Lock(path).holder
    finally:
        holder.kill()
        holder.communicate()


def test_what_is_no_folder_is_said_in_a_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecembError, match="cannot be written"):
        Lock(tmp_path / "file/lock").take()
