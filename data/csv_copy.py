"""CSV copy: a text file written as parquet, with every cell's text kept.

Nothing is inferred from the first rows. A column is stored as integers if each of its cells is the
text of one as Python writes it (``7``, not ``007``, ``+7`` or ``7.0``) below 2^63, so its text is
known exactly; every other column is stored as text. An empty cell, quoted or not, is null.

Two passes at most, some megabytes in memory at a time.
"""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from recemb.errors import RecembError
from recemb.files import one_line
from recemb.text_lines import SEPARATORS, text_lines

FORMAT = "csv-2"
"""Names the copies; it changes with what they hold, so no stale one is read."""
ROW_GROUP = 65_536
SAMPLE = 8_192
"""Rows that tell whether a column is stored by a dictionary: a matter of time and size alone."""
BLOCK_BYTES = 16 << 20
"""Read at a time; the longest row that can be read."""


def header_of(path: Path) -> list[str]:
    """Return the names in the first line of a text file.

    Raises:
        RecembError: If there is none.
    """
    return _header(path)[0]


def _header(path: Path) -> tuple[list[str], int]:
    """Return the names, and the number of the line that they end in."""
    with text_lines(path) as lines:
        for names in lines:
            if names:
                if any("\ufffd" in name for name in names):
                    _refuse_bytes(path)
                return names, lines.line_num
    raise RecembError(f"{path}: not a readable CSV file (it has no line of column names)")


def write_copy(path: Path, target: Path) -> None:
    """Write the parquet copy of a text file.

    Columns whose name comes twice are left out: nothing could say which of them is meant.

    Raises:
        RecembError: If the file is no CSV: a row of another length than the header, a quote that
            is not closed, bytes that are no UTF-8.
    """
    names = header_of(path)
    counts = Counter(names)
    kept = {str(place): name for place, name in enumerate(names) if counts[name] == 1}
    if not kept:
        raise RecembError(f"{path}: column {names[0]!r} is there more than once; rename one")
    integers, is_sure = _copy(path, kept, set(kept), target)
    if not is_sure:
        _copy(path, kept, integers, target)


def _copy(
    path: Path, kept: dict[str, str], integers: set[str], target: Path
) -> tuple[set[str], bool]:
    """Write the copy with these columns as integers; return those that are, and whether it holds.

    Where it does not hold, the rest of the file is only looked at. Columns go by their places:
    names may come twice, and some names are patterns to polars.
    """
    own = set(integers)
    pending: list[pa.Table] = []
    writer: pq.ParquetWriter | None = None
    guess: set[str] = set()
    has_quotes = _has_quotes(path)
    has_line_ends = False

    def write(at_end: bool) -> None:
        rows = pa.concat_tables(pending)
        full = len(rows) if at_end else len(rows) - len(rows) % ROW_GROUP
        assert writer is not None
        if full:
            writer.write_table(rows.slice(0, full), row_group_size=ROW_GROUP)
        pending[:] = [rows.slice(full)]

    try:
        for text in _blocks(path, kept):
            numbers = {place: text[place].cast(pl.Int64, strict=False) for place in own}
            own = {place for place, found in numbers.items() if _is_written_as(found, text[place])}
            has_line_ends = has_line_ends or (
                has_quotes
                and any(
                    text[name].str.contains("\n", literal=True).any()
                    for name in kept
                    if name not in own
                )
            )
            if writer is None:
                # Most columns are told by the first block, so most files are written once.
                guess = set(own)
                types = [pa.int64() if place in guess else pa.large_string() for place in kept]
                schema = pa.schema(list(zip(kept.values(), types, strict=True)))
                repeated = [name for place, name in kept.items() if _repeats(text[place])]
                # Nothing asks for the least and the largest of a row group.
                writer = pq.ParquetWriter(
                    target,
                    schema,
                    compression="zstd",
                    use_dictionary=repeated,
                    write_statistics=False,
                )
            if own == guess:
                rows = text.with_columns(numbers[place] for place in guess)
                # Of the types that the schema names, so that nothing has to be cast.
                table = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
                pending.append(table.rename_columns(list(kept.values())))
                if sum(map(len, pending)) >= ROW_GROUP:
                    write(at_end=False)
        if writer is not None and pending and own == guess:
            write(at_end=True)
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise RecembError(f"{path}: the file has no rows")
    if has_line_ends:
        _check_quotes(path)
    return own, own == guess


def _blocks(path: Path, kept: Iterable[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of the places ``kept`` as text, some at a time."""
    names, last_line = _header(path)
    places = [str(place) for place in range(len(names))]
    try:
        reader = pa.csv.open_csv(
            str(path),
            read_options=pa.csv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=places,
                skip_rows=last_line,
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=SEPARATORS[path.suffix], newlines_in_values=True
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.large_string()),
                include_columns=list(kept),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            if batch.num_rows:
                frame = pl.from_arrow(batch)
                assert isinstance(frame, pl.DataFrame)
                yield frame
    except pa.ArrowInvalid as error:
        _refuse_bytes(path)
        _refuse_length(path, len(names))
        raise RecembError(
            f"{path}: not a readable CSV file ({one_line(error)}); write it again"
        ) from error


def _is_written_as(numbers: pl.Series, text: pl.Series) -> bool:
    """Return whether each cell is null or what its integer is written as."""
    return numbers.null_count() == text.null_count() and (
        numbers.cast(pl.String).eq_missing(text).all()
    )


def _repeats(text: pl.Series) -> bool:
    """Return whether cells come often enough that a dictionary of them pays."""
    first = text.head(SAMPLE)
    return first.n_unique() * 4 < len(first)


def _has_quotes(path: Path) -> bool:
    """Return whether there is a quote in a text file: no cell holds a line end otherwise."""
    with path.open("rb") as file:
        return any(b'"' in part for part in iter(lambda: file.read(1 << 20), b""))


def _refuse_bytes(path: Path) -> None:
    """Raise a :class:`RecembError` at the first line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise RecembError(
                    f"{path}: line {number}: not a readable CSV file, whose text must be UTF-8, "
                    f"got the byte {line[error.start]:#04x}; write it again as UTF-8"
                ) from error


def _refuse_length(path: Path, width: int) -> None:
    """Raise a :class:`RecembError` at the first row that is not as long as the header.

    Also if there is no row at all.
    """
    with text_lines(path) as lines:
        begins, num_rows = 1, -1
        for line in lines:
            if line and len(line) != width:
                raise RecembError(
                    f"{path}: line {begins}: a row must have as many cells as the header, {width}, "
                    f"got {len(line)}; fill them, or quote cells that hold the separator"
                )
            num_rows += bool(line)
            begins = lines.line_num + 1
    if num_rows < 1:
        raise RecembError(f"{path}: the file has no rows")


def _check_quotes(path: Path) -> None:
    """Raise a :class:`RecembError` where a quote is opened and not closed before a separator.

    Such a quote swallows the rows up to the next one. Only cells with line ends in them can come of
    it, and few files have any, so only those are read once more.
    """
    with text_lines(path, strict=True) as lines:
        begins = 1
        try:
            for _ in lines:
                begins = lines.line_num + 1
        except csv.Error as error:
            raise RecembError(
                f"{path}: line {begins}: a quote is not closed ({one_line(error)}); double quotes "
                "inside a quoted cell, and close it"
            ) from error
