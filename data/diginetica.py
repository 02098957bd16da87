"""Diginetica (CIKM Cup 2016): 186,670 training sessions, 60,858 tests, 43,097 items.

Every prefix of a training session is an example: 719,470. Tests are given as (prefix, target).
Validation is a twentieth of the training sessions, chosen by a hash of their numbers.

Source: the preprocessing of Wu et al., "Session-based Recommendation with Graph Neural Networks",
AAAI 2019, arXiv:1811.00855.
"""

from pathlib import Path

import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.files import cache_root, find_raw
from recemb.data.held_out import rows_of_side
from recemb.data.raw_files import read_raw
from recemb.data.sequences import (
    FORMAT,
    SequenceData,
    prefixes,
    training_rows,
    write_parts,
)

VALIDATION_SHARE = 0.05


def prepare(source: Path, folder: Path, max_length: int) -> Path:
    """Write the files; return their folder. Nothing is written a second time.

    Args:
        source: Holds ``train_sessions.parquet`` and ``test.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.
        max_length: Of histories.

    Raises:
        RecembError: If a source file is missing.
    """
    names = ("train_sessions.parquet", "test.parquet")
    source = find_raw(source, names, "Diginetica")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        sessions = read_raw(paths[0], {"session": "lists"})["session"]
        held = rows_of_side(VALIDATION_SHARE, True, 0, len(sessions)).numpy()
        kept = rows_of_side(VALIDATION_SHARE, False, 0, len(sessions)).numpy()
        test = read_raw(paths[1], {"prefix": "lists", "target": "integers"})
        parts = {
            "train": training_rows(sessions[kept], max_length),
            "validation": prefixes(sessions[held], max_length),
            "test": test.select(history=pl.col("prefix").list.tail(max_length), item="target"),
        }
        write_parts(parts, None, new, paths[0])

    settings = {"max_length": max_length, "validation_share": VALIDATION_SHARE}
    return prepared_folder(folder, f"diginetica-{FORMAT}", paths, settings, write)


class Diginetica(SequenceData):
    """Diginetica, prepared on first use into the cache folder.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``diginetica``.
        max_length: Keep the last so many items of a session.
        batch_size: Sessions per training batch.
        eval_batch_size: Rows per batch of the other stages.
        seed: Of the order of the training rows.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        max_length: int = 50,
        batch_size: int = 512,
        eval_batch_size: int = 1024,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "diginetica")
        super().__init__(
            folder=cache_root(),
            attributes=None,
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root(), self.max_length)
