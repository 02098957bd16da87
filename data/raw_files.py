"""Raw files: those of public data sets, as parquet with the columns that a data module names."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from recemb.errors import RecembError
from recemb.files import reading

Kind = Literal["integers", "texts", "lists", "values"]
"""What a column of a raw file holds."""
_IS_KIND: dict[Kind, Callable[[pl.DataType], bool]] = {
    "integers": lambda dtype: dtype.is_integer(),
    "texts": lambda dtype: dtype == pl.String,
    "lists": lambda dtype: isinstance(dtype, pl.List),
    "values": lambda dtype: not dtype.is_nested(),
}


def read_raw(path: Path, columns: Mapping[str, Kind]) -> pl.DataFrame:
    """Return all columns of a raw parquet file.

    Args:
        path: The file.
        columns: Those that it must have, and what they hold; none of them may hold a null.

    Raises:
        RecembError: If the file cannot be read, or a column is missing or not what it should be.
    """
    advice = "put the data set there again"
    with reading(path, "parquet file", advice):
        frame = pl.read_parquet(path, glob=False)
    for name, kind in columns.items():
        if name not in frame.columns:
            raise RecembError(
                f"{path}: column {name!r} is missing; the file has {frame.columns}; {advice}"
            )
        if not _IS_KIND[kind](frame[name].dtype):
            raise RecembError(
                f"{path}: column {name!r}: must hold {kind}, got type {frame[name].dtype}; {advice}"
            )
        if frame[name].null_count():
            row = frame[name].is_null().arg_max()
            raise RecembError(f"{path}: column {name!r}, row {row}: must not be null; {advice}")
    if frame.is_empty():
        raise RecembError(f"{path}: the file has no rows; {advice}")
    return frame
