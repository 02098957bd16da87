"""Long histories: from a log of behaviours to rows of a target, a label and the history before.

Of a user's behaviours in the order of time, n of them:

    0 ... first_target ................................ n - 3      n - 2        n - 1
          training targets, spread evenly between these          validation      test

A row's history is the ``history_length`` behaviours before its target, oldest first. For each
positive there are negatives: other items at the same place of the same history, drawn by how often
an item occurs before the users' validation targets.

Rows are written chunk by chunk of users, so only one chunk's histories are in memory.

Source: the protocol of Feng et al., "Long-Sequence Recommendation Models Need Decoupled
Embeddings", ICLR 2025, arXiv:2410.02604.

Shapes: U users, N behaviours of all users, T targets, R rows (targets and negatives), V items.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from recemb.data.events import in_order
from recemb.data.files import PROGRESS_ROWS
from recemb.data.tabular import STAGES
from recemb.errors import RecembError

Integers = NDArray[np.int64]

CHUNK_IDS = 1 << 24
"""Ids of histories that are in memory at once, about."""
DRAWS = 10_000
"""Rounds of redrawing negatives that their user has met, before that is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """How rows are made of a log."""

    history_length: int = 200
    """Behaviours of the longest history; at least 1."""
    min_behaviours: int = 210
    """Users with fewer are left out; at least 3."""
    targets: int = 20
    """Training targets per user at most; at least 1."""
    first_target: int = 20
    """Place of a user's first training target: behaviours of its history at least; at least 1."""
    negatives: int = 2
    """Negatives per positive; at least 1."""
    unmet: bool = False
    """Whether negatives must be items that their user meets nowhere in the log. Needed where a
    user meets an item once at most (ratings): there an item of the history could not be a
    positive, and a model would learn that and nothing else."""
    seed: int = 2024
    """Of the negatives; part of the protocol, for another one would be another test set."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        least = dict.fromkeys(("history_length", "targets", "first_target", "negatives"), 1)
        for name, lowest in {**least, "min_behaviours": 3}.items():
            if getattr(self, name) < lowest:
                raise RecembError(
                    f"protocol: {name} must be at least {lowest}, got {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True)
class Log:
    """Behaviours by user and time, of users that have enough of them.

    Attributes:
        user_U: Ids of the users.
        start_U: (U + 1,) where each user's behaviours start.
        item_N: Ids of items.
        time_N: Seconds, or None where the log tells the order alone.
        users: Where users are strings, these, in order: ``user_U`` are places among them.
        items: Likewise of items.
    """

    user_U: Integers
    start_U: Integers
    item_N: Integers
    time_N: Integers | None
    users: pl.Series | None = None
    items: pl.Series | None = None

    @property
    def counts(self) -> Integers:
        """Behaviours of each user."""
        return np.diff(self.start_U)


def read_log(
    behaviours: pl.DataFrame, where: Path, min_behaviours: int, per_second: int | None = None
) -> Log:
    """Return the behaviours of the users that have enough of them.

    Args:
        behaviours: Columns ``user``, ``item`` and ``time``, in any order of rows; for those of a
            user at equal times see :mod:`recemb.data.events`.
        where: The file, which errors name.
        min_behaviours: See :class:`Protocol`.
        per_second: How many units of ``time`` are a second; None: one.

    Raises:
        RecembError: If no user has enough.
    """
    rows = behaviours.filter(pl.len().over("user") >= min_behaviours)
    if rows.is_empty():
        counts = behaviours.group_by("user").len()["len"].to_list()
        raise RecembError(
            f"{where}: no user has {min_behaviours} behaviours, the most is "
            f"{max(counts, default=0)}; lower min_behaviours"
        )
    rows = in_order(rows, "user", "item", where)
    user_N, users = _numbered(rows["user"])
    item_N, items = _numbered(rows["item"])
    is_first_N = np.r_[True, user_N[1:] != user_N[:-1]]
    start_U = np.r_[np.flatnonzero(is_first_N), len(user_N)]
    time_N = _integers(rows["time"] // (per_second or 1))
    return Log(user_N[is_first_N], start_U, item_N, time_N, users, items)


def _numbered(ids: pl.Series) -> tuple[Integers, pl.Series | None]:
    """Return ids as integers: strings by their places among all, which are returned too."""
    if ids.dtype != pl.String:
        return _integers(ids), None
    names = ids.unique().sort()
    return _integers(ids.cast(pl.Enum(names)).to_physical()), names


def _named(number_N: Integers, names: pl.Series | None) -> pa.Array:
    """Return the ids that integers of a :class:`Log` stand for."""
    return pa.array(number_N) if names is None else names.gather(number_N).to_arrow()


def _integers(column: pl.Series) -> Integers:
    return column.cast(pl.Int64).to_numpy().astype(np.int64, copy=False)


def target_places(count_U: Integers, protocol: Protocol) -> dict[str, tuple[Integers, Integers]]:
    """Return by stage the user's number and the place of each target among his behaviours.

    Args:
        count_U: Behaviours of each user, at least 3.
        protocol: See :class:`Protocol`.
    """
    num_users = len(count_U)
    # Of n behaviours, those from first_target to n - 3 may be trained on; all of them where there
    # are fewer than the wanted targets, else every span / targets-th.
    span_U = np.maximum(count_U - 2 - protocol.first_target, 0)
    own_U = np.minimum(span_U, protocol.targets)
    user_T = np.repeat(np.arange(num_users), own_U)
    number_T = np.arange(len(user_T)) - np.repeat(np.cumsum(own_U) - own_U, own_U)
    place_T = protocol.first_target + number_T * span_U[user_T] // own_U[user_T]
    every_U = np.arange(num_users)
    return {
        "train": (user_T, place_T),
        "validation": (every_U, count_U - 2),
        "test": (every_U, count_U - 1),
    }


def item_counts(log: Log) -> tuple[Integers, Integers]:
    """Return the distinct items before the users' validation targets, and how often they occur."""
    is_seen_N = np.ones(len(log.item_N), dtype=bool)
    is_seen_N[log.start_U[1:] - 1] = False
    is_seen_N[log.start_U[1:] - 2] = False
    item_V, count_V = np.unique(log.item_N[is_seen_N], return_counts=True)
    return item_V, count_V.astype(np.int64)


