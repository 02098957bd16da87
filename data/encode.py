"""Encode: from the columns of a file to checked tensors of indices.

Every value is looked at once, by column, and a wrong one is named by file, column and place (see
:mod:`recemb.data.files`).

Shapes: N rows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from recemb.data.chunk import Bags, Chunk, bags_of
from recemb.data.columns import Columns, IdColumn, ListColumn, NumberColumn
from recemb.data.files import is_text_file, place_in
from recemb.data.values import (
    MISSING,
    IdKind,
    ValueAtError,
    as_tensor,
    check_lists,
    is_text,
    labels,
    numbers,
    of_kind,
    raw_ids,
    split_text,
)
from recemb.errors import RecembError
from recemb.schema import Schema
from recemb.vocabulary import Vocabulary

Result = TypeVar("Result")

DIRECT_KEYS = 1 << 20
"""Vocabularies of integers up to this one are read from a table of 4 MB."""


class Encoder:
    """Turn row groups of one file into chunks.

    Args:
        path: Named in errors.
        columns: The columns to read.
        schema: What training made of them.
        with_labels: Whether the label is read; rows to predict may have none, and get 0.
    """

    def __init__(
        self, path: Path, columns: Columns, schema: Schema, with_labels: bool = True
    ) -> None:
        self.path = path
        self.with_labels = with_labels
        self.columns = columns
        self.schema = schema
        self._from_text = is_text_file(path)
        self._direct: dict[str, Tensor | None] = {}

    @property
    def file_columns(self) -> list[str]:
        """The columns of the file that are read."""
        named: dict[str, IdColumn | NumberColumn] = {**self.columns.ids, **self.columns.dense}
        labels = [self.columns.label] if self.with_labels else []
        return [*(column.column or name for name, column in named.items()), *labels]

    def encode(self, frame: pl.DataFrame, first_row: int) -> Chunk:
        """Return the rows of ``frame``, of which the first is row ``first_row`` of the file.

        Raises:
            RecembError: At the first null in a list, number that is not finite, negative id, wrong
                type, label of a click outside {0, 1} or refused unknown id.
        """

        def checked(
            name: str, column: str | None, convert: Callable[[pl.Series, str], Result]
        ) -> Result:
            try:
                # Without its name, which may be a pattern to polars.
                return convert(frame[column or name].rename(""), name)
            except ValueAtError as error:
                raise error_in(self.path, column or name, error, first_row) from None

        groups = self.columns
        ids = [checked(name, c.column, self._ids) for name, c in groups.categorical.items()]
        lists = [checked(name, c.column, self._bags) for name, c in groups.lists.items()]
        dense = [checked(name, c.column, self._numbers) for name, c in groups.dense.items()]
        convert = self._labels if groups.label_type == "click" else self._numbers
        label_N = (
            checked(groups.label, None, convert) if self.with_labels else torch.zeros(len(frame))
        )
        return Chunk(
            torch.stack(ids) if ids else torch.empty(0, len(label_N), dtype=torch.int64),
            tuple(lists),
            torch.stack(dense, 1) if dense else torch.empty(len(label_N), 0),
            label_N,
        )

    def _kind(self, name: str) -> IdKind:
        is_declared = self.columns.declared_type(name) is not None
        return IdKind(self.schema.columns[name].is_text, is_declared, self._from_text)

    def _ids(self, values: pl.Series, name: str) -> Tensor:
        raw = raw_ids(values, self._kind(name))
        return self._index(as_tensor(raw.fill_null(MISSING)), name, values)

    def _bags(self, lists: pl.Series, name: str) -> Bags:
        flat, raw, lengths_N = ids_of_lists(lists, self.columns.lists[name], self._kind(name))
        try:
            return bags_of(self._index(as_tensor(raw), name, flat), lengths_N)
        except ValueAtError as error:
            raise ValueAtError(error.rule, row_of(error.place, lengths_N)) from None

    def _numbers(self, values: pl.Series, name: str) -> Tensor:
        return numbers(values, self._from_text)

    def _labels(self, values: pl.Series, name: str) -> Tensor:
        return labels(values, self._from_text)

    def _index(self, raw_N: Tensor, name: str, values: pl.Series) -> Tensor:
        """Return indices, in four bytes where they fit; raw ids as they are."""
        space = self.schema.columns[name].vocabulary
        if space is None:
            return raw_N
        vocabulary = self.schema.vocabularies[space]
        if space not in self._direct:
            self._direct[space] = direct_table(vocabulary)
        table = self._direct[space]
        # Place -1 is the table's last: unknown, like the places above the largest key.
        index_N = (
            vocabulary.lookup(raw_N)
            if table is None
            else table[raw_N.clamp(-1, table.shape[0] - 1)]
        )
        if vocabulary.config.unknown == "error" and bool((index_N < 0).any()):
            place = int((index_N < 0).int().argmax())
            raise ValueAtError(
                f"value {values[place]!r} is not in the training data; set unknown to 'own' or "
                "'hash', or clean the file",
                place,
            )
        return index_N.to(torch.int32) if vocabulary.num_ids < 2**31 else index_N


def direct_table(vocabulary: Vocabulary) -> Tensor | None:
    """Return the index of every integer up to one above the largest key; None where it is long.

    Reading it is many times faster than the vocabulary's binary search. Hashed unknown ids differ
    from each other, so there is no table for them.
    """
    low, high = int(vocabulary.keys_V[0]), int(vocabulary.keys_V[-1])
    if low < 0 or high > max(DIRECT_KEYS, 4 * vocabulary.num_known):
        return None
    if vocabulary.config.unknown == "hash":
        return None
    dtype = torch.int32 if vocabulary.num_ids < 2**31 else torch.int64
    return vocabulary.lookup(torch.arange(high + 2)).to(dtype)


def ids_of_lists(
    lists: pl.Series, column: ListColumn, kind: IdKind
) -> tuple[pl.Series, pl.Series, Tensor]:
    """Return the ids of a list column one after the other, raw too, and the length of each list.

    Padding is dropped and long lists keep their last ids.

    Raises:
        ValueAtError: At the first wrong list.
    """
    if lists.dtype in (pl.String, pl.Null) or (kind.from_text and lists.dtype.is_integer()):
        # A column of text whose lists have one id at most may pass for one of integers.
        lists = split_text(lists.cast(pl.String), column.separator)
        kind = kind._replace(from_text=True)
    lists = check_lists(lists)
    if is_text(lists.dtype) != kind.is_text and (kind.from_text or kind.is_declared):
        _, ids, lengths_N = _flattened(lists, lambda flat: of_kind(flat, kind))
        lists = _grouped(ids, lengths_N)
    # Ids of the wrong type have no padding to drop; they are refused when they are converted.
    if column.padding is not None and isinstance(column.padding, str) == is_text(lists.dtype):
        padding = column.padding
        lists = lists.list.eval(pl.element().filter(pl.element() != padding))
    if column.max_length is not None:
        lists = lists.list.tail(column.max_length)
    return _flattened(lists, lambda flat: raw_ids(flat, kind))


def _flattened(
    lists: pl.Series, convert: Callable[[pl.Series], pl.Series]
) -> tuple[pl.Series, pl.Series, Tensor]:
    """Return all values one after the other, what they become, and the length of each list."""
    flat = lists.explode(empty_as_null=False, keep_nulls=False)
    lengths_N = as_tensor(lists.list.len())
    try:
        return flat, convert(flat), lengths_N
    except ValueAtError as error:
        raise ValueAtError(error.rule, row_of(error.place, lengths_N)) from None


def _grouped(ids: pl.Series, lengths_N: Tensor) -> pl.Series:
    """Return ids that stand one after the other as lists of these lengths."""
    offsets_N1 = pa.array(torch.cat([lengths_N.new_zeros(1), lengths_N.cumsum(0)]).numpy())
    lists = pa.LargeListArray.from_arrays(offsets_N1, ids.to_arrow())
    # By way of a table: for an array polars imports pyarrow.compute, which takes a tenth second.
    frame = pl.from_arrow(pa.table([lists], ["ids"]))
    assert isinstance(frame, pl.DataFrame)
    return frame["ids"].rename("")


def row_of(place: int | None, lengths_N: Tensor) -> int | None:
    """Return the row whose list holds the flat position ``place``."""
    if place is None:
        return None
    return int(torch.searchsorted(lengths_N.cumsum(0), place, right=True))


def error_in(path: Path, column: str, error: ValueAtError, first_row: int = 0) -> RecembError:
    """Return the error that names a file, a column and the place of a wrong value.

    Args:
        path: The file.
        column: Its column.
        error: What is wrong, with the value's place from ``first_row`` on.
        first_row: Number of a row of the file.
    """
    where = "" if error.place is None else f", {place_in(path, first_row + error.place)}"
    return RecembError(f"{path}: column {column!r}{where}: {error.rule}")
