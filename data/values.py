"""Values: checks and conversions of the columns of one row group.

A check that fails raises :class:`ValueAtError` with the place of the first wrong value; the reader
adds file, column and row. A column's values become *raw ids*: int64, the hash where they are
strings.
"""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recemb.hashing import hash_strings

MISSING = -(2**63)
"""The raw id of a null in a column with one id per row; no vocabulary knows it."""

_TEXT = (pl.String, pl.Categorical, pl.Enum)


class ValueAtError(Exception):
    """A rule that the value at ``place`` (None: all of the column) breaks."""

    def __init__(self, rule: str, place: int | None = None) -> None:
        super().__init__(rule)
        self.rule = rule
        self.place = place


def is_text(dtype: pl.DataType) -> bool:
    """Return whether values (or the values of lists) are strings."""
    if isinstance(dtype, pl.List | pl.Array):
        return is_text(dtype.inner)  # type: ignore[arg-type]
    return dtype in _TEXT


def refuse_where(wrong: pl.Series, values: pl.Series, rule: str) -> None:
    """Raise a :class:`ValueAtError` for the first value that is ``wrong``, if there is one."""
    place = wrong.fill_null(False).arg_true()
    if len(place):
        raise ValueAtError(f"{rule}, got {_shown(values[int(place[0])])}", int(place[0]))


def _shown(value: object) -> str:
    """Return a value as an error shows it; a list as a list."""
    return repr(value.to_list() if isinstance(value, pl.Series) else value)


def raw_ids(values: pl.Series, text: bool | None) -> pl.Series:
    """Return raw ids, int64; nulls stay.

    Args:
        values: Integers, booleans or strings.
        text: Whether strings are expected (None: either).

    Raises:
        ValueAtError: If the type is another one, or at a negative id.
    """
    dtype = values.dtype
    if not (dtype in _TEXT or dtype.is_integer() or dtype == pl.Boolean or dtype == pl.Null):
        raise ValueAtError(f"ids must be integers or strings, got type {dtype}; convert the column")
    found_text = dtype in _TEXT
    if text is not None and found_text != text and dtype != pl.Null:
        kinds = {True: "strings", False: "integers"}
        raise ValueAtError(f"ids must be {kinds[text]} as in training, got type {dtype}")
    if found_text:
        return hash_strings(values.cast(pl.String))
    if dtype == pl.UInt64:
        refuse_where(values > 2**63 - 1, values, "ids must be below 2^63")
    signed = values.cast(pl.Int64)
    refuse_where(signed < 0, values, "ids must not be negative")
    return signed


def split_text(lists: pl.Series, separator: str, text: bool) -> pl.Series:
    """Return a CSV column of joined ids as lists; a null or empty cell is an empty list.

    Raises:
        ValueAtError: At the first id that is no integer, where ``text`` is false.
    """
    filled = lists.fill_null("")
    split = filled.str.split(separator)
    split = (
        pl.select(pl.when(filled == "").then(pl.lit([], dtype=pl.List(pl.String))).otherwise(split))
        .to_series()
        .rename(lists.name)
    )
    if text:
        return split
    numbers = split.cast(pl.List(pl.Int64), strict=False)
    failed = numbers.list.eval(pl.element().is_null()).list.any()
    refuse_where(failed, lists, "ids must be integers as in training")
    return numbers


def check_lists(lists: pl.Series) -> pl.Series:
    """Return a column of lists.

    Raises:
        ValueAtError: If it holds no lists, or at the first null list or null inside a list.
    """
    if isinstance(lists.dtype, pl.Array):
        lists = lists.cast(pl.List(lists.dtype.inner))
    if not isinstance(lists.dtype, pl.List):
        raise ValueAtError(f"values must be lists, got type {lists.dtype}; declare it categorical")
    refuse_where(lists.is_null(), lists, "a list must not be null (use an empty list)")
    if isinstance(lists.dtype.inner, pl.List | pl.Struct):
        raise ValueAtError(f"lists must hold ids, got type {lists.dtype}; see data.attributes")
    if lists.explode(empty_as_null=False).null_count():
        has_null = lists.list.eval(pl.element().is_null()).list.any()
        refuse_where(has_null, lists, "a list must not hold nulls")
    return lists


def numbers(values: pl.Series) -> Tensor:
    """Return a dense column as float32.

    Raises:
        ValueAtError: If it holds no numbers, or at the first null, NaN or infinity.
    """
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise ValueAtError(f"values must be numbers, got type {values.dtype}")
    refuse_where(values.is_null(), values, "a number must not be null; fill it")
    single = values.cast(pl.Float32)
    refuse_where(~single.is_finite(), values, "a number must be finite in float32")
    return torch.from_numpy(single.to_numpy().copy())


def labels(values: pl.Series) -> Tensor:
    """Return labels as float32.

    Raises:
        ValueAtError: If it holds no numbers, or at the first value that is not 0 or 1.
    """
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise ValueAtError(f"labels must be numbers, got type {values.dtype}")
    # In double precision: in single, a label of 1 - 1e-9 would pass for 1.
    wrong = ~values.cast(pl.Float64).is_in([0.0, 1.0])
    refuse_where(wrong.fill_null(True), values, "a label must be 0 or 1")
    return torch.from_numpy(values.cast(pl.Float32).to_numpy().copy())


def as_tensor(values: pl.Series) -> Tensor:
    """Return integers without nulls as an int64 tensor that owns its memory."""
    return torch.from_numpy(values.to_numpy().astype(np.int64, copy=True))
