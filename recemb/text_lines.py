"""Text lines: where a row of a CSV file is, as an editor counts lines."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""By the end of a file's name, what is between its columns."""
FIELD_CHARACTERS = 1 << 30
"""Python's own reader of CSV stops at 131,072 characters in a cell otherwise."""


def line_of(path: Path, row: int, *, has_header: bool = True, blank_is_row: bool = False) -> int:
    """Return the line in which a row of a text file begins, counted from 1.

    Cells in quotes may hold line ends, so the file is read up to the row; only errors need it.

    Args:
        path: The text file.
        row: Counted from 0, without the header.
        has_header: Whether the first line that is not empty is one.
        blank_is_row: Whether whoever counted the rows takes an empty line below the header for one.
    """
    with text_lines(path) as lines:
        left, begins, is_header = row, 1, has_header
        for line in lines:
            is_row = bool(line) or (blank_is_row and not is_header)
            if is_row and not is_header:
                if not left:
                    return begins
                left -= 1
            is_header = is_header and not is_row
            begins = lines.line_num + 1
    return begins


@contextmanager
def text_lines(path: Path, strict: bool = False) -> "Iterator[csv._reader]":  # type: ignore[name-defined]
    """Open a text file for Python's reader, which knows the number of the line."""
    before = csv.field_size_limit(FIELD_CHARACTERS)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            yield csv.reader(file, delimiter=SEPARATORS[path.suffix], strict=strict)
    finally:
        csv.field_size_limit(before)
