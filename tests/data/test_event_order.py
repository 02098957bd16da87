"""The order of events in every data module that asks for times: by time, whatever the file's order.

Each module is asked for its test rows; what they should be follows from plain Python.
"""

import datetime as dt
import random
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recemb.data.behaviour_log import BehaviourLog
from recemb.data.complements import Complements
from recemb.data.interactions import Interactions
from recemb.data.long_histories import Protocol
from recemb.data.pair_sources import Baskets
from recemb.data.prepared import Prepared
from recemb.data.sequences import Sequences
from recemb.errors import RecembError
from tests.data.ties import owner_tie, tie

Event = tuple[int, int, int]
"""User, item, minute."""
START = dt.datetime(2026, 1, 28, 10)
SHORT = Protocol(history_length=4, min_behaviours=5, targets=3, first_target=2, negatives=1)
MODULES: dict[str, Callable[..., Prepared]] = {
    "interactions": lambda path, **more: Interactions(source=str(path), time="time", **more),
    "sequences": lambda path, **more: Sequences(source=str(path), time="time", **more),
    "last_sequences": lambda path, **more: Sequences(
        source=str(path), time="time", split="last_sequences", test_share=0.2,
        validation_share=0.2, **more,
    ),
    "behaviours": lambda path, **more: BehaviourLog(
        source=str(path), columns={"category": None}, protocol=SHORT, **more
    ),
    "baskets": lambda path, **more: Complements(
        baskets=Baskets(path=str(path), basket="user", time="time", window=1, **more),
        validation_share=0.2, test_share=0.2,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))


