"""MovieLens-1M as click data: one row per rating, its history cut from the user's past.

A thin file over the generic reader: :func:`prepare` writes ``train``, ``validation`` and ``test``
parquet files and ``movies.parquet`` (what is known of a movie) with the columns that
``configs/din/movielens1m.yaml`` names. It knows nothing of tables or models.

Source: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015.
"""

from pathlib import Path

import numpy as np
import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import AttributeFile, IdColumn, ListColumn
from recemb.data.files import ROW_GROUP, cache_root, find_raw
from recemb.data.prepared import Prepared
from recemb.data.raw_files import Kind, read_raw
from recemb.data.tabular import STAGES

HISTORY_LENGTH = 50
POSITIVE_RATING = 4
RATINGS: dict[str, Kind] = dict.fromkeys(("user", "movie", "rating", "pos"), "integers")
"""Columns of ``ratings.parquet`` that are read; ``pos`` is a rating's place in its user's time."""
FORMAT = "ctr-2"
"""Names what :func:`prepare` writes; it changes with the content, so no stale folder is read."""


def prepare(source: Path, folder: Path) -> Path:
    """Write the four parquet files of the click-through-rate task; return their folder.

    A row is one rating; ``label`` is 1 for 4 and 5 stars. Its history is the user's last 50
    positive movies strictly before it, oldest first. By time rank within each user the last tenth
    of the rows is test, the tenth before it validation. Nothing is written a second time.

    Args:
        source: Holds ``ratings.parquet``, ``users.parquet`` and ``movies.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.

    Raises:
        RecembError: If a source file is missing; the message says where it was looked for.
    """
    names = ("ratings.parquet", "users.parquet", "movies.parquet")
    source = find_raw(source, names, "MovieLens-1M")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        rows = label_and_split(read_raw(paths[0], RATINGS))
        users = read_raw(paths[1], {"user": "integers"})
        rows = rows.join(users, on="user", maintain_order="left")
        rows = rows.with_columns(history_movie=histories(rows))
        write_parts(rows.drop("pos"), new)
        read_movies(paths[2]).write_parquet(new / "movies.parquet")

    return prepared_folder(folder, f"movielens1m-{FORMAT}", paths, {}, write)


def write_parts(rows: pl.DataFrame, folder: Path) -> None:
    """Write the rows of each ``part`` as a file of that name."""
    for part in STAGES:
        chosen = rows.filter(pl.col("part") == part).drop("part")
        chosen.write_parquet(folder / f"{part}.parquet", row_group_size=ROW_GROUP)


def label_and_split(ratings: pl.DataFrame) -> pl.DataFrame:
    """Return the ratings by user and time with ``label`` and ``part`` (train, validation, test)."""
    pos, count = pl.col("pos"), pl.len().over("user")
    part = (
        pl.when(pos * 10 >= count * 9)
        .then(pl.lit("test"))
        .when(pos * 10 >= count * 8)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    return ratings.sort("user", "pos").select(
        "user",
        "movie",
        "pos",
        label=(pl.col("rating") >= POSITIVE_RATING).cast(pl.Int8),
        part=part,
    )


def histories(rows: pl.DataFrame, length: int = HISTORY_LENGTH) -> pl.Series:
    """Return, for each row, the user's last ``length`` positive movies before it, oldest first.

    Args:
        rows: Sorted by user and time, with columns ``user``, ``movie`` and ``label``.
        length: Of the longest history, at least 1.
    """
    user_N = rows["user"].to_numpy()
    label_N = rows["label"].to_numpy().astype(np.int64)
    positives_M = rows["movie"].to_numpy()[label_N == 1]
    # A row's history ends at the number of positives above it and starts no earlier than the
    # number of positives above its user's first row.
    stop_N = np.cumsum(label_N) - label_N
    first_of_user_N = np.r_[True, user_N[1:] != user_N[:-1]]
    user_start_N = stop_N[first_of_user_N][np.cumsum(first_of_user_N) - 1]
    start_N = np.maximum(stop_N - length, user_start_N)
    length_N = stop_N - start_N
    offset_N = np.cumsum(length_N) - length_N
    index = np.arange(length_N.sum()) + np.repeat(start_N - offset_N, length_N)
    flat = pl.DataFrame({"row": np.repeat(np.arange(len(rows)), length_N), "m": positives_M[index]})
    lists = flat.group_by("row", maintain_order=True).agg("m")
    every = pl.DataFrame({"row": np.arange(len(rows))}).join(lists, on="row", how="left")
    return every["m"].fill_null([]).alias("history_movie")


def read_movies(path: Path) -> pl.DataFrame:
    """Return what a raw file says of movies; see :func:`describe_movies`."""
    return describe_movies(
        read_raw(path, {"movie": "integers", "title": "texts", "genres": "lists"})
    )


def describe_movies(movies: pl.DataFrame) -> pl.DataFrame:
    """Return movie, year (of the title's last brackets) and genres."""
    return movies.select(
        "movie",
        year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64),
        genres="genres",
    )


class MovieLens1M(Prepared):
    """MovieLens-1M for click-through-rate models, prepared on first use into the cache folder.

    Args:
        label: Column of 0 and 1.
        categorical: Columns with one id per row.
        lists: Columns with a list of ids per row.
        attributes: What is known of a movie.
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``ml-1m``.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows.
    """

    keys = {"user": "user", "movie": "movie"}

    def __init__(
        self,
        *,
        label: str,
        categorical: dict[str, IdColumn],
        lists: dict[str, ListColumn] | None = None,
        attributes: AttributeFile | None = None,
        source: str | None = None,
        batch_size: int = 4096,
        eval_batch_size: int = 8192,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "ml-1m")
        super().__init__(
            folder=str(cache_root()),
            label=label,
            categorical=categorical,
            lists=lists,
            attributes=attributes,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root())
