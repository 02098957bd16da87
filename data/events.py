"""Events: rows of a user's file that say who, what and when, checked and in the order of time.

Events of one owner (a user, a session, a basket) at the same time are in the order of a hash of
owner and item, which nothing else decides: not the order of the file, nor what is newer or more
popular. How many there are is said. The hash, on 64 bits, is ``mix(mix(owner) xor item)``, with
``mix`` and the ids of strings as in :mod:`recemb.hashing`.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import polars as pl
from torch import Tensor

from recemb.data.cache import say
from recemb.data.columns import IdType
from recemb.data.files import TableFile, is_text_file
from recemb.data.id_types import IdsOfFile, decide_text
from recemb.data.times import Times, times_of
from recemb.data.values import IdKind, ValueAtError, as_tensor, is_text, of_kind, raw_ids
from recemb.errors import RecembError
from recemb.hashing import hash_strings, mix

Place = Callable[[int], str]
"""Where a row is in its file, as errors say it."""


class EventColumns(NamedTuple):
    """Which columns of a file say what."""

    ids: Mapping[str, str]
    """Columns of ids by what they are of, such as ``user``."""
    time: str | None
    """The column of times; None: the file has none."""
    time_format: str | None
    """See :func:`recemb.data.times.times_of`."""
    types: Mapping[str, IdType | None] = MappingProxyType({})
    """What is declared of ids by the settings ``user_type`` and such, by what they are of; what is
    not named has no such setting."""

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.ids.values(), *([self.time] if self.time is not None else [])]


class Events(NamedTuple):
    """Checked events."""

    rows: pl.DataFrame
    """Ids, int64 or strings, by what they are of, and ``time`` as a number where there is one."""
    per_second: int | None
    """See :class:`recemb.data.times.Times`."""


def are_text(
    types: Mapping[str, IdType | None], ids: Mapping[str, Sequence[IdsOfFile]]
) -> dict[str, bool]:
    """Return whether ids are strings, decided once over all files that have them.

    Args:
        types: What is declared, by what ids are of.
        ids: All columns of ids, by what they are of.

    Raises:
        RecembError: If a column is missing or holds no ids, or files contradict each other.
    """
    for one in chain.from_iterable(ids.values()):
        one.file.require([one.name])
    return {role: decide_text(found, types.get(role)) for role, found in ids.items()}


def read_events(
    file: TableFile,
    columns: EventColumns,
    text: Mapping[str, bool] | None = None,
    what: str = "event",
) -> Events:
    """Return the events of a file in its order.

    Args:
        file: Has a row per event.
        columns: Of the file.
        text: Whether ids are strings, by what they are of; what is not named is what it is.
        what: A row is, in errors.

    Raises:
        RecembError: If a column is missing, or at the first row that lacks a value or has a wrong
            one.
    """
    file.require(columns.names)
    rows = pl.concat([file.read(group, columns.names) for group in range(len(file.group_sizes))])
    return check_events(rows, columns, file.path, file.place, text, what)


def check_events(
    rows: pl.DataFrame,
    columns: EventColumns,
    path: Path,
    place: Place,
    text: Mapping[str, bool] | None = None,
    what: str = "event",
) -> Events:
    """Return rows of a file as events; see :func:`read_events`.

    Args:
        rows: With the columns by their names in the file.
        columns: Of the file.
        path: Of the file.
        place: Where a row is.
        text: See :func:`read_events`.
        what: A row is, in errors.
    """
    found = {}
    for role, name in columns.ids.items():
        kind = None
        if text is not None and role in text:
            is_declared = columns.types.get(role) is not None
            kind = IdKind(text[role], is_declared, is_text_file(path))
        setting = f"{role}_type" if role in columns.types else None
        found[role] = ids_of(rows[name], name, path, place, what, kind, setting)
    if columns.time is None:
        return Events(pl.DataFrame(found), None)
    times = read_times(rows[columns.time], columns, path, place, what)
    return Events(pl.DataFrame({**found, "time": times.number}), times.per_second)


def ids_of(
    values: pl.Series,
    name: str,
    path: Path,
    place: Place,
    what: str | None = None,
    kind: IdKind | None = None,
    setting: str | None = None,
) -> pl.Series:
    """Return a column of ids as int64 or strings.

    Args:
        values: The column.
        name: Of the column in its file.
        path: Of the file.
        place: Where a row is.
        what: A row is, in errors; None: ids may be null, and stay so.
        kind: What ids should be; None: what they are.
        setting: By which the user declares their type; None: there is none.

    Raises:
        RecembError: At the first value that is no id.
    """
    values = values.rename("")
    try:
        if what is not None:
            _refuse_nulls(values, what)
        values = of_kind(values, kind, setting)
        raw = raw_ids(values, None, setting)
    except ValueAtError as error:
        raise error_at(path, name, error, place) from None
    return values.cast(pl.String) if is_text(values.dtype) else raw


def read_times(
    values: pl.Series, columns: EventColumns, path: Path, place: Place, what: str
) -> Times:
    """Return a column of times.

    Raises:
        RecembError: At the first value that is no time.
    """
    values = values.rename("")
    try:
        _refuse_nulls(values, what)
        return times_of(values, columns.time_format)
    except ValueAtError as error:
        raise error_at(path, str(columns.time), error, place) from None


def error_at(path: Path, column: str, error: ValueAtError, place: Place) -> RecembError:
    """Return the error that names file, column and place."""
    where = "" if error.place is None else f", {place(error.place)}"
    return RecembError(f"{path}: column {column!r}{where}: {error.rule}")


def _refuse_nulls(values: pl.Series, what: str) -> None:
    if values.null_count():
        article = "an" if what[0] in "aeiou" else "a"
        rule = f"{article} {what} must have it, got null; fill it or drop the row"
        raise ValueAtError(rule, values.is_null().arg_max())


def in_order(events: pl.DataFrame, owner: str, item: str, where: Path) -> pl.DataFrame:
    """Return events by owner and, of each owner, by time; ties are broken, and said.

    Args:
        events: With ``time`` and the ids of owners and items.
        owner: Column of whose event it is.
        item: Column of what it is.
        where: The file, which the notice names.
    """
    ordered = ordered_events(events, owner, item)
    say_ties(count_ties(ordered, owner, item), len(ordered), owner, item, where)
    return ordered


def ordered_events(events: pl.DataFrame, owner: str, item: str) -> pl.DataFrame:
    """Return what :func:`in_order` does, without a word."""
    tie = pl.Series("tie", mix(mix(_raw(events[owner])) ^ _raw(events[item])).numpy())
    # Last the item: strings may have the same hash.
    return events.with_columns(tie).sort(owner, "time", "tie", item).drop("tie")


def say_ties(ties: int, count: int, owner: str, item: str, where: Path) -> None:
    """Say how many of so many events have no order of their own, if any."""
    if ties:
        say(
            f"{where}: {ties:,} of {count:,} events have the time of another event of the same "
            f"{owner}; they are ordered by a hash of {owner} and {item}"
        )


def count_ties(ordered: pl.DataFrame, owner: str, item: str) -> int:
    """Return how many events have the owner and time, and not the item, of another one.

    Args:
        ordered: By owner, time and, of one time, so that equal items are beside each other.
        owner: Column of whose event it is.
        item: Column of what it is.
    """
    is_first = pl.any_horizontal(pl.col(owner, "time").ne_missing(pl.col(owner, "time").shift()))
    first = ordered.select(is_first).to_series().arg_true()
    last = first.shift(-1).fill_null(len(ordered)).cast(pl.Int64) - 1
    items = ordered[item]
    differ = items.gather(first) != items.gather(last)
    return int((last - first.cast(pl.Int64) + 1).filter(differ).sum())


def hashes(ids: pl.Series) -> pl.Series:
    """Return a 64-bit hash of each id, by which ties of owners are broken."""
    return pl.Series("hash", mix(_raw(ids)).numpy())


def _raw(ids: pl.Series) -> Tensor:
    return as_tensor(hash_strings(ids) if ids.dtype == pl.String else ids)
