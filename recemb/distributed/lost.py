"""A lost process: the others say so on one line, and how to go on, and end without waiting.

Two signs tell that one is gone: a message to it fails or is not answered in time, and ``torchrun``,
which sees processes of its machine die, ends the others by SIGTERM. Whichever is first.
"""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from recemb import processes

EXIT_CODE = 3
"""Of a process that has lost another."""

_SIGNS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed out|timeout|no route to host",
    re.IGNORECASE,
)


def is_sign(error: BaseException) -> bool:
    """Return whether an error says that another process is gone."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, dist.DistError):
            return True
        if isinstance(seen, RuntimeError | ConnectionError) and _SIGNS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def leave(what: str, folder: Path | None, reason: str) -> None:
    """Say that a process is lost, unless another has said so, and end this one at once.

    Nothing is cleaned up: what would be waits for the lost one.

    Args:
        what: Begins the line: the command.
        folder: Of the run, whose last checkpoint is named.
        reason: What this process has seen.
    """
    with processes.first_to_speak() as is_first:
        if is_first:
            last = folder / "checkpoints/last.ckpt" if folder is not None else None
            how = (
                f"{last} is whole, go on from it with --ckpt_path, or repeat the command with "
                "--resume"
                if last is not None and last.is_file()
                else "no checkpoint was written yet, start again"
            )
            seen = f"seen by {processes.rank()}: {reason}"
            # In one piece and past any buffer: the others may write too.
            sys.stdout.flush()
            os.write(2, f"{what}: another process was lost ({seen}); {how}\n".encode())
            os._exit(EXIT_CODE)
    os._exit(EXIT_CODE)


def short(error: BaseException) -> str:
    """Return an error's first words."""
    text = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split()))
    return text.partition(". ")[0][:100]


class EndOnSignal(Callback):
    """End at once when ``torchrun`` says so; Lightning would first wait for all processes.

    Args:
        what: Begins the line that is printed.

    Attributes:
        folder: Of the run, once it is known.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.folder: Path | None = None
        # From the start, and what Lightning restores when it has been interrupted.
        self.listen()

    def listen(self) -> None:
        """Handle the signal from now on."""

        def end(number: int, frame: Any) -> None:
            leave(self.what, self.folder, "torchrun has ended it")

        signal.signal(signal.SIGTERM, end)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handler, which is set just before."""
        self.listen()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handler."""
        self.listen()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handler."""
        self.listen()
