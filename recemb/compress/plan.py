"""Budgets: choose the size of every table so that all of them together fit.

A table's part of the budget is proportional to the square root of what it takes now: a small table
is made less small, or stays as it is. For DIN on MovieLens-1M, validation AUC was better so than
with one common share for all tables: pq .8158 against .8116 and prune .6737 against .6172 at a
tenth of the bytes, dedup .7971 against .7755 at a quarter; svd, whose sizes are coarse, .7860
against .7968.
A table that cannot get as small as its part takes what it needs, and the others share what is left.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from recemb.compress.method import Method, TrainedTable
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.tables.kind import FP32_BYTES

HALVINGS = 40
"""Of the search for the parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    """A table with the sizes that make it smaller; after the last one comes staying as it is."""

    method: Method
    table: TrainedTable
    sizes: Sequence[Any]

    def num_bytes(self, place: int) -> int:
        """Return the bytes of the size at a place."""
        if place == len(self.sizes):
            return self.table.num_bytes
        return self.table.bytes_of(self.method.config(self.table, self.sizes[place]))

    @property
    def root(self) -> float:
        """What its part of a budget is proportional to."""
        return math.sqrt(self.table.num_bytes)

    def within(self, level: float) -> int:
        """Return the place of the largest size within a part, or of the smallest size."""
        places = range(len(self.sizes) + 1)
        return max(bisect_right(places, level * self.root, key=self.num_bytes) - 1, 0)


def smaller_sizes(method: Method, table: TrainedTable) -> Sequence[Any]:
    """Return the sizes that take fewer bytes than the table does now."""
    sizes = method.sizes(table)
    now = table.num_bytes
    end = bisect_left(sizes, now, key=lambda size: table.bytes_of(method.config(table, size)))
    return sizes[:end]


def solve(
    method: Method,
    sizes: Mapping[str, Sequence[Any]],
    tables: Mapping[str, TrainedTable],
    budget: int,
) -> dict[str, Any]:
    """Return the size of each table of ``sizes`` that does not stay as it is.

    Args:
        method: Of compression.
        sizes: Those that make a table smaller, for the tables that shall be.
        tables: All tables.
        budget: Bytes of all of them.

    Raises:
        RecembError: If the tables cannot be made so small, or are already.
    """
    choices = {
        name: _Choice(method=method, table=tables[name], sizes=own) for name, own in sizes.items()
    }
    staying = {name: one.num_bytes for name, one in tables.items() if name not in choices}
    now = sum(one.num_bytes for one in tables.values())
    if now <= budget and method.has_size:
        raise RecembError(
            f"a budget of {budget:,} bytes: the tables take {now:,} already; there is nothing to do"
        )
    room = budget - sum(staying.values())
    least = sum(choice.num_bytes(0) for choice in choices.values())
    if least > room:
        named = f", {sum(staying.values()):,} of it in tables that stay: " if staying else ""
        able = {name: tables[name] for name in choices}
        raise RecembError(
            f"a budget of {budget:,} bytes is too small for {method.name}, which needs "
            f"{least + sum(staying.values()):,}{named}{_some(staying)}; give it that, "
            f"{method.advice(able, room)}"
        )
    if not method.has_size:
        return {name: own[0] for name, own in sizes.items()}
    places = _fill(choices, _level(choices, room), room)
    return {name: sizes[name][place] for name, place in places.items() if place < len(sizes[name])}


def _level(choices: Mapping[str, _Choice], room: int) -> dict[str, int]:
    """Return the places at the largest level at which the tables fit."""
    best = dict.fromkeys(choices, 0)
    low, high = 0.0, max(choice.root for choice in choices.values())
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = {name: choice.within(middle) for name, choice in choices.items()}
        if sum(choices[name].num_bytes(place) for name, place in found.items()) <= room:
            low, best = middle, found
        else:
            high = middle
    return best


def _fill(choices: Mapping[str, _Choice], places: Mapping[str, int], room: int) -> dict[str, int]:
    """Return the places with what is left of the room used up, size by size."""
    places = dict(places)
    taken = {name: choice.num_bytes(places[name]) for name, choice in choices.items()}
    while True:
        larger = {
            name: choice.num_bytes(places[name] + 1)
            for name, choice in choices.items()
            if places[name] < len(choice.sizes)
        }
        left = room - sum(taken.values())
        fitting = [name for name, count in larger.items() if count - taken[name] <= left]
        if not fitting:
            return places
        # The one that has the least of its part.
        name = min(fitting, key=lambda one: taken[one] / choices[one].root)
        places[name], taken[name] = places[name] + 1, larger[name]


def _some(names: Mapping[str, object]) -> str:
    """Return the first names, and how many more there are."""
    shown = [repr(name) for name in list(names)[:4]]
    more = [f"{len(names) - 4} more"] if len(names) > 4 else []
    return ", ".join([*shown, *more])


def plain_bytes(embeddings: Embeddings) -> int:
    """Return the bytes of plain fp32 tables: a row per id, as wide as the model sees.

    Raises:
        RecembError: If a table reads raw ids, of which nobody knows how many there are.
    """
    total = 0
    for name, spaces in embeddings.spaces.items():
        raw = [space.name for space in spaces if space.num_ids is None]
        if raw:
            raise RecembError(
                f"a share needs the number of ids, but table {name!r} reads raw ids of "
                f"{raw[0]!r}; give a budget in bytes"
            )
        widths = [
            embeddings.dims[feature.name]
            for feature in embeddings.features
            if feature.config.table == name
        ]
        total += sum(space.num_ids or 0 for space in spaces) * max(widths) * FP32_BYTES
    return total


def share_in_bytes(embeddings: Embeddings, share: float) -> int:
    """Return a share of :func:`plain_bytes`.

    Raises:
        RecembError: If it is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise RecembError(f"a share must be above 0 and at most 1, got {share}")
    # Exact: the float product makes 3.0000000000000004 of 0.1 * 30.
    return math.floor(plain_bytes(embeddings) * Fraction(str(share)))
