"""Events: files of (user, item, time) through Interactions, Sequences and BehaviourLog.

What is read is which items of a user are the last, worked out here by sorting plain lists.
"""

import datetime
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from recemb.data.behaviour_log import BehaviourLog
from recemb.data.interactions import Interactions
from recemb.data.long_histories import Protocol
from recemb.data.sequences import SEQUENCE, Sequences
from tests.fuzz.cases_tables import written
from tests.fuzz.judge import Case, MayRefuse

USERS, EVENTS = 4, 10
START = datetime.datetime(2026, 1, 27, 21, 30)
Events = list[tuple[str, str, Any]]
"""User, item and the place of the event among all, by which it is ordered."""


def events(rng: random.Random, name: Callable[[int], str] = str) -> Events:
    """Events in no order, no two of a user with one item or at one time."""
    found = [
        (f"{user}", name(100 + (7 * place + 3 * user) % 31), USERS * place + user)
        for user in range(USERS)
        for place in range(EVENTS)
    ]
    rng.shuffle(found)
    return found


def history(given: Events, user: str) -> list[str]:
    return [item for own, item, _ in sorted(given, key=lambda one: one[2]) if own == user]


def last_pairs(given: Events) -> dict[str, list[str]]:
    """What Interactions tests: the last fifth of each user's items."""
    users = sorted({user for user, _, _ in given})
    return {user: sorted(history(given, user)[-EVENTS // 5 :]) for user in users}


def last_steps(given: Events) -> dict[str, list[str]]:
    """What Sequences tests: the last item of each user after all others."""
    return {user: history(given, user) for user in sorted({user for user, _, _ in given})}


def read_pairs(path: Path, **settings: Any) -> dict[str, list[str]]:
    data = Interactions(source=str(path), time="time", **settings)
    data.prepare_data()
    data.setup("test")  # what training and testing would find in it
    rows = pl.read_parquet(data.folder / "test.parquet")
    found: dict[str, list[str]] = {}
    for user, item in zip(rows["user"], rows["item"], strict=True):
        found.setdefault(str(user), []).append(str(item))
    return {user: sorted(found[user]) for user in sorted(found)}


def read_steps(path: Path, **settings: Any) -> dict[str, list[str]]:
    data = Sequences(source=str(path), time="time", **settings)
    data.prepare_data()
    data.setup("test")  # what training and testing would find in it
    rows = pl.read_parquet(data.folder / "test.parquet").sort(SEQUENCE)
    return {
        str(user): [*map(str, before), str(item)]
        for user, before, item in zip(rows[SEQUENCE], rows["history"], rows["item"], strict=True)
    }


def read_log(path: Path, **settings: Any) -> dict[str, list[str]]:
    protocol = Protocol(history_length=20, min_behaviours=8, targets=3, first_target=2, negatives=1)
    columns = {"category": None, "behaviour": None}
    data = BehaviourLog(source=str(path), protocol=protocol, columns=columns, **settings)
    data.prepare_data()
    data.setup("test")  # what training and testing would find in it
    rows = pl.read_parquet(data.folder / "test.parquet").filter(pl.col("label") == 1).sort("user")
    return {
        str(user): [*map(str, before), str(item)]
        for user, before, item in zip(rows["user"], rows["history_item"], rows["item"], strict=True)
    }


READERS = {
    "Interactions": (read_pairs, last_pairs),
    "Sequences": (read_steps, last_steps),
    "BehaviourLog": (read_log, last_steps),
}


def cells(given: Events, time: Callable[[int], str]) -> dict[str, list[str]]:
    return {
        "user": [user for user, _, _ in given],
        "item": [item for _, item, _ in given],
        "time": [time(place) for _, _, place in given],
    }


def case(
    reader: str, name: str, make: Any, given: Events | None, may: MayRefuse, **own: Any
) -> Case:
    read, last = READERS[reader]
    return Case(
        group=f"events: {reader}",
        name=name,
        make=make,
        load=lambda path: read(path, **own),
        right=None if given is None else last(given),
        may_refuse="only" if given is None else may,
    )


def at(place: int) -> datetime.datetime:
    return START + datetime.timedelta(hours=5 * place)


TIMES: dict[str, tuple[Callable[[int], str], MayRefuse]] = {
    "whole numbers": (str, "never"),
    "seconds": (lambda n: str(int(at(n).timestamp())), "never"),
    "milliseconds": (lambda n: str(int(at(n).timestamp() * 1000)), "never"),
    "numbers with a fraction": (lambda n: f"{n / 8}", "also"),
    "ISO 8601": (lambda n: at(n).isoformat(), "also"),
    "ISO 8601 with a space": (lambda n: at(n).isoformat(" "), "also"),
    "ISO 8601 in UTC": (lambda n: at(n).isoformat() + "Z", "also"),
    "ISO 8601 with a fraction": (lambda n: at(n).isoformat() + ".250", "also"),
    "ISO 8601, zones that differ": (
        lambda n: (at(n) + datetime.timedelta(hours=n % 9)).isoformat() + f"+0{n % 9}:00", "also",
    ),
    "numbers of other lengths": (lambda n: str(n**5), "never"),
}  # fmt: skip
OTHER_TIMES = {
    "day first": "%d/%m/%Y %H:%M",
    "month first": "%m/%d/%Y %H:%M",
    "month by name": "%d %b %Y %H:%M",
    "year last": "%d.%m.%Y %H:%M",
    "weekday": "%a %d %b %Y %H:%M",
    "clock of 12": "%Y-%m-%d %I:%M %p",
}
BAD_TIMES = ("", "nan", "soon", "2026-02-30T10:00:00", "inf", "1,5", "--")


def of_times(reader: str, rng: random.Random) -> Iterator[Case]:
    """Times in forms that are told apart, in forms that are not, and none."""
    for label, (time, may) in TIMES.items():
        given = events(rng)
        may = "also" if reader == "BehaviourLog" and label != "whole numbers" else may
        yield case(reader, f"times as {label}", written(cells(given, time)), given, may)
    for label, form in OTHER_TIMES.items():
        given = events(rng)
        text = cells(given, lambda n, form=form: at(n).strftime(form))  # type: ignore[misc]
        yield case(reader, f"times as {label}", written(text), given, "also")
    for bad in BAD_TIMES:
        given = events(rng)
        text = cells(given, str)
        text["time"][rng.randrange(len(given))] = bad
        yield case(reader, f"a time is {bad!r}", written(text), None, "only")


NAMES: dict[str, Callable[[int], str]] = {
    "with leading zeros": lambda n: f"{n % 16:0{3 + n % 2}d}{n}",
    "as words": lambda n: f"item {n}",
    "above 2^63": lambda n: str(2**63 + n),
    "above 2^64": lambda n: str(2**64 + n),
    "with a point": lambda n: f"{n}.0",
    "with a fraction": lambda n: f"{n // 2}.{n % 2}",
    "with a comma": lambda n: f"a,{n}",
    "with a newline": lambda n: f"a\n{n}",
    "with an exponent": lambda n: f"{n}e3",
    "of other letters": lambda n: f"\u5546{n}",
}


def of_names(reader: str, rng: random.Random) -> Iterator[Case]:
    """Items by other names, users without one, and other forms of the file."""
    for label, name in NAMES.items():
        given = events(rng, name)
        yield case(reader, f"items {label}", written(cells(given, str)), given, "also")
    for column in ("user", "item"):
        for bad in ("", "-1") if column == "item" else ("",):
            text = cells(events(rng), str)
            text[column][rng.randrange(len(text[column]))] = bad
            yield case(reader, f"{column} is {bad!r}", written(text), None, "only")
        text = cells(events(rng), str)
        del text[column]
        yield case(reader, f"no {column}", written(text), None, "only")
    given = events(rng)
    for label, form in {
        "tabs": {"name": "events.tsv"}, "carriage returns": {"newline": "\r\n"},
        "byte order mark": {"start": b"\xef\xbb\xbf"}, "folder [1]": {"below": "shop[1]"},
        "folder *": {"below": "sh*p"},
    }.items():  # fmt: skip
        yield case(reader, label, written(cells(given, str), **form), given, "never")  # type: ignore[arg-type]


def parquet(given: Events, time: pl.Series, **columns: pl.Series) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        frame = pl.DataFrame({
            "user": [int(user) for user, _, _ in given],
            "item": [int(item) for _, item, _ in given],
            "time": time,
        }).with_columns(**columns)  # fmt: skip
        frame.write_parquet(folder / "events.parquet")
        return folder / "events.parquet"

    return make


def of_types(reader: str, rng: random.Random) -> Iterator[Case]:
    """Columns of a parquet file in other types."""
    given = events(rng)
    places = [place for _, _, place in given]
    whole = pl.Series(places)
    moments = pl.Series([at(place) for place in places])
    times = {
        "Int32": whole.cast(pl.Int32), "UInt64": whole.cast(pl.UInt64),
        "Float64": whole.cast(pl.Float64) / 8, "Float32": whole.cast(pl.Float32),
        "Datetime": moments, "Datetime of ns": moments.cast(pl.Datetime("ns")),
        "Datetime with a zone": moments.dt.replace_time_zone("UTC"),
        "Date": pl.Series([START.date() + datetime.timedelta(n) for n in places]),
        "Duration": pl.Series([datetime.timedelta(n) for n in places]),
        "Decimal": whole.cast(pl.Decimal(20, 2)), "Int128": whole.cast(pl.Int128),
    }  # fmt: skip
    for label, column in times.items():
        may: MayRefuse = "never" if label in ("Int32", "Datetime") else "also"
        may = "also" if reader == "BehaviourLog" else may
        yield case(reader, f"times of {label}", parquet(given, column), given, may)
    for label, column in {
        "nulls": whole.replace(places[3], None), "lists": pl.Series([[n] for n in places]),
        "NaN": pl.Series([float("nan") if n == 5 else float(n) for n in places]),
        "binary": pl.Series([bytes([n]) for n in places]), "truth": whole > 3,
    }.items():  # fmt: skip
        if label == "truth":
            continue  # ties: see tests/data
        yield case(reader, f"times of {label}", parquet(given, column), None, "only")
    items = pl.Series([int(item) for _, item, _ in given])
    for label, own in {
        "UInt64": items.cast(pl.UInt64), "Int16": items.cast(pl.Int16),
        "String": items.cast(pl.String), "Categorical": items.cast(pl.String).cast(pl.Categorical),
        "Int128": items.cast(pl.Int128),
    }.items():  # fmt: skip
        yield case(reader, f"items of {label}", parquet(given, whole, item=own), given, "also")
    for label, own in {
        "Float64": items + 0.25, "lists": pl.Series([[n] for n in items]),
        "below zero": -items, "nulls": items.replace(items[2], None),
        "dates": pl.Series([at(24 * n).date() for n in items]),
    }.items():  # fmt: skip
        yield case(reader, f"items of {label}", parquet(given, whole, item=own), None, "only")


def cases(rng: random.Random) -> Iterator[Case]:
    """All cases of events."""
    for reader in READERS:
        yield from of_times(reader, rng)
        yield from of_names(reader, rng)
        yield from of_types(reader, rng)
