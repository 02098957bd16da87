"""Criteo display advertising (Kaggle 2014): 13 numbers and 26 hashed categories per impression.

Numbers are counts with long tails, so each goes through a logarithm before it is standardised:
log(x + 1), and log(x + 4) for I2, whose smallest value is -3. It is the transformation of the Deep
& Cross papers; the winners' log(x)^2 for x > 2 is made for cutting numbers into categories, and
jumps from 2 down to 0.5 there. A missing number is 0. A missing category is a value of its own,
``missing``; categories seen fewer than ``min_count`` times in training share one index.

Source: Wang et al., "Deep & Cross Network for Ad Click Predictions", ADKDD 2017, arXiv:1708.05123,
section 4.1, for numbers; Song et al., "AutoInt", CIKM 2019, arXiv:1810.11921, for the random split
in 8:1:1 and the rare categories.
"""

from pathlib import Path

import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import IdColumn, NumberColumn
from recemb.data.files import cache_root, find
from recemb.data.prepared import Prepared
from recemb.data.raw_log import scan_log, write_log

NUMBERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
LOWEST = {"I2": -3}
"""The smallest value of a number that is not 0."""
MISSING = "missing"
"""The category of an empty cell."""
FORMAT = "2"
"""Names what :func:`prepare` writes; it changes with the content, so no stale folder is read."""

RAW: dict[str, type[pl.DataType]] = {
    "label": pl.Int8,
    **dict.fromkeys(NUMBERS, pl.Int64),
    **dict.fromkeys(CATEGORIES, pl.String),
}
"""The columns of the raw file, in their order."""


def prepare(source: Path, folder: Path) -> Path:
    """Write the three parquet files; return their folder. Nothing is written a second time.

    Args:
        source: Kaggle's ``train.txt``, or its columns as parquet, CSV or TSV with their names.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.

    Raises:
        RecembError: If the source is missing or does not hold what it should.
    """
    rows = scan_log(source, RAW)

    def write(new: Path) -> None:
        write_log(rows.with_columns(*_numbers(), *_categories()), source, new, RAW)

    return prepared_folder(folder, f"criteo-{FORMAT}", [source], {}, write)


def _numbers() -> list[pl.Expr]:
    """Return log(x - lowest + 1) of each number."""
    found = []
    for name in NUMBERS:
        low = LOWEST.get(name, 0)
        found.append((pl.col(name).fill_null(0).clip(low) - low).log1p().cast(pl.Float32))
    return found


def _categories() -> list[pl.Expr]:
    return [pl.col(name).fill_null(MISSING) for name in CATEGORIES]


class Criteo(Prepared):
    """Criteo's impressions, prepared on first use into the cache folder.

    Args:
        source: The raw file (see :func:`prepare`), in the current folder or ``$RECEMB_DATA``.
        min_count: Categories seen less often in training are unknown.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows; the split depends on the row's number alone.
    """

    def __init__(
        self,
        *,
        source: str = "criteo/train.txt",
        min_count: int = 10,
        batch_size: int = 4096,
        eval_batch_size: int = 8192,
        seed: int = 1,
    ) -> None:
        self.source = Path(source)
        super().__init__(
            folder=str(cache_root()),
            label="label",
            categorical={name: IdColumn(min_count=min_count) for name in CATEGORIES},
            dense={name: NumberColumn() for name in NUMBERS},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(find(self.source), cache_root())
