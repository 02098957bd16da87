"""Times: text is parsed by what is stated or refused by row; numbers and dates stay."""

import datetime as dt
import random

import polars as pl
import pytest

from recemb.data.times import times_of
from recemb.data.values import ValueAtError

UTC = dt.UTC


def order(values: pl.Series, time_format: str | None = None) -> list[int]:
    """Return the places of values from the earliest on."""
    return times_of(values, time_format).number.arg_sort().to_list()


def seconds(values: list[str], time_format: str | None = None) -> list[float]:
    found = times_of(pl.Series(values), time_format)
    assert found.per_second
    return [number / found.per_second for number in found.number]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-02T03:04", 86_400 + 3 * 3600 + 4 * 60),
        ("1970-01-01 00:00:05", 5),
        ("1970-01-01t00:00:05z", 5),
        (" 1970-01-01 00:00:05.25 ", 5.25),
        ("1970-01-01T00:00:05,25", 5.25),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:30:00+0130", 0),
        ("1969-12-31 22:00:00-02", 0),
        ("1969-12-31 22:00:00.5 -02:00", 0.5),
        ("1969-12-31", -86_400),
        ("2000-02-29", dt.datetime(2000, 2, 29, tzinfo=UTC).timestamp()),
        ("9999-12-31T23:59:59", dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()),
    ],
)
def test_iso_text_is_read_to_the_second(text: str, wanted: float) -> None:
    assert seconds([text]) == [wanted]


