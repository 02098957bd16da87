"""Run folders: each is written by one run at a time, and a run that is refused leaves none."""

import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

from recemb.errors import RecembError
from recemb.files import ASIDE, LOCK, PART
from recemb.locks import Lock
from recemb.results import new_run

Begin = Literal["new", "resumed", "any"]
"""What a folder may hold: ``new``: nothing; ``resumed``: nothing, or a run that has not ended;
``any``: whatever it has, beside which this run writes."""
CONFIG, RESULTS = "config.yaml", "results.json"


class RunFolder:
    """A folder that this process alone writes until it is closed, however it ends.

    A folder that was new and has neither a checkpoint nor results by then is removed: the same
    command can be repeated. As a context manager it is closed at the end of the block.

    Args:
        path: Where; None: a new folder ``runs/<name>/<time>-<verb>``.
        verb: That writes it.
        name: Of what is run.
        begin: What it may hold.

    Raises:
        RecembError: If another run writes it, whose process is named, or it holds something else.
    """

    def __init__(
        self, path: Path | None, verb: str, name: str | None = None, begin: Begin = "new"
    ) -> None:
        lock = None
        while lock is None:
            self.path = path or new_run(verb, name or verb)
            self._was_there = self.path.is_dir()
            lock = Lock(self.path / f".run{LOCK}")
            if not lock.take():
                if path is not None:
                    raise RecembError(
                        f"{path}: the run folder is in use by {lock.holder}; wait until it has "
                        "ended, or name another folder"
                    )
                lock = None  # another process has found the same free name
        self._lock = lock
        self.is_new = not any(not is_leftover(one) for one in self.path.iterdir())
        mistake = self._mistake(begin)
        if mistake is not None:
            self.close()
            raise RecembError(f"{self.path}: {mistake}")

    def _mistake(self, begin: Begin) -> str | None:
        if self.is_new or begin == "any":
            return None
        if begin == "new":
            return "the run folder is not empty; name a new one"
        if (self.path / RESULTS).is_file():
            return "the run has ended; name a new one"
        is_ours = (self.path / CONFIG).is_file()
        return None if is_ours else "the folder is of no run; name another one"

    def close(self) -> None:
        """Let others have it; remove it where nothing came of it."""
        if self.is_new and not any(map(_is_result, self.path.rglob("*"))):
            for one in self.path.iterdir():
                if one != self._lock.path:
                    shutil.rmtree(one) if one.is_dir() else one.unlink()
            self._lock.give_back(remove=True)
            if not self._was_there:
                with suppress(OSError):  # another run may have begun there
                    self.path.rmdir()
        else:
            self._lock.give_back(remove=True)
        self.is_new = False

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def is_leftover(path: Path) -> bool:
    """Return whether a file is what writers have while they write, or left when they died."""
    return path.name.startswith(".") and path.suffix in (PART, ASIDE, LOCK)


def _is_result(path: Path) -> bool:
    return path.name == RESULTS or path.suffix == ".ckpt"
