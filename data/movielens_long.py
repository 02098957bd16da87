"""MovieLens-1M with long histories: which movie does a user rate next, after rating 200?

A behaviour is a rating, whatever its stars; the category of a movie is its first genre. Users with
at least 210 ratings, histories of 200; a user's last rating is test, the one before it validation.
Negatives are movies that their user never rates: a user rates a movie once, so a movie of the
history could not be a positive.

Source: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015; the protocol is that of
:mod:`recemb.data.long_histories`.
"""

from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import AttributeFile, IdColumn, ListColumn
from recemb.data.files import cache_root, find_raw
from recemb.data.long_histories import Log, Protocol, read_log, write_rows
from recemb.data.movielens import RATINGS
from recemb.data.prepared import Prepared
from recemb.data.raw_files import read_raw

PROTOCOL = Protocol(unmet=True, targets=80)
FORMAT = "long-2"
"""Names what :func:`prepare` writes; it changes with the content, so no stale folder is read."""


def prepare(source: Path, folder: Path, protocol: Protocol = PROTOCOL) -> Path:
    """Write ``train``, ``validation``, ``test`` and ``items`` parquet files; return their folder.

    Nothing is written a second time.

    Args:
        source: Holds ``ratings.parquet`` and ``movies.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.
        protocol: How rows are made.

    Raises:
        RecembError: If a source file is missing; the message says where it was looked for.
    """
    protocol.check()
    names = ("ratings.parquet", "movies.parquet")
    source = find_raw(source, names, "MovieLens-1M")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        ratings = read_raw(paths[0], RATINGS)
        behaviours = ratings.select("user", item="movie", time="pos")
        log = read_log(behaviours, paths[0], protocol.min_behaviours)
        # The rank of a rating is no time: only the order is known.
        log = Log(log.user_U, log.start_U, log.item_N, None)
        write_rows(log, protocol, new)
        movies = read_raw(paths[1], {"movie": "integers", "genres": "lists"})
        first = pl.col("genres").list.first()
        movies.select(item="movie", category=first).write_parquet(new / "items.parquet")

    return prepared_folder(folder, f"movielens1m-{FORMAT}", paths, asdict(protocol), write)


class MovieLensLong(Prepared):
    """MovieLens-1M with long histories, prepared on first use into the cache folder.

    Columns: ``item`` and its history ``history_item``, which share a vocabulary; the attribute
    ``category`` of an item.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``ml-1m``.
        history_length: Behaviours of the longest history.
        targets: Training targets per user at most.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows; the negatives have a fixed one of their own.
    """

    keys = {"user": "user", "item": "item"}

    def __init__(
        self,
        *,
        source: str | None = None,
        history_length: int = PROTOCOL.history_length,
        targets: int = PROTOCOL.targets,
        batch_size: int = 2048,
        eval_batch_size: int = 2048,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "ml-1m")
        self.protocol = replace(PROTOCOL, history_length=history_length, targets=targets)
        super().__init__(
            folder=str(cache_root()),
            label="label",
            categorical={"item": IdColumn()},
            lists={"history_item": ListColumn(vocabulary="item")},
            attributes=AttributeFile(
                path="items.parquet", key="item", categorical={"category": IdColumn()}
            ),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root(), self.protocol)
