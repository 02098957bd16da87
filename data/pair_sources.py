"""Pair sources: pairs of items from baskets, and from what is said of items.

A basket's pairs are made some baskets at a time: what is in memory is their events and one step's
pairs.

Sources: skip-gram over baskets or sessions is Prod2Vec (Grbovic et al., "E-commerce in Your Inbox",
KDD 2015, arXiv:1606.07154); relations of items as in McAuley, Pandey and Leskovec, "Inferring
Networks of Substitutable and Complementary Products", KDD 2015, arXiv:1506.08839.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

from recemb.data.events import (
    EventColumns,
    check_events,
    count_ties,
    ids_of,
    ordered_events,
    say_ties,
)
from recemb.data.files import TableFile, exactly
from recemb.data.values import IdKind, ValueAtError, split_text
from recemb.errors import RecembError
from recemb.frames import Source, path_of

ROW = "number of the row"
"""A column for the while of reading; no file has such a name."""
PART_EVENTS = 4_000_000
"""Events whose pairs are made at a time."""
Directions = Literal["forward", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baskets:
    """A file of events: which item came into which basket (or session), and when."""

    path: Source
    """Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``; or a frame."""
    basket: str = "basket"
    """Column that says whose event it is: a basket, a session or a user."""
    item: str = "item"
    """Column of item ids."""
    time: str | None = None
    """Column of times that order the events of a basket: numbers, dates, or text as
    :mod:`recemb.data.times` reads it. Without it they are in the order of the file."""
    time_format: str | None = None
    """How times are read that are text and no ISO 8601, such as ``%d/%m/%Y %H:%M``."""
    window: int = 5
    """Events of a basket so many apart at most are a pair."""
    longest: float | None = None
    """Nor are events that are further apart in time than this: in the units of ``time`` where it
    has numbers, else in seconds."""
    directions: Directions = "forward"
    """``forward``: the later event is the context of the earlier; ``both``: also the reverse."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", path_of(self.path, "baskets"))

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        if self.window < 1:
            raise RecembError(f"baskets: window must be at least 1, got {self.window}")
        if self.longest is not None and (self.time is None or self.longest < 0):
            raise RecembError(
                f"baskets: longest must be at least 0 and needs a column of times, got "
                f"longest={self.longest}, time={self.time}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Relations:
    """A file with one row per item: what else was bought, and what was looked at instead."""

    path: Source
    """Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``; or a frame."""
    item: str = "item"
    """Column of item ids."""
    complements: str = "complements"
    """Column of lists of items."""
    substitutes: str | None = None
    """Column of lists of items; None: there are none, and nothing is measured of them."""
    separator: str = "|"
    """In CSV files, what separates the values of a list."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", path_of(self.path, "relations"))


def related(file: TableFile, relations: Relations, column: str, text: bool) -> pl.DataFrame:
    """Return the pairs of a list column of a file of items; as they are stored.

    Args:
        file: With a row per item.
        relations: Its columns.
        column: Of lists.
        text: Whether ids are strings, or else integers.
    """
    names = [relations.item, column]
    file.require(names)
    rows = pl.concat([file.read(group, names) for group in range(len(file.group_sizes))])
    lists = rows[column]
    if file.is_text:
        try:
            lists = split_text(lists.cast(pl.String), relations.separator)
        except ValueAtError as error:
            place = f", {file.place(error.place)}" if error.place is not None else ""
            raise RecembError(f"{file.path}: column {column!r}{place}: {error.rule}") from None
    if not isinstance(lists.dtype, pl.List):
        raise RecembError(
            f"{file.path}: column {column!r}: values must be lists, got type {lists.dtype}"
        )
    pairs = pl.DataFrame({"item": rows[relations.item], "context": lists})
    pairs = pairs.with_row_index("row").explode("context").drop_nulls()
    row_N, kind = pairs["row"], IdKind(text, from_text=file.is_text)
    return pl.DataFrame(
        {
            side: ids_of(
                pairs[side], name, file.path, lambda at: file.place(int(row_N[at])), None, kind
            )
            for side, name in zip(("item", "context"), names, strict=True)
        }
    )


def values_of(file: TableFile, column: str, separator: str) -> pl.Expr:
    """Return a column of values, or of lists of values: of a text file always lists, of strings."""
    value = exactly(column)
    return value.cast(pl.String).str.split(separator) if file.is_text else value


def items_in(file: TableFile, column: str, text: bool) -> pl.DataFrame:
    """Return the distinct ids of a column, ``item``, without nulls.

    Raises:
        RecembError: At the first value that is no id.
    """
    kind, parts = IdKind(text, from_text=file.is_text), []
    for group in range(len(file.group_sizes)):

        def place(at: int, first: int = file.first_row(group)) -> str:
            return file.place(first + at)

        values = file.read(group, [column])[column]
        own = ids_of(values, column, file.path, place, None, kind)
        parts.append(own.drop_nulls().unique())
    return pl.concat(parts).unique().alias("item").to_frame()


def basket_parts(file: TableFile, baskets: Baskets, text: bool) -> Iterator[pl.DataFrame]:
    """Yield the pairs of baskets, ``item`` and ``context``, some baskets at a time.

    Args:
        file: With a row per event.
        baskets: Its columns, and what is a pair.
        text: Whether ids of items are strings, or else integers.

    Raises:
        RecembError: If a column is missing, or an event lacks what orders or names it.
    """
    columns = EventColumns(
        {"basket": baskets.basket, "item": baskets.item}, baskets.time, baskets.time_format
    )
    names = list(dict.fromkeys(columns.names))
    file.require(names)
    rows = file.scan().select(exactly(name) for name in names).with_row_index(ROW)
    num_parts, ties = -(-file.num_rows // PART_EVENTS), 0
    for part in range(num_parts):
        # Which baskets go together matters to nothing but memory.
        own = file.collect(rows.filter(exactly(baskets.basket).hash() % num_parts == part))
        ordered, longest = _ordered(own, columns, file, baskets, text)
        if columns.time is not None:
            ties += count_ties(ordered, "basket", "item")
        for step in range(1, baskets.window + 1):
            later = [
                (pl.col(name).shift(-step)).alias(f"{name}_later")
                for name in ("basket", "item", "time")
            ]
            near = pl.col("basket") == pl.col("basket_later")
            near &= pl.col("item") != pl.col("item_later")
            if longest is not None:
                near &= (pl.col("time_later") - pl.col("time")) <= longest
            pairs = ordered.with_columns(later).filter(near)
            pairs = pairs.select("item", context="item_later")
            yield pairs
            if baskets.directions == "both":
                yield pairs.select(item="context", context="item")
    say_ties(ties, file.num_rows, "basket", "item", file.path)


def _ordered(
    own: pl.DataFrame, columns: EventColumns, file: TableFile, baskets: Baskets, text: bool
) -> tuple[pl.DataFrame, float | None]:
    """Return events of some baskets in their order, and ``longest`` in the unit of their times."""
    row_N = own[ROW]
    events, per_second = check_events(
        own, columns, file.path, lambda at: file.place(int(row_N[at])), {"item": text}
    )
    if columns.time is None:
        return events.with_columns(row_N.alias("time")).sort("basket", "time"), None
    longest = baskets.longest
    if longest is not None and per_second is not None:
        longest *= per_second
    return ordered_events(events, "basket", "item"), longest
