"""MovieLens-1M for rating prediction: how many stars does a user give a movie?

All 1,000,209 ratings, a random split in 8:1:1, the same in every run; two features, whose ids are
those that training has, and one for others.

Source: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015.
"""

from pathlib import Path

import numpy as np
import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import IdColumn
from recemb.data.files import cache_root, find_raw
from recemb.data.movielens import RATINGS, write_parts
from recemb.data.prepared import Prepared
from recemb.data.raw_files import read_raw
from recemb.data.tabular import STAGES

SPLIT_SEED = 2020
"""Part of the protocol: another one would be another test set."""
FORMAT = "stars-2"
"""Names what :func:`prepare` writes; it changes with the content, so no stale folder is read."""


def prepare(source: Path, folder: Path) -> Path:
    """Write the three parquet files; return their folder. Nothing is written a second time.

    Args:
        source: Holds ``ratings.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.

    Raises:
        RecembError: If the source file is missing; the message says where it was looked for.
    """
    name = "ratings.parquet"
    path = find_raw(source, (name,), "MovieLens-1M") / name

    def write(new: Path) -> None:
        write_parts(split(read_raw(path, RATINGS)), new)

    return prepared_folder(folder, f"movielens1m-{FORMAT}", [path], {}, write)


def split(ratings: pl.DataFrame) -> pl.DataFrame:
    """Return user, movie, rating and ``part``: of a random order 8 tenths train, a tenth each rest.

    Args:
        ratings: With ``pos``, the place in time of a user's rating.
    """
    rows = ratings.sort("user", "pos").select("user", "movie", "rating")
    # The old generator: numpy promises that its numbers never change.
    order_N = np.random.RandomState(SPLIT_SEED).permutation(len(rows))
    part_N = np.empty(len(rows), dtype=np.int8)
    for part, places in enumerate(
        np.split(order_N, [round(0.8 * len(rows)), round(0.9 * len(rows))])
    ):
        part_N[places] = part
    parts = pl.Series(part_N).replace_strict(range(3), STAGES, return_dtype=pl.String)
    return rows.with_columns(part=parts)


class MovieLensRatingPrediction(Prepared):
    """Ratings of 1 to 5 by user and movie, prepared on first use into the cache folder.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``ml-1m``.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows; the split has a fixed one of its own.
    """

    keys = {"user": "user", "movie": "movie"}

    def __init__(
        self,
        *,
        source: str | None = None,
        batch_size: int = 4096,
        eval_batch_size: int = 8192,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "ml-1m")
        super().__init__(
            folder=str(cache_root()),
            label="rating",
            label_type="number",
            categorical={name: IdColumn() for name in ("user", "movie")},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root())
