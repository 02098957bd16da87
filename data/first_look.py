"""First look: what the columns of a file of rows seem to be, as far as their values tell.

The rules, in this order; what a column is can be said otherwise in the configuration.

* A time: dates, text that is ISO 8601, or large integers whose name says so.
* A list of ids: lists, or text of which at least one cell in twenty has a separator, where the
  parts are no more than the cells, each counted once.
* A number: fractions, negative integers, and integers whose name says that they count something.
* An id: other integers, text, and true or false.

Left out are columns that tell nothing: empty ones, one value in all rows, another in every row.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl

from recemb.data.times import times_of
from recemb.data.values import ValueAtError, is_text

Kind = Literal["id", "list", "number", "time", "out"]
SEPARATORS = ("|", ";", ",", " ")
"""Between the ids of a list; blanks only where all parts are integers."""
LIST_SHARE = 0.05
"""Of the cells, those that must have a separator."""
COUNTED = {"price", "amount", "count", "num", "quantity", "age", "score", "total", "duration"}
TIMED = {"time", "timestamp", "ts", "date", "datetime"}
"""Words in the names of columns of integers."""
FIRST_TIME = 10_000_000
"""Integers below are no times: 20260131 is one, and so are seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a column seems to be."""

    name: str
    kind: Kind
    why: str = ""
    """Why it is left out."""
    distinct: int = 0
    """How many ids it holds."""
    separator: str | None = None
    """Between the ids of a list in text."""
    longest: int = 0
    """Ids of the longest list."""


def look(name: str, values: pl.Series, from_text: bool) -> Found:
    """Return what a column seems to be.

    Args:
        name: Its name.
        values: All of it.
        from_text: Whether it is of a text file, where numbers come as text.
    """
    values = values.rename("")
    known = values.drop_nulls()
    if known.is_empty():
        return Found(name=name, kind="out", why="it is empty")
    if known.dtype.is_nested():
        return _of_lists(name, values)
    if values.n_unique() == 1:
        return Found(name=name, kind="out", why=f"all rows have {known[0]!r}")
    if is_time(name, known):
        return Found(name=name, kind="time")
    if _is_number(name, known, from_text):
        return _of_numbers(name, values)
    if is_text(known.dtype) and (separator := _separator(known.cast(pl.String))) is not None:
        parts = known.cast(pl.String).str.split(separator)
        found = _of_lists(name, parts)
        return replace(found, separator=separator)
    if not (is_text(known.dtype) or known.dtype.is_integer() or known.dtype == pl.Boolean):
        return Found(name=name, kind="out", why=f"its type is {known.dtype}")
    distinct = known.n_unique()
    if distinct == len(values):
        return Found(name=name, kind="out", why="every row has another value")
    return Found(name=name, kind="id", distinct=distinct)


def ids_of(values: pl.Series, found: Found) -> pl.Series:
    """Return the ids of a column, one after the other, as strings."""
    if found.kind == "list":
        if found.separator is not None:
            values = values.cast(pl.String).str.split(found.separator)
        values = values.explode(empty_as_null=False)
    return values.drop_nulls().cast(pl.String)


def lengths_of(values: pl.Series, found: Found) -> pl.Series:
    """Return how many ids each list has."""
    if found.separator is not None:
        text = values.cast(pl.String).fill_null("")
        return (text.str.count_matches(found.separator, literal=True) + 1) * (text != "")
    return values.list.len()


def is_time(name: str, known: pl.Series) -> bool:
    """Return whether values without nulls seem to be times."""
    if known.dtype == pl.Date or isinstance(known.dtype, pl.Datetime):
        return True
    if known.dtype.is_integer():
        return bool(_words(name) & TIMED) and int(known.min()) >= FIRST_TIME  # type: ignore[arg-type]
    if not is_text(known.dtype) or not known.cast(pl.String).str.contains(r"^\d{4}-").all():
        return False
    try:
        times_of(known, None)
    except ValueAtError:
        return False
    return True


def _is_number(name: str, known: pl.Series, from_text: bool) -> bool:
    if known.dtype.is_integer():
        return bool(_words(name) & COUNTED) or int(known.min()) < 0  # type: ignore[arg-type]
    if known.dtype.is_float() or known.dtype.is_decimal():
        return True
    if not from_text or known.dtype != pl.String:
        return False
    is_plain = known.str.contains(r"^\s*[+-]?(0|[1-9]\d*|\d*\.\d+|\d+\.)([eE][+-]?\d+)?\s*$")
    return bool(is_plain.all()) and bool(known.str.contains(r"[.eE-]").any())


def _of_numbers(name: str, values: pl.Series) -> Found:
    single = values.cast(pl.Float32, strict=False)
    missing = int((~(single.is_finite().fill_null(False))).sum())
    if missing:
        why = f"a number must not be missing, and {missing:,} are; fill them to have it"
        return Found(name=name, kind="out", why=why)
    return Found(name=name, kind="number")


def _of_lists(name: str, lists: pl.Series) -> Found:
    inner: Any = lists.dtype.inner if isinstance(lists.dtype, pl.List | pl.Array) else None
    if inner is None or not (is_text(inner) or inner.is_integer()) or inner.is_nested():
        return Found(name=name, kind="out", why=f"its type is {lists.dtype}, no lists of ids")
    if isinstance(lists.dtype, pl.Array):
        lists = lists.cast(pl.List(inner))
    flat = lists.explode(empty_as_null=False)
    distinct = flat.drop_nulls().n_unique()
    if not distinct:
        return Found(name=name, kind="out", why="all of its lists are empty")
    longest = int(lists.list.len().max() or 0)  # type: ignore[arg-type]
    return Found(name=name, kind="list", distinct=distinct, longest=longest)


def _separator(text: pl.Series) -> str | None:
    """Return what separates ids in cells of text; None if nothing does."""
    for separator in SEPARATORS:
        has = text.str.contains(separator, literal=True)
        if not has.sum() >= LIST_SHARE * len(text) or not has.any():
            continue
        parts = text.str.split(separator).explode(empty_as_null=False)
        if separator == " " and not parts.str.contains(r"^\d+$").all():
            continue
        if (parts != "").all() and parts.n_unique() <= text.n_unique():
            return separator
    return None


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))