class Negatives:
    """Draw items by frequency.

    Args:
        log: The behaviours.
        unmet: Whether a user gets items only that he meets nowhere; otherwise anything but the
            positive.
        seed: Of the draws.
    """

    def __init__(self, log: Log, unmet: bool, seed: int) -> None:
        self.item_V, count_V = item_counts(log)
        self.upper_V = np.cumsum(count_V)
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self.met: Integers | None = None
        if unmet:
            user_N = np.repeat(np.arange(len(log.user_U)), log.counts)
            self.met = np.unique(self._keys(user_N, log.item_N))

    def _keys(self, user_R: Integers, item_R: Integers) -> Integers:
        """Return one number per pair of user and item; items of the last two places have none."""
        place_R = np.searchsorted(self.item_V, item_R)
        is_known_R = self.item_V[np.minimum(place_R, len(self.item_V) - 1)] == item_R
        return np.where(is_known_R, user_R * len(self.item_V) + place_R, -1)

    def draw(self, user_R: Integers, positive_R: Integers) -> Integers:
        """Return an item for each user that is not the positive one beside it.

        Raises:
            RecembError: If a user has met all items, or as good as all.
        """
        found_R = np.empty(len(user_R), dtype=np.int64)
        open_R = np.arange(len(user_R))
        for _ in range(DRAWS):
            number_R = self.generator.integers(self.upper_V[-1], size=len(open_R))
            item_R = self.item_V[np.searchsorted(self.upper_V, number_R, side="right")]
            found_R[open_R] = item_R
            is_bad_R = item_R == positive_R[open_R]
            if self.met is not None:
                key_R = self._keys(user_R[open_R], item_R)
                place_R = np.searchsorted(self.met, key_R)
                is_bad_R |= self.met[np.minimum(place_R, len(self.met) - 1)] == key_R
            open_R = open_R[is_bad_R]
            if not len(open_R):
                return found_R
        raise RecembError(
            f"protocol: {len(open_R)} negatives were not found in {DRAWS} draws: their users have "
            "met nearly all items; set unmet to false, or give more items"
        )


def write_rows(log: Log, protocol: Protocol, folder: Path) -> None:
    """Write ``train``, ``validation`` and ``test`` parquet files.

    Columns: ``user``, ``item``, ``label``, ``history_item`` and, where the log has times,
    ``history_seconds``: how long before the target each behaviour was, at least 0. A positive is
    followed by its negatives.

    Args:
        log: The behaviours.
        protocol: See :class:`Protocol`.
        folder: An existing one.

    Raises:
        RecembError: If negatives cannot be drawn.
    """
    negatives = Negatives(log, protocol.unmet, protocol.seed)
    places = target_places(log.counts, protocol)
    if not len(places["train"][0]):
        raise RecembError(
            f"protocol: no user has a training target at place {protocol.first_target} or later; "
            "lower first_target"
        )
    for stage in STAGES:
        user_T, place_T = places[stage]
        quick = len(user_T) * (1 + protocol.negatives) < PROGRESS_ROWS
        with ExitStack() as open_files:
            writer: Any = None
            chunks = _chunks(user_T, place_T, protocol)
            for user_t, place_t in tqdm(list(chunks), stage, disable=quick, leave=False):
                table = rows_of(log, user_t, place_t, protocol, negatives)
                if writer is None:
                    path = folder / f"{stage}.parquet"
                    writer = open_files.enter_context(pq.ParquetWriter(path, table.schema))
                writer.write_table(table)


def _chunks(
    user_T: Integers, place_T: Integers, protocol: Protocol
) -> Iterator[tuple[Integers, Integers]]:
    size = max(1, CHUNK_IDS // (protocol.history_length * (1 + protocol.negatives)))
    for first in range(0, len(user_T), size):
        yield user_T[first : first + size], place_T[first : first + size]


def rows_of(
    log: Log, user_T: Integers, place_T: Integers, protocol: Protocol, negatives: Negatives
) -> pa.Table:
    """Return the rows of some targets: each positive, then its negatives."""
    each = 1 + protocol.negatives
    user_R, place_R = np.repeat(user_T, each), np.repeat(place_T, each)
    at_R = log.start_U[user_R] + place_R
    item_R = log.item_N[at_R]
    is_positive_R = np.arange(len(user_R)) % each == 0
    item_R[~is_positive_R] = negatives.draw(user_R[~is_positive_R], item_R[~is_positive_R])
    length_R = np.minimum(place_R, protocol.history_length)
    offset_R = np.r_[0, np.cumsum(length_R)]
    index_M = np.arange(offset_R[-1]) + np.repeat(at_R - length_R - offset_R[:-1], length_R)
    columns = {
        "user": _named(log.user_U[user_R], log.users),
        "item": _named(item_R, log.items),
        "label": pa.array(is_positive_R.astype(np.int8)),
        "history_item": _lists(offset_R, _named(log.item_N[index_M], log.items)),
    }
    if log.time_N is not None:
        gap_M = np.repeat(log.time_N[at_R], length_R) - log.time_N[index_M]
        columns["history_seconds"] = _lists(offset_R, pa.array(gap_M))
    return pa.table(columns)


def _lists(offset_R: Integers, values_M: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(offset_R), values_M)