def events(steps: int) -> list[Event]:
    """Return events of ten users, of which ``steps`` are at the same time."""
    draw = random.Random(5)
    return [
        (user, item, place // steps * 5000)
        for user in range(10)
        for place, item in enumerate(draw.sample(range(100, 130), 9))
    ]


def write(path: Path, rows: list[Event], time: Callable[[int], object], seed: int) -> Path:
    """Write events in an order that the seed decides."""
    shuffled = rows.copy()
    random.Random(seed).shuffle(shuffled)
    table = {
        "user": [user for user, _, _ in shuffled], "item": [item for _, item, _ in shuffled],
        "time": [time(minute) for _, _, minute in shuffled],
    }  # fmt: skip
    frame = pl.DataFrame(table)
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def parts(data: Prepared) -> dict[str, list[dict]]:
    data.prepare_data()
    stages = ("train", "validation", "test")
    return {stage: pl.read_parquet(data.folder / f"{stage}.parquet").to_dicts() for stage in stages}


def clock(minute: int) -> dt.datetime:
    return START + dt.timedelta(minutes=minute)


FORMS: dict[str, tuple[str, Callable[[int], object], dict[str, str]]] = {
    "numbers": (".parquet", lambda minute: minute, {}),
    "numbers of CSV": (".csv", lambda minute: minute * 60, {}),
    "fractions of CSV": (".csv", lambda minute: 9.5 + minute * 60, {}),
    "datetimes": (".parquet", clock, {}),
    "dates and times of CSV": (".csv", lambda minute: clock(minute).isoformat(), {}),
    "text": (".parquet", lambda minute: f"{clock(minute)}+00:00", {}),
    "by a format": (
        ".csv",
        lambda minute: clock(minute).strftime("%d/%m/%Y %H:%M"),
        {"time_format": "%d/%m/%Y %H:%M"},
    ),
}


@pytest.mark.parametrize("module", MODULES)
def test_all_forms_of_the_same_times_give_the_same_rows(tmp_path: Path, module: str) -> None:
    found = {}
    for number, (name, (suffix, time, more)) in enumerate(FORMS.items()):
        path = write(tmp_path / f"{number}{suffix}", events(1), time, seed=number)
        rows = parts(MODULES[module](path, **more))
        if module == "behaviours":
            # Numbers are taken for seconds, and only some forms have them.
            for row in (row for part in rows.values() for row in part):
                del row["history_seconds"]
        found[name] = rows
    assert all(rows == found["numbers"] for rows in found.values())


def test_the_last_events_by_time_are_the_test() -> None:
    """By hand: each user's last item; of ten users' pairs, the last two of nine."""
    last = {}
    for user, item, _ in events(1):
        last.setdefault(user, []).append(item)
    path = Path("events.csv")
    time, more = FORMS["by a format"][1:]
    write(path, events(1), time, seed=0)
    test = parts(MODULES["sequences"](path, **more))["test"]
    assert {(tuple(row["history"]), row["item"]) for row in test} == {
        (tuple(own[:-1]), own[-1]) for own in last.values()
    }
    pairs = parts(MODULES["interactions"](path, **more))["test"]
    assert {(row["user"], row["item"]) for row in pairs} == {
        (user, item) for user, own in last.items() for item in own[-2:]
    }
    behaved = parts(MODULES["behaviours"](path, **more))["test"]
    assert {row["item"] for row in behaved if row["label"]} == {own[-1] for own in last.values()}


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("module", MODULES)
def test_the_order_of_the_file_decides_nothing(
    tmp_path: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Four of nine at one time; all but each user's last one have company.
    found = [
        parts(MODULES[module](write(tmp_path / f"{seed}.parquet", events(4), float, seed)))
        for seed in range(3)
    ]
    assert found[0] == found[1] == found[2]
    notices = [line for line in capsys.readouterr().err.splitlines() if "have the time" in line]
    assert len(notices) == 3
    assert all("80 of 90 events have the time of another" in line for line in notices)


def test_ties_are_in_the_order_of_the_published_hash(tmp_path: Path) -> None:
    rows = events(4)
    path = write(tmp_path / "log.parquet", rows, float, seed=0)
    order = {
        user: [item for _, _, item in sorted((m, tie(user, i), i) for u, i, m in rows if u == user)]
        for user in range(10)
    }
    test = parts(MODULES["sequences"](path))["test"]
    assert [(row["history"], row["item"]) for row in test] == [
        # All users end at once, so they too are in the order of a hash.
        (order[user][:-1], order[user][-1])
        for user in sorted(range(10), key=owner_tie)
    ]


@pytest.mark.parametrize("time", [float, lambda minute: minute])
def test_sequences_that_end_at_once_are_counted(
    tmp_path: Path, time: Callable[[int], object], capsys: pytest.CaptureFixture[str]
) -> None:
    # Of ten users all but one end at the same time.
    rows = [*events(1), (9, 99, 10**6)]
    path = write(tmp_path / "log.parquet", rows, time, seed=0)
    parts(MODULES["last_sequences"](path))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: 9 of 10 sequences end at the same time as another")
    # Where they end decides nothing there.
    parts(MODULES["sequences"](path))
    assert capsys.readouterr().err == ""


def test_events_without_ties_say_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The same event twice is no tie: nothing depends on which of them is first.
    path = write(tmp_path / "log.parquet", events(1) + events(1)[:5], float, seed=0)
    parts(MODULES["sequences"](path))
    assert "have the time" not in capsys.readouterr().err


def test_without_a_column_of_times_the_order_is_that_of_the_file(tmp_path: Path) -> None:
    rows = [(1, item, 0) for item in (5, 3, 9, 1)]
    path = tmp_path / "log.parquet"
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(path)
    (row,) = parts(Sequences(source=str(path)))["test"]
    assert (row["history"], row["item"]) == ([5, 3, 9], 1)


BAD: list[tuple[list[object], str]] = [
    (["28/01/2026 10:00", "01/02/2026 10:00"], "a time must be ISO 8601"),
    ([1.0, float("nan")], "a time must be a (finite )?number"),
    ([1, None], "must have it, got null"),
    (["2026-01-28T10:00Z", "2026-01-28T10:00"], "must all have a zone, or none"),
]
ROWS = {"parquet": "row 1", "csv": "line 3"}


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize(("times", "rule"), BAD)
@pytest.mark.parametrize("module", MODULES)
def test_what_is_no_time_is_refused_by_the_row_of_the_users_file(
    tmp_path: Path, module: str, times: list, rule: str, suffix: str
) -> None:
    path = tmp_path / f"log.{suffix}"
    place = ROWS[suffix] if times[0] != "28/01/2026 10:00" else r"(row 0|line 2)"
    frame = pl.DataFrame({"user": [1, 1], "item": [2, 3], "time": times}, strict=False)
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    with pytest.raises(RecembError, match=rf"^{re.escape(str(path))}: .*'time', {place}: .*{rule}"):
        MODULES[module](path).prepare_data()


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("items", "rule"),
    [
        ([1.2, 1.9], "column 'item': ids must be integers or strings, got type Float64"),
        ([3, -1], "column 'item', row 1: ids must not be negative, got -1"),
        ([3, None], "column 'item', row 1: .* must have it, got null"),
        ([[3], [4]], r"column 'item': .*got (type )?List\(Int64\)"),
    ],
)
def test_what_is_no_id_is_refused_by_the_row_of_the_users_file(
    tmp_path: Path, module: str, items: list, rule: str
) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": [1, 1], "item": items, "time": [1, 2]}).write_parquet(path)
    with pytest.raises(RecembError, match=rf"^{re.escape(str(path))}: {rule}"):
        MODULES[module](path).prepare_data()
