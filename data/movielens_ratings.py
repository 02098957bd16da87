"""MovieLens-1M as the benchmark of table kinds: is a rating good (4, 5) or bad (1, 2)?

Ratings of 3 are dropped, which leaves 739,012 rows; a random split in 8:1:1, the same in every run;
six features whose 13,177 ids are all known, wherever they occur, and no index for unknown ones:

    user 6,040 + movie 3,668 + zip 3,439 + gender 2 + age 7 + occupation 21

So the bytes of a table kind compare with published ones id by id. It is a benchmark and no
deployment: ids that only the test file has keep their untrained vectors, and a random split lets
the model see a user's future. ``data/movielens.py`` has neither fault.

Source: Coleman et al., "Unified Embedding: Battle-Tested Feature Representations for Web-Scale ML
Systems", NeurIPS 2023, arXiv:2305.12102, in the form that its published code has; the split is that
of Song et al., "AutoInt", CIKM 2019, arXiv:1810.11921, with rows of our own drawing.
"""

from pathlib import Path

import numpy as np
import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import IdColumn
from recemb.data.files import cache_root, find_raw
from recemb.data.movielens import RATINGS, write_parts
from recemb.data.prepared import Prepared
from recemb.data.raw_files import Kind, read_raw
from recemb.data.tabular import STAGES

FEATURES = ("user", "movie", "zip", "gender", "age", "occupation")
USERS: dict[str, Kind] = {
    "user": "integers", "gender": "values", "age": "values", "occupation": "values",
    "zip": "values",
}  # fmt: skip
"""Columns of ``users.parquet`` that are read."""
SPLIT_SEED = 2018
"""Part of the protocol: another one would be another test set."""
FORMAT = "ratings-2"
"""Names what :func:`prepare` writes; it changes with the content, so no stale folder is read."""


def prepare(source: Path, folder: Path) -> Path:
    """Write the three parquet files; return their folder. Nothing is written a second time.

    Args:
        source: Holds ``ratings.parquet`` and ``users.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.

    Raises:
        RecembError: If a source file is missing; the message says where it was looked for.
    """
    names = ("ratings.parquet", "users.parquet")
    source = find_raw(source, names, "MovieLens-1M")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        rows = label_and_split(read_raw(paths[0], RATINGS))
        users = read_raw(paths[1], USERS)
        rows = rows.join(users, on="user", maintain_order="left")
        write_parts(rows.select(*FEATURES, "label", "part"), new)

    return prepared_folder(folder, f"movielens1m-{FORMAT}", paths, {}, write)


def label_and_split(ratings: pl.DataFrame) -> pl.DataFrame:
    """Return the ratings but the 3s by user and time, with ``label`` and ``part``.

    Of N rows the first round(0.8 N) of a random order are train, those up to round(0.9 N)
    validation, the rest test.
    """
    rows = ratings.filter(pl.col("rating") != 3).sort("user", "pos")
    # The old generator: numpy promises that its numbers never change.
    order_N = np.random.RandomState(SPLIT_SEED).permutation(len(rows))
    part_N = np.empty(len(rows), dtype=np.int8)
    cuts = [round(0.8 * len(rows)), round(0.9 * len(rows))]
    for part, places in enumerate(np.split(order_N, cuts)):
        part_N[places] = part
    return rows.select(
        "user",
        "movie",
        label=(pl.col("rating") > 3).cast(pl.Int8),
        part=pl.Series(part_N).replace_strict(range(3), STAGES, return_dtype=pl.String),
    )


class MovieLensRatings(Prepared):
    """The benchmark's rows and its 13,177 ids, prepared on first use into the cache folder.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``ml-1m``.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows; the split has a fixed one of its own.
        raw: Whether ids come as they are, numbers and hashes of strings, with no vocabulary.
    """

    keys = {"user": "user", "movie": "movie"}

    def __init__(
        self,
        *,
        source: str | None = None,
        batch_size: int = 1024,
        eval_batch_size: int = 8192,
        seed: int = 1,
        raw: bool = False,
    ) -> None:
        self.source = Path(source or "ml-1m")
        column = IdColumn(raw=True) if raw else IdColumn(unknown="error")
        super().__init__(
            folder=str(cache_root()),
            label="label",
            categorical=dict.fromkeys(FEATURES, column),
            known_from=("train",) if raw else STAGES,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root())
