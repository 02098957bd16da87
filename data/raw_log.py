"""Raw log: one large file as it was published, streamed into train, validation and test files.

No more of it is in memory than polars' streaming engine holds, so it may have any number of rows. A
row's part depends on its number in the file alone, through a published hash: tenths 0 to 7 are
train, 8 validation, 9 test, in every run, on every machine and with every version.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import polars_hash
from tqdm import tqdm

from data.files import PROGRESS_ROWS, ROW_GROUP
from data.tabular import STAGES
from recemb.errors import RecembError
from recemb.files import reading, whole_folder

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
BYTES_PER_ROW = 100
"""About those of a row of text; tells only whether a progress bar is of use."""
ROW, PART = "number of the row", "part of the row"
"""Columns for the while of writing; no data set has such names."""


def scan_log(path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.LazyFrame:
    """Return the named columns of a raw file, lazily; empty cells of text are null.

    Args:
        path: Ends in ``.parquet``, in ``.csv`` or ``.tsv`` (with a header) or in ``.txt`` (tabs and
            no header: the columns in their order).
        columns: Type by name.

    Raises:
        RecembError: If the file is missing, of another kind or lacks a column.
    """
    if not path.is_file():
        raise RecembError(
            f"{path}: there is no such file; put it under the folder that RECEMB_DATA names, or "
            "point data.source at it"
        )
    if path.suffix != ".parquet" and path.suffix not in SEPARATORS:
        raise RecembError(
            f"{path}: must end in .parquet, .csv, .tsv or .txt, got {path.suffix!r}; unpack or "
            "rename it"
        )
    with reading(path, "raw log", "download it again"):
        rows = _scan(path, columns)
        found = rows.collect_schema().names()
    for name in columns:
        if name not in found:
            raise RecembError(f"{path}: column {name!r} is missing; the file has {found}")
    return rows.select(pl.col(name).cast(dtype) for name, dtype in columns.items())


def _scan(path: Path, columns: Mapping[str, type[pl.DataType]]) -> pl.LazyFrame:
    if path.suffix == ".parquet":
        return pl.scan_parquet(path, glob=False)
    separator = SEPARATORS[path.suffix]
    if path.suffix == ".txt":
        return pl.scan_csv(
            path,
            separator=separator,
            has_header=False,
            schema=dict(columns),
            quote_char=None,
            glob=False,
        )
    return pl.scan_csv(
        path, separator=separator, schema_overrides=dict(columns), quote_char=None, glob=False
    )


def write_log(rows: pl.LazyFrame, source: Path, folder: Path) -> None:
    """Write the rows of each part as a parquet file, all files or none.

    Args:
        rows: All rows of the raw file in its order; read once per part.
        source: The raw file; errors name it.
        folder: Where to; an existing one is replaced.

    Raises:
        RecembError: If the file holds a value that its column cannot, or cannot be read to its end.
    """
    numbered = _with_part(rows)
    quick = source.stat().st_size < PROGRESS_ROWS * BYTES_PER_ROW
    with whole_folder(folder) as new:
        stages = tqdm(STAGES, f"preparing {source.name}", disable=quick, leave=False)
        for number, stage in enumerate(stages):
            chosen = numbered.filter(pl.col(PART) == number).drop(ROW, PART)
            with reading(source, "raw log", "mend the line, or download the file again"):
                chosen.sink_parquet(new / f"{stage}.parquet", row_group_size=ROW_GROUP)


def _with_part(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return the rows with the number of their stage, by the xxHash64 of a row's number.

    The hash (seed 0, unsigned) is of the decimal digits of the number, counted from 0.
    """
    # Only what polars streams: a row_index() expression or a replacement of values by a table would
    # hold the whole file in memory.
    numbered = rows.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.String))
    tenth = polars_hash.col(ROW).nchash.xxhash64() % 10
    return numbered.with_columns((tenth.clip(7, 9) - 7).alias(PART))
