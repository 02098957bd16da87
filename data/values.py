"""Values: checks and conversions of the columns of one row group.

A check that fails raises :class:`ValueAtError` with the place of the first wrong value; the reader
adds file, column and row. A column's values become *raw ids*: int64, the hash where they are
strings.

Series come with names that are no pattern to polars, such as the empty one.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recemb.hashing import hash_strings

MISSING = -(2**63)
"""The raw id of a null in a column with one id per row; no vocabulary knows it."""

_TEXT = (pl.String, pl.Categorical, pl.Enum)


class IdKind(NamedTuple):
    """What the ids of a column are, and how they came to be so."""

    is_text: bool
    """Whether they are strings, or else integers."""
    is_declared: bool = False
    """Whether the user says so; values of the other type are then converted."""
    from_text: bool = False
    """Whether they are of a text file, which has no types: ids whose text stays what it is (``7``
    and not ``007``) are converted too."""


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


def refuse_where(wrong: pl.Series, values: pl.Series, rule: str, advice: str = "") -> None:
    """Raise a :class:`ValueAtError` for the first value that is ``wrong``, if there is one."""
    place = wrong.fill_null(False).arg_true()
    if len(place):
        got = f"{rule}, got {_shown(values[int(place[0])])}"
        raise ValueAtError(f"{got}; {advice}" if advice else got, int(place[0]))


def _shown(value: object) -> str:
    """Return a value as an error shows it; a list as a list."""
    return repr(value.to_list() if isinstance(value, pl.Series) else value)


def raw_ids(values: pl.Series, kind: IdKind | None, setting: str | None = "type") -> pl.Series:
    """Return raw ids, int64; nulls stay.

    Args:
        values: Integers, booleans or strings.
        kind: What they should be; None: what they are.
        setting: By which the user declares the type; None: there is none.

    Raises:
        ValueAtError: If the type is another one, or at a value that is no id.
    """
    values = of_kind(values, kind, setting)
    if values.dtype in _TEXT:
        return hash_strings(values.cast(pl.String))
    if values.dtype.is_integer():
        if values.dtype in (pl.UInt64, pl.Int128, pl.UInt128):
            wrong = values > 2**63 - 1
            refuse_where(wrong, values, "ids must be below 2^63", _as_strings(setting))
        refuse_where(values < 0, values, "ids must not be negative")
    return values.cast(pl.Int64)


def _as_strings(setting: str | None) -> str:
    """Return how a user has ids be strings."""
    return "convert the column to strings" if setting is None else f"declare {setting}: string"


def of_kind(values: pl.Series, kind: IdKind | None, setting: str | None = "type") -> pl.Series:
    """Return ids as strings or integers, converted where the kind allows it.

    Raises:
        ValueAtError: As :func:`raw_ids`.
    """
    dtype = values.dtype
    found_text = dtype in _TEXT
    if values.null_count() == len(values) and not dtype.is_nested():
        # Nothing is of any type.
        is_text = found_text if kind is None else kind.is_text
        return pl.Series("", [None] * len(values), pl.String if is_text else pl.Int64)
    if not (found_text or dtype.is_integer() or dtype in (pl.Boolean, pl.Null)):
        raise ValueAtError(f"ids must be integers or strings, got type {dtype}; convert the column")
    if kind is None or found_text == kind.is_text or dtype == pl.Null:
        return values
    wanted = "strings" if kind.is_text else "integers"
    if not (kind.is_declared or kind.from_text):
        raise ValueAtError(f"ids must be {wanted} as in training, got type {dtype}")
    if kind.is_text:
        return values.cast(pl.String)
    text = values.cast(pl.String)
    found = text.cast(pl.Int64, strict=False)
    wrong = found.is_null() & text.is_not_null()
    if kind.is_declared:
        refuse_where(wrong, text, "ids must be integers, as declared")
    else:
        wrong |= _written_otherwise(text)
        advice = f"{_as_strings(setting)} if the data set has such ids"
        refuse_where(wrong, text, "ids must be integers as in training", advice)
    return found


def _written_otherwise(text: pl.Series) -> pl.Series:
    """Return where text says an integer as Python does not write it: 007, +7, -0."""
    # All such come before 1 in the order of text, but few ids do: no need to look at each closely.
    low = (text < "1") & (text != "0")
    if not low.any():
        return low
    starts = text.str.starts_with
    return low & (starts("0") | starts("+") | starts("-0"))


def split_text(lists: pl.Series, separator: str) -> pl.Series:
    """Return cells of joined ids as lists of strings; a null or empty cell is an empty list.

    Raises:
        ValueAtError: At the first cell with nothing before, after or between separators.
    """
    filled = lists.fill_null("")
    split = filled.str.split(separator)
    split = pl.select(
        pl.when(filled == "").then(pl.lit([], dtype=pl.List(pl.String))).otherwise(split)
    ).to_series()
    twice = filled.str.contains(separator * 2, literal=True)
    has_nothing = twice | filled.str.starts_with(separator) | filled.str.ends_with(separator)
    rule = f"a list must have an id before and after each {separator!r}"
    refuse_where(has_nothing, lists, rule)
    return split


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


def number(text: pl.Expr) -> pl.Expr:
    """Return the numbers that cells of text say, float64: null for what is none, 1 for ``true``."""
    bare = text.str.strip_chars()
    is_true, is_false = (bare.str.to_lowercase() == word for word in ("true", "false"))
    found = bare.cast(pl.Float64, strict=False)
    return pl.when(is_true).then(1.0).when(is_false).then(0.0).otherwise(found)


def _as_numbers(values: pl.Series, what: str, from_text: bool) -> pl.Series:
    """Return a column as numbers; cells of a text file are read as such.

    Raises:
        ValueAtError: If it holds no numbers, or at the first cell that is none.
    """
    if from_text and values.dtype == pl.String:
        found = values.cast(pl.Float64, strict=False)
        if found.null_count() > values.null_count():
            found = values.to_frame("text").select(number(pl.col("text"))).to_series()
        refuse_where(found.is_null() & values.is_not_null(), values, f"{what}s must be numbers")
        return found
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        raise ValueAtError(f"{what}s must be numbers, got type {values.dtype}")
    return values


def numbers(values: pl.Series, from_text: bool = False) -> Tensor:
    """Return a dense column as float32.

    Args:
        values: The column.
        from_text: Whether it is of a text file, where numbers come as text.

    Raises:
        ValueAtError: If it holds no numbers, or at the first null, NaN or infinity.
    """
    found = _as_numbers(values, "value", from_text)
    refuse_where(values.is_null(), values, "a number must not be null; fill it")
    single = found.cast(pl.Float32)
    refuse_where(~single.is_finite(), values, "a number must be finite in float32")
    return torch.from_numpy(single.to_numpy().copy())


def labels(values: pl.Series, from_text: bool = False) -> Tensor:
    """Return labels as float32; see :func:`numbers`.

    Raises:
        ValueAtError: If it holds no numbers, or at the first value that is not 0 or 1.
    """
    found = _as_numbers(values, "label", from_text)
    # In double precision: in single, a label of 1 - 1e-9 would pass for 1.
    wrong = ~found.cast(pl.Float64).is_in([0.0, 1.0])
    refuse_where(wrong.fill_null(True), values, "a label must be 0 or 1")
    return torch.from_numpy(found.cast(pl.Float32).to_numpy().copy())


def as_tensor(values: pl.Series) -> Tensor:
    """Return integers without nulls as an int64 tensor that owns its memory."""
    return torch.from_numpy(values.to_numpy().astype(np.int64, copy=True))
