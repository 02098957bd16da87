"""Split: one file of rows as files to train, validate and test on.

By time, where rows have one: the last tenth is the test, the tenth before it validation. Else by a
hash of each row's number, in the same shares. The parts have the form of the file.
"""

from pathlib import Path

import polars as pl
import torch

from recemb.data.encode import error_in
from recemb.data.times import times_of
from recemb.data.values import ValueAtError
from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.hashing import rows_of
from recemb.text_lines import SEPARATORS

STAGES = ("train", "validation", "test")
LEAST = 30
"""Rows that a split needs."""
_SALT = 0x51D3
_ROW_GROUP = 65_536


def split(
    path: Path, rows: pl.DataFrame, time: str | None, time_format: str | None = None
) -> dict[str, pl.DataFrame]:
    """Return the rows of each stage, in the order of the file.

    Args:
        path: The file, named in errors.
        rows: All of it.
        time: Its column of times, or None.
        time_format: Of times that are text of another form than ISO 8601.

    Raises:
        RecembError: If there are too few rows, or a value is no time.
    """
    count = len(rows)
    if count < LEAST:
        raise RecembError(f"{path}: a split needs at least {LEAST} rows, got {count}; get more")
    if time is None:
        number_N = torch.arange(count)
        salt_N = torch.full_like(number_N, _SALT)
        tenth_N = rows_of(number_N, salt_N, torch.full_like(number_N, 10)).numpy()
        tenth = pl.Series("", tenth_N)
    else:
        try:
            order = times_of(rows[time], time_format).number.rank("ordinal").cast(pl.Int64) - 1
        except ValueAtError as error:
            raise error_in(path, time, error) from None
        tenth = 9 - order * 10 // count
    is_of = {"train": tenth > 1, "validation": tenth == 1, "test": tenth == 0}
    return {stage: rows.filter(is_of[stage]) for stage in STAGES}


def write_parts(parts: dict[str, pl.DataFrame], folder: Path, suffix: str) -> None:
    """Write the rows of each stage into a folder, as ``train.csv`` and so on.

    Args:
        parts: By stage.
        folder: Made if it is not there.
        suffix: ``.parquet``, ``.csv`` or ``.tsv``.
    """
    for stage, rows in parts.items():
        with whole_file(folder / f"{stage}{suffix}") as temporary:
            if suffix == ".parquet":
                rows.write_parquet(temporary, row_group_size=_ROW_GROUP)
            else:
                rows.write_csv(temporary, separator=SEPARATORS[suffix])
