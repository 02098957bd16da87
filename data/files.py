"""Files: parquet and CSV as a sequence of row groups, one of which is in memory at a time.

Every error names the file and, where it is about content, the column and the place: the line of a
text file (its header is line 1), the row of a parquet file (counted from 0).
"""

import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recemb.errors import RecembError
from recemb.files import one_line, whole_file
from recemb.paths import data_root as data_root
from recemb.paths import find as find

ROW_GROUP = 65_536
SEPARATORS = {".csv": ",", ".tsv": "\t"}
PROGRESS_ROWS = 1_000_000
"""Files with fewer rows are read too fast for a progress bar to be of use."""


def cache_root() -> Path:
    """Return where prepared files go: ``$RECEMB_CACHE``, or ``~/.cache/recemb/prepared``."""
    default = Path.home() / ".cache" / "recemb" / "prepared"
    return Path(os.environ.get("RECEMB_CACHE") or default)


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
    read from there until it changes.

    Args:
        path: Ends in ``.parquet``, ``.csv`` or ``.tsv``.

    Raises:
        RecembError: If the file is missing, empty, truncated or of another kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RecembError(f"{path}: there is no such file; check the path")
        if path.suffix not in (".parquet", ".csv", ".tsv"):
            raise RecembError(
                f"{path}: must end in .parquet, .csv or .tsv, got {path.suffix!r}; convert it"
            )
        if path.stat().st_size == 0:
            raise RecembError(f"{path}: the file is empty (0 bytes)")
        self.is_text = path.suffix != ".parquet"
        self._parquet = _csv_as_parquet(path) if self.is_text else path
        try:
            with pq.ParquetFile(self._parquet) as file:
                metadata = file.metadata
                self.schema = file.schema_arrow
        except (pa.ArrowInvalid, OSError) as error:
            raise RecembError(
                f"{path}: not a readable parquet file, perhaps truncated ({one_line(error)}); "
                "write it again"
            ) from error
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.group_sizes = [size for size in sizes if size]
        self._groups = [group for group, size in enumerate(sizes) if size]
        self.num_rows: int = sum(self.group_sizes)
        if not self.num_rows:
            raise RecembError(f"{path}: the file has no rows")

    def require(self, columns: Sequence[str]) -> None:
        """Raise a :class:`RecembError` naming the first of ``columns`` that is not there."""
        for column in columns:
            if column not in self.schema.names:
                raise RecembError(
                    f"{self.path}: column {column!r} is missing; the file has {self.schema.names}"
                )

    def read(self, group: int, columns: Sequence[str]) -> pl.DataFrame:
        """Return one row group's columns.

        Raises:
            RecembError: If the bytes on disk are damaged.
        """
        try:
            with pq.ParquetFile(self._parquet) as file:
                table = file.read_row_group(
                    self._groups[group], columns=list(dict.fromkeys(columns))
                )
            frame = pl.from_arrow(table)
        except (pa.ArrowInvalid, OSError, pl.exceptions.PanicException) as error:
            raise RecembError(
                f"{self.path}: row group {group} cannot be read ({one_line(error)}); write it again"
            ) from error
        assert isinstance(frame, pl.DataFrame)
        return frame

    def scan(self) -> pl.LazyFrame:
        """Return the file as a lazy frame for streaming aggregation."""
        return pl.scan_parquet(self._parquet)

    def collect(self, frame: pl.LazyFrame) -> pl.DataFrame:
        """Return the result of a lazy frame made from :meth:`scan`.

        Raises:
            RecembError: If the bytes on disk are damaged.
        """
        try:
            return frame.collect(engine="streaming")
        except (pl.exceptions.ComputeError, pl.exceptions.PanicException) as error:
            raise RecembError(
                f"{self.path}: cannot be read to its end ({one_line(error)}); write it again"
            ) from error

    def place(self, row: int) -> str:
        """Return where a row is, as errors say it: ``line 23`` of a text file, else ``row 21``.

        Args:
            row: Counted from 0, without a header.
        """
        return line_of(self.path, row) if self.is_text else f"row {row}"

    def first_row(self, group: int) -> int:
        """Return the number of the first row of a row group."""
        return sum(self.group_sizes[:group])


def line_of(path: Path, row: int, *, has_header: bool = True) -> str:
    """Return where a row of a text file begins: ``line 23``, counted from 1.

    Cells in quotes may hold line ends, so the file is read up to the row; only errors need it.

    Args:
        path: The text file.
        row: Counted from 0, without the header.
        has_header: Whether the first line is one.
    """
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = csv.reader(file, delimiter=SEPARATORS[path.suffix])
        for _ in range(row + has_header):
            next(lines, None)
        return f"line {lines.line_num + 1}"


def fingerprint(path: Path) -> str:
    """Return a short name of a file and its state: its path, size and time of change."""
    stat = path.stat()
    identity = f"{path.resolve()}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _csv_as_parquet(path: Path) -> Path:
    """Return a parquet copy of a CSV file in the cache folder, written if there is none."""
    target = cache_root() / "csv" / f"{path.stem}-{fingerprint(path)}.parquet"
    if target.is_file():
        return target
    separator = SEPARATORS[path.suffix]
    try:
        with whole_file(target) as temporary:
            pl.scan_csv(path, separator=separator, infer_schema_length=10_000).sink_parquet(
                temporary, row_group_size=ROW_GROUP
            )
    except pl.exceptions.PolarsError as error:
        raise RecembError(f"{path}: not a readable CSV file ({one_line(error)})") from error
    return target
