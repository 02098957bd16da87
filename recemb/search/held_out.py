"""Batches of the rows that are held out of training, for what learns from them."""

import itertools
from collections.abc import Generator
from typing import Any

from lightning import Trainer


def endless_batches(trainer: Trainer, passed: int = 0) -> Generator[Any]:
    """Yield held-out batches for ever; the order depends on the epoch and on nothing else.

    Close it in the end: a loader reads ahead in a thread.

    Args:
        trainer: Whose epoch it is.
        passed: Batches that the epoch has had, where it is resumed inside.
    """
    yield from itertools.islice(_endless(trainer), passed, None)


def _endless(trainer: Trainer) -> Generator[Any]:
    loader = trainer.datamodule.search_dataloader()  # type: ignore[attr-defined]
    turn = 0
    while True:
        loader.set_epoch(trainer.current_epoch * 1000 + turn)
        yield from loader
        turn += 1
