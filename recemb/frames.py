"""Frames: tables in memory, taken wherever a file is.

A frame is a polars ``DataFrame`` or ``LazyFrame``, a pandas ``DataFrame``, a pyarrow ``Table`` (or
whatever exports an Arrow stream), or a ``datasets.Dataset`` of Hugging Face. It is written once as
parquet into the cache folder, under a name that its content decides, and read from there as any
file is: a row group at a time, and again by a command that is given the same configuration. A lazy
frame and a data set of Hugging Face are streamed: they need not fit into memory.

Categories become what they stand for; missing values are nulls (pandas' NaN among them); an index
of pandas is no column. Errors call such a file ``frame train``, after the argument that it is for.
"""

import bisect
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars import selectors

from recemb.checksums import checksum
from recemb.errors import RecembError
from recemb.files import PART, one_line, writing
from recemb.paths import cache_root

if TYPE_CHECKING:
    Source = Any
    """A file or a frame."""
else:
    # What a configuration or a command can say: there it is the path of a file.
    Source = str

ROW_GROUP = 65_536
FOLDER = "frames"
_NAME = re.compile(r"(?P<name>\w+)-[0-9a-f]{32}\.parquet")


def path_of(source: Source, name: str, root: Path | None = None) -> str:
    """Return the path of a file of data; a frame is written first.

    Args:
        source: A path, or a frame (see the module).
        name: The argument that it is for, which errors about a frame name.
        root: The folder below which a frame is written; None: the cache folder.

    Raises:
        RecembError: If it is neither, or the frame cannot be written as parquet.
    """
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if not is_frame(source):
        raise RecembError(
            f"{name}: must be a file or a frame (polars, pandas, pyarrow, or a Hugging Face "
            f"dataset), got {type(source).__name__}; convert it"
        )
    folder = (root or cache_root()) / FOLDER
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{uuid.uuid4().hex}{PART}"
        try:
            write_frame(source, name, part)
            target = folder / f"{name}-{checksum(part)}.parquet"
            # Also where there is one: it may have been damaged, and has this content else.
            part.replace(target)
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
    return str(target.absolute())


def shown(path: Path) -> Path:
    """Return what errors call a file: ``frame train`` where it was written by :func:`path_of`."""
    found = _NAME.fullmatch(path.name) if path.parent.name == FOLDER else None
    return Path(f"frame {found['name']}") if found else path


def is_frame(value: object) -> bool:
    """Return whether a value is a frame: see the module."""
    return (
        isinstance(value, pl.DataFrame | pl.LazyFrame)
        or is_pandas(value)
        or _is_table(value)
        or _is_dataset(value)
    ) and not isinstance(value, type)


def is_pandas(value: object) -> bool:
    """Return whether a value is a ``DataFrame`` of pandas, which need not be installed."""
    return any(
        one.__module__.split(".")[0] == "pandas" and one.__name__ == "DataFrame"
        for one in type(value).__mro__
    )


def _is_table(value: object) -> bool:
    """Return whether a value exports an Arrow stream of named columns, and not a column alone."""
    has_names = hasattr(value, "schema") or hasattr(value, "columns")
    return hasattr(value, "__arrow_c_stream__") and has_names


def _is_dataset(value: object) -> bool:
    """Return whether a value is a data set of Hugging Face, which need not be installed."""
    return all(hasattr(value, name) for name in ("with_format", "features", "iter"))


def write_frame(frame: Any, name: str, path: Path) -> None:
    """Write a frame as parquet.

    Args:
        frame: See the module.
        name: The argument that it is for.
        path: The file.

    Raises:
        RecembError: If a column cannot be written, or a lazy frame cannot be computed.
    """
    where = f"frame {name}"
    if isinstance(frame, pl.LazyFrame):
        with _refused(where, "cannot be computed", "mend the query"):
            stored = _as_stored(frame, frame.collect_schema(), where)
            stored.sink_parquet(path, row_group_size=ROW_GROUP, maintain_order=True)
    elif _is_dataset(frame):
        _write_dataset(frame, where, path)
    else:
        rows = (
            frame if isinstance(frame, pl.DataFrame) else _from_arrow(_arrow(frame, where), where)
        )
        with _refused(where, "cannot be written as parquet", "convert its columns"):
            written = _as_stored(rows.lazy(), rows.schema, where).collect()
            written.write_parquet(path, row_group_size=ROW_GROUP)