def test_what_python_writes_is_read_as_it_was() -> None:
    draw = random.Random(3)
    zones = [dt.timezone(dt.timedelta(minutes=minutes)) for minutes in (-720, -210, 0, 330, 840)]
    moments = [
        dt.datetime.fromtimestamp(draw.randrange(-(10**9), 4 * 10**9), draw.choice(zones))
        + dt.timedelta(microseconds=draw.randrange(10**6))
        for _ in range(300)
    ]
    found = times_of(pl.Series([moment.isoformat() for moment in moments]), None)
    epoch = dt.datetime(1970, 1, 1, tzinfo=UTC)
    assert found.per_second == 10**6
    wanted = [(moment - epoch) // dt.timedelta(microseconds=1) for moment in moments]
    assert found.number.to_list() == wanted


def test_nanoseconds_are_told_apart() -> None:
    assert order(pl.Series(["2026-01-28T10:00:00.123456789", "2026-01-28T10:00:00.123456788"])) == [
        1,
        0,
    ]


@pytest.mark.parametrize(
    ("values", "place", "rule"),
    [
        (["28/01/2026 10:00", "01/02/2026 10:00"], 0, "must be ISO 8601; write it as 2026-"),
        (["2026-01-28", "28.01.2026"], 1, "must be ISO 8601"),
        (["2026-02-30"], 0, "ISO 8601"),
        (["2026-01-28T25:00"], 0, "ISO 8601"),
        (["2026-01-28T10:60"], 0, "ISO 8601"),
        (["2026-1-5"], 0, "ISO 8601"),
        (["2026-01-28T10:00:00Europe/Berlin"], 0, "ISO 8601"),
        (["yesterday"], 0, "ISO 8601"),
        ([""], 0, "ISO 8601"),
        (["2026-01-28", "1769594400"], 1, "ISO 8601"),
        (["1769594400", "2026-01-28"], 1, "must be a number, as in the first row"),
        (["1", "nan"], 1, "must be a number"),
        (["2026-01-28T10:00Z", "2026-01-28T10:00"], 1, "must all have a zone, or none"),
        (["2026-01-28", "2026-01-28T10:00+01:00"], 1, "must all have a zone, or none"),
        (["2600-01-01T00:00:00.123456789"], 0, "of the years 1678 to 2261"),
        (["2026-01-28", None], 1, "must have a time"),
        ([1.0, float("nan")], 1, "must be a finite number"),
        ([1.0, 2.0, float("inf")], 2, "must be a finite number"),
        ([1, None], 1, "must have a time"),
        ([True, False], None, "must be numbers, dates or text, got type Boolean"),
        ([[1], [2]], None, "got type List"),
        ([["2026-01-28"]], None, "got type List"),
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_at_its_place(
    values: list, place: int | None, rule: str
) -> None:
    with pytest.raises(ValueAtError, match=rule) as refused:
        times_of(pl.Series(values, strict=False), None)
    assert refused.value.place == place


@pytest.mark.parametrize(
    "values",
    [
        ["9", "10", "-3"],
        ["9", "10.5", "-3e0"],
        ["1769594400123456788", "1769594400123456789", "0"],
        [9, 10, -3],
        [9.5, 10.5, -3.0],
        [2**63 + 1, 2**63 + 5000, 0],
        [dt.date(2026, 1, 28), dt.date(2026, 2, 1), dt.date(1960, 1, 1)],
        [dt.datetime(2026, 1, 28), dt.datetime(2026, 2, 1), dt.datetime(1960, 1, 1)],
        [dt.timedelta(1), dt.timedelta(2), dt.timedelta(-1)],
        [dt.time(1), dt.time(2), dt.time(0)],
    ],
)
def test_numbers_and_dates_keep_their_order(values: list) -> None:
    assert order(pl.Series(values)) == [2, 0, 1]


def test_categories_are_text_and_not_their_codes() -> None:
    values = pl.Series(["2026-02-01", "2026-01-28"]).cast(pl.Categorical)
    assert order(values) == [1, 0]
    assert order(pl.Series(["10", "9"]).cast(pl.Categorical)) == [1, 0]


@pytest.mark.parametrize(
    ("values", "time_format", "wanted"),
    [
        (["28/01/2026 10:00", "01/02/2026 10:00"], "%d/%m/%Y %H:%M", [0, 1]),
        (["28/01/2026", "01/02/2026"], "%d/%m/%Y", [0, 1]),
        (["28/01/2026", "01/02/2026", "05/01/2027"], "%d/%m/%Y", [0, 1, 2]),
        (["5.1.2026 1:00:00.5", "5.1.2026 1:00:00.25"], "%d.%m.%Y %H:%M:%S.%f", [1, 0]),
        (["28012026", "01022026"], "%d%m%Y", [0, 1]),
        ([28012026, 15022025], "%d%m%Y", [1, 0]),
        (["28.1.26 10:00 +0100", "28.1.26 09:30 +0000"], "%d.%m.%y %H:%M %z", [0, 1]),
    ],
)
def test_a_format_says_how_text_is_read(values: list, time_format: str, wanted: list) -> None:
    assert order(pl.Series(values), time_format) == wanted


@pytest.mark.parametrize(
    ("values", "time_format", "rule"),
    [
        (["28/01/2026", "01-02-2026"], "%d/%m/%Y", "as time_format '%d/%m/%Y' says, got '01-"),
        (["31/02/2026"], "%d/%m/%Y", "must be as time_format"),
        (["2026"], "%d/%m/%Y", "must be as time_format"),
        (["28/01/2026 10h"], "%d/%m/%Y %Hh", r"'%d/%m/%Y %Hh' cannot be read \("),
        (["28/01/2026 5"], "%d/%m/%Y %f", "must not have %f"),
        (["28/01/2026 UTC"], "%d/%m/%Y %Z", "must not have %Z"),
        ([1.5], "%d/%m/%Y", "time_format is for text, got type Float64"),
        ([dt.date(2026, 1, 28)], "%d/%m/%Y", "time_format is for text, got type Date"),
    ],
)  # fmt: skip
def test_what_a_format_does_not_fit_is_refused(values: list, time_format: str, rule: str) -> None:
    with pytest.raises(ValueAtError, match=rule):
        times_of(pl.Series(values), time_format)
