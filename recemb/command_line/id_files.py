"""Ids as users name them: as words of a command, or in a column of a parquet or CSV file.

They become values as the vocabulary has them: strings, or int64.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.files import reading
from recemb.frames import shown
from recemb.hashing import hash_strings
from recemb.paths import find
from recemb.text_lines import SEPARATORS, line_of
from recemb.vocabulary import Vocabulary


def ids_of_words(words: Sequence[str], vocabulary: Vocabulary) -> pl.Series:
    """Return ids that a command names, each once.

    Raises:
        RecembError: If ids are integers and one is none, or does not fit 64 bits.
    """
    distinct = list(dict.fromkeys(words))
    if vocabulary.is_text:
        return pl.Series(distinct, dtype=pl.String)
    for word in distinct:
        if not re.fullmatch(r"-?[0-9]+", word):
            raise RecembError(
                f"recommend: {vocabulary.name}s are integers in this model, got {word!r}"
            )
        if not -(2**63) <= int(word) < 2**63:
            raise RecembError(f"recommend: {vocabulary.name}s are below 2^63, got {word}")
    return pl.Series(list(dict.fromkeys(map(int, distinct))), dtype=pl.Int64)


@dataclass(frozen=True, slots=True)
class Key:
    """Which column of a file holds ids.

    Attributes:
        given: The user's word for it, or None.
        names: What it is called otherwise, first things first.
        option: Where the user says it.
    """

    given: str | None
    names: Sequence[str]
    option: str

    def among(self, path: Path, columns: Sequence[str]) -> str:
        """Return the column of a file: as given, or by a usual name, or the only one there is.

        Raises:
            RecembError: If it is missing.
        """
        wanted = self.names if self.given is None else [self.given]
        found = [name for name in wanted if name in columns]
        if self.given is None and not found and len(columns) == 1:
            found = list(columns)
        if not found:
            raise RecembError(
                f"{path}: column {wanted[0]!r} is missing; the file has {list(columns)}; name its "
                f"column of ids with {self.option}"
            )
        return found[0]


def read_table(path: Path, key: Key, vocabulary: Vocabulary) -> tuple[pl.DataFrame, str]:
    """Return a parquet or CSV file and its column of ids, which are as the vocabulary has them.

    Args:
        path: Ends in ``.parquet``, ``.csv`` or ``.tsv``; as :func:`recemb.paths.find` takes it.
        key: The column of ids.
        vocabulary: Of the ids.

    Raises:
        RecembError: If the file cannot be read, has no such column, or its ids are of another type.
    """
    path = find(path)
    if path.suffix != ".parquet" and path.suffix not in SEPARATORS:
        raise RecembError(
            f"{path}: must end in .parquet, .csv or .tsv, got {path.suffix!r}; convert it"
        )
    is_csv = path.suffix != ".parquet"
    with reading(shown(path), "CSV file" if is_csv else "parquet file", "write it again"):
        if is_csv:
            options: dict[str, Any] = {"separator": SEPARATORS[path.suffix], "glob": False}
            columns = pl.read_csv(path, n_rows=0, **options).columns
            column = key.among(shown(path), columns)
            # Ids are read as text, whatever they look like: 007 and 7 are two of them.
            options |= {"schema_overrides": {column: pl.String}, "infer_schema_length": None}
            frame = pl.read_csv(path, **options)
        else:
            frame = pl.read_parquet(path, glob=False)
            column = key.among(shown(path), frame.columns)
    values = as_vocabulary(shown(path), frame[column], is_csv, vocabulary)
    return frame.with_columns(values.alias(column)), column


def as_vocabulary(path: Path, values: pl.Series, is_csv: bool, vocabulary: Vocabulary) -> pl.Series:
    """Return a column of ids as the vocabulary has them: strings, or int64; nulls stay.

    Raises:
        RecembError: If they are of another type.
    """
    if vocabulary.is_text and isinstance(values.dtype, pl.Categorical | pl.Enum):
        values = values.cast(pl.String)
    is_text = values.dtype == pl.String
    if not (values.dtype.is_integer() or is_text) or (is_text != vocabulary.is_text and not is_csv):
        kind = "strings" if vocabulary.is_text else "integers"
        raise RecembError(
            f"{path}: column {values.name!r}: {vocabulary.name}s are {kind} in this model, got "
            f"type {values.dtype}; convert the column"
        )
    if not vocabulary.is_text:
        # As strict as a word of the command: 1.0 and +5 are other texts than 1 and 5.
        texts = values.cast(pl.String)
        numbers = texts.cast(pl.Int64, strict=False)
        wrong = (numbers.is_null() & texts.is_not_null()).arg_true()
        if len(wrong):
            row = int(wrong[0])
            # The reader of the file takes an empty line for a row of nulls.
            line = line_of(path, row, blank_is_row=True) if is_csv else None
            place = f"row {row}" if line is None else f"line {line}"
            raise RecembError(
                f"{path}: column {values.name!r}, {place}: {vocabulary.name}s are integers below "
                f"2^63 in this model, got {values[row]!r}"
            )
        values = numbers
    return values


def index_of(values: pl.Series, vocabulary: Vocabulary) -> Tensor:
    """Return the indices of values: (N,) int64; see :meth:`recemb.vocabulary.Vocabulary.lookup`."""
    raw = hash_strings(values) if vocabulary.is_text else values
    return vocabulary.lookup(torch.from_numpy(raw.to_numpy().copy()))


def is_known(index_N: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Return which indices are those of known values: (N,)."""
    return (index_N >= 0) & (index_N < vocabulary.num_known)
