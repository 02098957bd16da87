"""Raw log: one large file as it was published, streamed into train, validation and test files.

No more of it is in memory than polars' streaming engine holds, so it may have any number of rows. A
row's part depends on its number in the file alone, through a published hash: tenths 0 to 7 are
train, 8 validation, 9 test, in every run, on every machine and with every version.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import polars as pl
import polars_hash
from tqdm import tqdm

from recemb.data.files import PROGRESS_ROWS, ROW_GROUP
from recemb.data.tabular import STAGES
from recemb.errors import RecembError
from recemb.files import reading, whole_folder

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
READ_BYTES = 1 << 22
BYTES_PER_ROW = 100
"""About those of a row of text; tells only whether a progress bar is of use."""
ROW, PART = "number of the row", "part of the row"
"""Columns for the while of writing; no data set has such names."""

NO_RULES: Mapping[str, tuple[pl.Expr, str]] = MappingProxyType({})


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
    has_header = path.suffix != ".txt"
    return pl.scan_csv(
        path,
        separator=SEPARATORS[path.suffix],
        has_header=has_header,
        new_columns=None if has_header else list(columns),
        # What is not named is not guessed either.
        infer_schema=False,
        schema_overrides=dict(columns),
        quote_char=None,
        glob=False,
    )


def check_cells(path: Path, num_columns: int) -> None:
    """Raise a :class:`RecembError` at the first row of a text file that lacks cells.

    Polars fills them with nulls, which a raw log may hold as well.

    Args:
        path: The file; a quotation mark in it is a value like any other.
        num_columns: Of a file without a header.
    """
    separator = SEPARATORS[path.suffix].encode()
    with path.open("rb") as file:
        first = file.readline()
        num_separators = num_columns - 1 if path.suffix == ".txt" else first.count(separator)
        # Rows with too many cells are refused by polars, so the sum tells, and is soon counted.
        found, lines, last = first.count(separator), 1, b"\n"
        while block := file.read(READ_BYTES):
            found, lines, last = (
                found + block.count(separator),
                lines + block.count(b"\n"),
                block[-1:],
            )
        lines += last != b"\n"
        if found == lines * num_separators:
            return
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if line.count(separator) != num_separators:
                raise RecembError(
                    f"{path}: line {number}: a row must have {num_separators + 1} cells, got "
                    f"{line.count(separator) + 1}; mend the line, or download the file again"
                )


def check_values(
    path: Path,
    columns: Mapping[str, type[pl.DataType]],
    rules: Mapping[str, tuple[pl.Expr, str]] = NO_RULES,
) -> None:
    """Raise a :class:`RecembError` at the first value that its column cannot hold.

    Args:
        path: A raw file with the columns.
        columns: Type by name.
        rules: See :func:`write_log`.
    """
    rows = _scan(path, dict.fromkeys(columns, pl.String))
    found = rows.collect_schema()
    for name, dtype in columns.items():
        value = pl.col(name)
        wrong = value.cast(dtype, strict=False).is_null() & value.is_not_null()
        if found[name].is_float() and dtype.is_integer():
            wrong |= value.floor() != value  # a cast would cut the fraction off
        _refuse_first(path, rows, name, wrong, f"must be of type {dtype}")
    for name, (wrong, rule) in rules.items():
        _refuse_first(path, scan_log(path, columns), name, wrong, rule)


def _refuse_first(path: Path, rows: pl.LazyFrame, name: str, wrong: pl.Expr, rule: str) -> None:
    first = rows.with_row_index(ROW).filter(wrong).select(ROW, name).head(1)
    for row, got in first.collect(engine="streaming").iter_rows():
        # Cells hold no line ends here: a quotation mark is a value like any other.
        lines = {".parquet": f"row {row}", ".txt": f"line {row + 1}"}
        raise RecembError(
            f"{path}: column {name!r}, {lines.get(path.suffix, f'line {row + 2}')}: {rule}, got "
            f"{got!r}; mend it, or download the file again"
        )


def write_log(
    rows: pl.LazyFrame,
    source: Path,
    folder: Path,
    columns: Mapping[str, type[pl.DataType]],
    rules: Mapping[str, tuple[pl.Expr, str]] = NO_RULES,
) -> None:
    """Write the rows of each part as a parquet file, all files or none.

    Args:
        rows: All rows of the raw file in its order; read once per part.
        source: The raw file; errors name it.
        folder: Where to; an existing one is replaced.
        columns: Of the raw file: type by name.
        rules: Which values of a column are wrong, and the rule that errors state; ``rows`` must
            raise an error of polars at such a value.

    Raises:
        RecembError: If the file holds a value that its column cannot, or cannot be read to its end.
    """
    advice = "mend the line, or download the file again"
    with reading(source, "raw log", advice):
        if source.suffix != ".parquet":
            check_cells(source, len(columns))
        elif any(dtype.is_float() for dtype in _scan(source, columns).collect_schema().dtypes()):
            check_values(source, columns)
    numbered = _with_part(rows)
    quick = source.stat().st_size < PROGRESS_ROWS * BYTES_PER_ROW
    with whole_folder(folder) as new:
        stages = tqdm(STAGES, f"preparing {source.name}", disable=quick, leave=False)
        for number, stage in enumerate(stages):
            chosen = numbered.filter(pl.col(PART) == number).drop(ROW, PART)
            with reading(source, "raw log", advice):
                try:
                    chosen.sink_parquet(new / f"{stage}.parquet", row_group_size=ROW_GROUP)
                except pl.exceptions.PolarsError:
                    check_values(source, columns, rules)  # which says where it is
                    raise


def _with_part(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Return the rows with the number of their stage, by the xxHash64 of a row's number.

    The hash (seed 0, unsigned) is of the decimal digits of the number, counted from 0.
    """
    # Only what polars streams: a row_index() expression or a replacement of values by a table would
    # hold the whole file in memory.
    numbered = rows.with_row_index(ROW).with_columns(pl.col(ROW).cast(pl.String))
    tenth = polars_hash.col(ROW).nchash.xxhash64() % 10
    return numbered.with_columns((tenth.clip(7, 9) - 7).alias(PART))
