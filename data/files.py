"""Files: parquet and CSV as a sequence of row groups, one of which is in memory at a time.

Every error names the file and, where it is about content, the column and the place: the line of a
text file (its header is line 1), the row of a parquet file (counted from 0).
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars import selectors

from recemb.data.cache import prepared_folder
from recemb.data.csv_copy import FORMAT, header_of, write_copy
from recemb.data.csv_copy import ROW_GROUP as ROW_GROUP
from recemb.errors import RecembError
from recemb.files import one_line, reading
from recemb.frames import shown
from recemb.paths import cache_root as cache_root
from recemb.paths import data_root as data_root
from recemb.paths import find as find
from recemb.text_lines import SEPARATORS as SEPARATORS
from recemb.text_lines import line_of

PROGRESS_ROWS = 1_000_000
"""Files with fewer rows are read too fast for a progress bar to be of use."""


def find_raw(source: Path, names: Sequence[str], what: str) -> Path:
    """Return the folder of a published data set, which holds all files of ``names``.

    Args:
        source: As :func:`recemb.paths.find` takes it.
        names: Of its files.
        what: The data set's name.

    Raises:
        RecembError: If one of the files is missing; the message says where it was looked for.
    """
    missing = f"{what} is not there"
    folder = find(source, *names, missing=missing)
    for name in names:
        if not (folder / name).is_file():
            raise RecembError(
                f"{folder / name}: {missing}; put it under the folder that RECEMB_DATA names, or "
                "point data.source at it"
            )
    return folder


class TableFile:
    """A parquet or CSV file, read row group by row group.

    A CSV file has no row groups: it is written once as parquet into the cache folder, streamed, and
    read from there until it changes; see :mod:`recemb.data.csv_copy` for the types that it gets.

    Args:
        path: Ends in ``.parquet``, ``.csv`` or ``.tsv``.

    Raises:
        RecembError: If the file is missing, empty, truncated or of another kind.

    Attributes:
        path: What errors call it: its path, or ``frame train`` where it was made of a frame.
        source: Its path.
    """

    def __init__(self, path: Path) -> None:
        self.source = path
        self.path = shown(path)
        self._what = "file" if self.path == path else "frame"
        if not os.path.isfile(path):
            raise RecembError(f"{path}: there is no such file; check the path")
        if path.suffix != ".parquet" and path.suffix not in SEPARATORS:
            raise RecembError(
                f"{path}: must end in .parquet, .csv or .tsv, got {path.suffix!r}; convert it"
            )
        if path.stat().st_size == 0:
            raise RecembError(f"{path}: the file is empty (0 bytes)")
        self.is_text = is_text_file(path)
        self._parquet = _csv_as_parquet(path) if self.is_text else path
        with reading(path, "parquet file, perhaps truncated", "write it again"):
            self.names, sizes, self._is_wide = _described(self._parquet)
        if self.is_text:
            self.names = header_of(path)
        elif len(set(self.names)) < len(self.names):
            self._refuse_twice(next(name for name in self.names if self.names.count(name) > 1))
        self.group_sizes = [size for size in sizes if size]
        self._groups = [group for group, size in enumerate(sizes) if size]
        self.num_rows: int = sum(self.group_sizes)
        if not self.num_rows:
            raise RecembError(f"{self.path}: the {self._what} has no rows")

    def require(self, columns: Sequence[str]) -> None:
        """Raise a :class:`RecembError` naming the first of ``columns`` that is not there once."""
        for column in columns:
            if column not in self.names:
                raise RecembError(
                    f"{self.path}: column {column!r} is missing; the {self._what} has {self.names}"
                )
            if self.names.count(column) > 1:
                self._refuse_twice(column)

    def _refuse_twice(self, column: str) -> None:
        raise RecembError(f"{self.path}: column {column!r} is there more than once; rename one")

    def type_of(self, column: str) -> pl.DataType:
        """Return a column's type; those of text files are integers and strings alone."""
        return self._types[column]

    @functools.cached_property
    def _types(self) -> pl.Schema:
        with reading(self.path, "parquet file", "write it again"):
            return self.scan().collect_schema()

    def read(self, group: int, columns: Sequence[str]) -> pl.DataFrame:
        """Return one row group's columns.

        Raises:
            RecembError: If the bytes on disk are damaged.
        """
        distinct = list(dict.fromkeys(columns))
        try:
            if self._is_wide:
                rows = self.scan().slice(self.first_row(group), self.group_sizes[group])
                return rows.select(exactly(name) for name in distinct).collect()
            with pq.ParquetFile(self._parquet) as file:
                table = file.read_row_group(self._groups[group], columns=distinct)
            frame = pl.from_arrow(table)
        except MemoryError:
            raise
        # Damaged pages can raise anything in a parser; a panic of polars is no Exception.
        except (Exception, pl.exceptions.PanicException) as error:
            raise RecembError(
                f"{self.path}: row group {group} cannot be read ({one_line(error)}); write it again"
            ) from error
        assert isinstance(frame, pl.DataFrame)
        return frame

    def scan(self) -> pl.LazyFrame:
        """Return the file as a lazy frame for streaming aggregation."""
        return pl.scan_parquet(self._parquet, glob=False)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Return the result of a lazy frame made from :meth:`scan`.

        Raises:
            RecembError: If the bytes on disk are damaged.
        """
        try:
            return frame.collect(engine="streaming")
        except (pl.exceptions.ComputeError, pl.exceptions.PanicException, OSError) as error:
            raise RecembError(
                f"{self.path}: cannot be read to its end ({one_line(error)}); write it again"
            ) from error

    def place(self, row: int) -> str:
        """Return where a row is, as errors say it: ``line 23`` of a text file, else ``row 21``.

        Args:
            row: Counted from 0, without a header.
        """
        return place_in(self.path, row)

    def first_row(self, group: int) -> int:
        """Return the number of the first row of a row group."""
        return sum(self.group_sizes[:group])


def is_text_file(path: Path) -> bool:
    """Return whether a file is of text, whose cells have no types; what names a frame is none."""
    return path.suffix not in (".parquet", "")


def place_in(path: Path, row: int) -> str:
    """Return where a row of a file is; see :meth:`TableFile.place`."""
    return f"line {line_of(path, row)}" if is_text_file(path) else f"row {row}"


def exactly(name: str) -> pl.Expr:
    """Return the column of that name; ``pl.col`` takes ``*`` and ``^...$`` for patterns."""
    return selectors.by_name(name).as_expr()


def _described(path: Path) -> tuple[list[str], list[int], bool]:
    """Return a parquet file's columns, the rows of its groups, and whether polars must read it.

    Arrow opens no file with a column of 128-bit integers, whichever columns are wanted; polars
    does, but does not tell where row groups end.
    """
    try:
        with pq.ParquetFile(path) as file:
            metadata = file.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            return file.schema_arrow.names, sizes, False
    except pa.ArrowNotImplementedError:
        rows = pl.scan_parquet(path, glob=False)
        count = rows.select(pl.len()).collect().item()
        sizes = [min(ROW_GROUP, count - first) for first in range(0, count, ROW_GROUP)]
        return rows.collect_schema().names(), sizes, True


def _csv_as_parquet(path: Path) -> Path:
    """Return a parquet copy of a CSV file in the cache folder, written if there is none."""

    def write(folder: Path) -> None:
        write_copy(path, folder / "rows.parquet")

    return prepared_folder(cache_root() / "csv", FORMAT, [path], {}, write) / "rows.parquet"