def _as_stored(frame: pl.LazyFrame, schema: pl.Schema, where: str) -> pl.LazyFrame:
    """Return a frame whose categories are strings, by themselves or in lists."""
    for column, dtype in schema.items():
        if dtype == pl.Object:
            raise RecembError(
                f"{where}: column {column!r}: values must be of a type that parquet knows, got "
                f"{dtype}; convert the column, or leave it out of the frame"
            )
    types = {
        column: stored for column, dtype in schema.items() if (stored := _stored(dtype)) != dtype
    }
    # By selectors: a name such as ``*`` is a pattern to polars.
    return frame.with_columns(
        selectors.by_name(column).cast(dtype) for column, dtype in types.items()
    )


def _stored(dtype: pl.DataType) -> pl.DataType:
    """Return a type with strings in the place of categories."""
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return pl.String()
    if isinstance(dtype, pl.List):
        return pl.List(_stored(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Array):
        return pl.List(_stored(dtype.inner))  # type: ignore[arg-type]
    return dtype


def _from_arrow(table: pa.Table, where: str) -> pl.DataFrame:
    _check_names(table.column_names, where)
    with _refused(where, "cannot be read", "convert its columns"):
        frame = pl.from_arrow(_decoded(table))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _decoded(table: pa.Table) -> pa.Table:
    """Return a table whose dictionaries are the values that they stand for."""
    columns = [
        column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def _arrow(frame: Any, where: str) -> pa.Table:
    """Return a frame of pandas, or what exports an Arrow stream, as a table of Arrow."""
    if not is_pandas(frame):
        with _refused(where, "cannot be read", "convert its columns"):
            return pa.table(frame)
    names = [str(column) for column in frame.columns]
    _check_names(names, where)
    columns = [
        _pandas_column(frame.iloc[:, place], name, where) for place, name in enumerate(names)
    ]
    return pa.table(columns, names=names)


def _pandas_column(values: Any, name: str, where: str) -> Any:
    """Return a column of pandas as one of Arrow; NaN is a missing value there."""
    mistakes = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.array(values, from_pandas=True)
    except mistakes as error:
        # The first row without which the rows before it would do.
        def fails(count: int) -> bool:
            try:
                pa.array(values.iloc[:count], from_pandas=True)
            except mistakes:
                return True
            return False

        row = bisect.bisect_left(range(1, len(values) + 1), True, key=fails)
        raise RecembError(
            f"{where}: column {name!r}, row {row}: its values must be of one type that parquet "
            f"knows, got {values.iloc[row]!r} ({one_line(error)}); convert the column, or leave it "
            "out of the frame"
        ) from error


def _write_dataset(dataset: Any, where: str, path: Path) -> None:
    """Write a data set of Hugging Face, in its order, some rows at a time."""
    writer: pq.ParquetWriter | None = None
    try:
        for table in dataset.with_format("arrow").iter(batch_size=ROW_GROUP):
            _check_names(table.column_names, where)
            with _refused(where, "cannot be written as parquet", "convert its columns"):
                rows = _decoded(table)
                writer = writer or pq.ParquetWriter(path, rows.schema, compression="zstd")
                writer.write_table(rows.cast(writer.schema), row_group_size=ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise RecembError(f"{where}: the frame has no rows")


def _check_names(names: list[str], where: str) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise RecembError(f"{where}: column {twice!r} is there more than once; rename one")


@contextmanager
def _refused(where: str, what: str, advice: str) -> Iterator[None]:
    """Turn what polars and Arrow raise at a user's frame into one error."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
        raise RecembError(f"{where}: the frame {what} ({one_line(error)}); {advice}") from error
    except FileNotFoundError as error:  # that a lazy frame reads
        raise RecembError(f"{where}: the frame {what} ({one_line(error)}); {advice}") from error
