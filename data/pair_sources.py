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

from data.files import TableFile
from recemb.errors import RecembError

PART_EVENTS = 4_000_000
"""Events whose pairs are made at a time."""
Directions = Literal["forward", "both"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baskets:
    """A file of events: which item came into which basket (or session), and when."""

    path: str
    """Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``."""
    basket: str = "basket"
    """Column that says whose event it is: a basket, a session or a user."""
    item: str = "item"
    """Column of item ids."""
    time: str | None = None
    """Column of numbers or times that orders the events of a basket; without it they are in the
    order of the file."""
    window: int = 5
    """Events of a basket so many apart at most are a pair."""
    longest: float | None = None
    """Nor are events that are further apart in time than this, in the units of ``time``."""
    directions: Directions = "forward"
    """``forward``: the later event is the context of the earlier; ``both``: also the reverse."""

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

    path: str
    """Parquet file, in the current folder or under ``$RECEMB_DATA``."""
    item: str = "item"
    """Column of item ids."""
    complements: str = "complements"
    """Column of lists of items."""
    substitutes: str | None = None
    """Column of lists of items; None: there are none, and nothing is measured of them."""


def id_type(dtype: pl.DataType) -> pl.DataType:
    """Return the type in which ids of all files are compared: strings, or 64-bit integers."""
    return pl.String() if dtype in (pl.String, pl.Categorical) else pl.Int64()


def related(file: TableFile, relations: Relations, column: str) -> pl.LazyFrame:
    """Return the pairs of a list column of a file of items; as they are stored."""
    file.require([relations.item, column])
    dtype = file.scan().collect_schema()[column]
    if not isinstance(dtype, pl.List):
        raise RecembError(f"{file.path}: column {column!r}: values must be lists, got type {dtype}")
    return (
        file.scan()
        .select(item=pl.col(relations.item), context=pl.col(column))
        .explode("context")
        .drop_nulls()
        .select(pl.all().cast(id_type(dtype.inner)))  # type: ignore[arg-type]
    )


def basket_parts(file: TableFile, baskets: Baskets) -> Iterator[pl.DataFrame]:
    """Yield the pairs of baskets, ``item`` and ``context``, some baskets at a time.

    Raises:
        RecembError: If a column is missing, or an event lacks what orders or names it.
    """
    names = [baskets.basket, baskets.item, *([baskets.time] if baskets.time else [])]
    file.require(names)
    nulls = file.collect(file.scan().select(pl.col(name).null_count() for name in names))
    for name in names:
        if nulls[name][0]:
            raise RecembError(
                f"{file.path}: column {name!r}: an event must have it, got {nulls[name][0]} nulls; "
                "fill them or drop the rows"
            )
    types = file.scan().collect_schema()
    kind = id_type(types[baskets.item])
    if baskets.longest is not None and not types[baskets.time or "row"].is_numeric():
        raise RecembError(
            f"{file.path}: column {baskets.time!r}: with longest, times must be numbers, got type "
            f"{types[baskets.time or 'row']}; convert them, to seconds for example"
        )
    events = file.scan().with_row_index("row").select(
        "row",
        basket=pl.col(baskets.basket),
        item=pl.col(baskets.item).cast(kind),
        time=pl.col(baskets.time or "row"),
    )  # fmt: skip
    num_parts = -(-file.num_rows // PART_EVENTS)
    for part in range(num_parts):
        # Which baskets go together matters to nothing but memory.
        own = events.filter(pl.col("basket").hash() % num_parts == part)
        ordered = file.collect(own).sort("basket", "time", "row")
        for step in range(1, baskets.window + 1):
            later = [
                (pl.col(name).shift(-step)).alias(f"{name}_later")
                for name in ("basket", "item", "time")
            ]
            near = pl.col("basket") == pl.col("basket_later")
            near &= pl.col("item") != pl.col("item_later")
            if baskets.longest is not None:
                near &= (pl.col("time_later") - pl.col("time")) <= baskets.longest
            pairs = ordered.with_columns(later).filter(near)
            pairs = pairs.select("item", context="item_later")
            yield pairs
            if baskets.directions == "both":
                yield pairs.select(item="context", context="item")
