"""Workers: they keep what they have, die of one job without the next, and with their parent."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

from recemb.sweep.worker import END, FAULT, Worker


class Counting:
    """Counts its jobs, and does as it is told."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, request, ask):
        self.done += 1
        if request["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if request["do"] == "raise":
            raise MemoryError("could not allocate 9 TB")
        if request["do"] == "sleep":
            time.sleep(60)
        return {"number": self.done, "heard": ask("question", 3), "pid": os.getpid()}


def finish(worker: Worker, request: dict) -> tuple:
    worker.send(request)
    while (said := worker.receive())[0] not in (END, FAULT):
        worker.answer(said[1] + 1)
    return said


def test_a_worker_lives_through_jobs_and_dies_of_one(tmp_path):
    worker = Worker(Counting, tmp_path / "log")
    try:
        first, second = (finish(worker, {"do": "count"}) for _ in range(2))
        assert [first[1]["number"], second[1]["number"]] == [1, 2]
        assert first[1]["heard"] == 4
        assert first[1]["pid"] == second[1]["pid"] != os.getpid()
        what, reason = finish(worker, {"do": "die"})
        assert what == FAULT
        assert "killed (signal 9)" in reason
        assert "memory" in reason
        # The next one gets a new process.
        assert finish(worker, {"do": "count"})[1]["number"] == 1
        assert finish(worker, {"do": "raise"}) == (FAULT, "MemoryError: could not allocate 9 TB")
        assert "Traceback" in (tmp_path / "log").read_text()
    finally:
        worker.stop()


def _parent(folder: Path) -> None:
    worker = Worker(Counting, folder / "log")
    finish(worker, {"do": "count"})
    worker.send({"do": "sleep"})
    (folder / "pid.part").write_text(str(worker.pid))
    (folder / "pid.part").rename(folder / "pid")
    time.sleep(60)


def test_a_worker_ends_with_its_parent(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(target=_parent, args=(tmp_path,))
    parent.start()
    _until((tmp_path / "pid").is_file)
    pid = int((tmp_path / "pid").read_text())
    os.kill(pid, 0)  # it is there
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _until(lambda: not _is_alive(pid))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _until(is_so, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
