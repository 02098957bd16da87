"""Times: what orders events, as numbers that sort as the times do.

Numbers, dates and datetimes are taken as they are. Text is one of three things:

* numbers, if every value is one (``1769594400``, as a CSV file has them);
* what ``time_format`` says (``%d/%m/%Y %H:%M``), where it is given;
* ISO 8601 else: ``2026-01-28``, alone or with ``T`` or a blank and ``10:00``, ``10:00:59`` or
  ``10:00:59.123456789``, and after them perhaps ``Z``, ``+01:00``, ``+0100`` or ``+01``. Either all
  times of a column have a zone or none has.

Anything else is refused at its row, as are nulls, NaN and infinity. Text is never ordered as text.
"""

from typing import NamedTuple

import polars as pl

from recemb.data.values import ValueAtError, is_text, refuse_where

NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
ISO = (
    r"^(?<date>\d{4}-\d{2}-\d{2})"
    r"([Tt ](?<hour>[01]\d|2[0-3]):(?<minute>[0-5]\d)"
    r"(:(?<second>[0-5]\d)([.,](?<digits>\d{1,9}))?)?"
    r" ?(?<zone>[Zz]|(?<sign>[+-])(?<ahead>[01]\d|2[0-3])(:?(?<more>[0-5]\d))?)?)?$"
)
ADVICE = "write it as 2026-01-28T10:00:00, or give time_format, such as %d/%m/%Y %H:%M"
UNITS = {"ms": 10**3, "us": 10**6, "ns": 10**9}
LAST_SECOND = 2**63 // 10**9 - 1
"""From 1970, on either side: beyond it nanoseconds do not fit 64 bits."""


class Times(NamedTuple):
    """A column of times."""

    number: pl.Series
    """Int64 or float64 without nulls; the later, the larger."""
    per_second: int | None
    """How many make a second; None where the file has numbers, whose unit nobody knows."""


def times_of(values: pl.Series, time_format: str | None) -> Times:
    """Return a column of times as numbers; see the module.

    Args:
        values: The column.
        time_format: Of text, as ``strftime`` writes it; to the microsecond.

    Raises:
        ValueAtError: At the first value that is no time, or if the type or the format is wrong.
    """
    values = values.rename("")
    refuse_where(values.is_null(), values, "an event must have a time; fill it or drop the row")
    dtype = values.dtype
    if time_format is not None:
        if not (is_text(dtype) or dtype.is_integer()) or dtype.is_nested():
            raise ValueAtError(f"time_format is for text, got type {dtype}; leave it out")
        return _formatted(values.cast(pl.String), time_format)
    if is_text(dtype) and not dtype.is_nested():
        return _parsed(values.cast(pl.String).str.strip_chars())
    if dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if isinstance(values.dtype, pl.Datetime | pl.Duration):
        return Times(values.to_physical(), UNITS[values.dtype.time_unit])
    if dtype == pl.Time:
        return Times(values.to_physical(), UNITS["ns"])
    if not dtype.is_numeric():
        raise ValueAtError(f"times must be numbers, dates or text, got type {dtype}; convert them")
    return Times(_numbers(values), None)


def _numbers(values: pl.Series) -> pl.Series:
    """Return numbers, as int64 where they are integers that fit."""
    if values.dtype.is_float():
        rule = "a time must be a finite number; fill it or drop the row"
        refuse_where(~values.is_finite(), values, rule)
        return values.cast(pl.Float64)
    whole = values.cast(pl.Int64, strict=False)
    is_whole = values.dtype.is_integer() and not whole.null_count()
    return whole if is_whole else values.cast(pl.Float64)


def _parsed(text: pl.Series) -> Times:
    """Return times of text without a format."""
    is_number = text.str.contains(NUMBER)
    if is_number.all():
        whole = text.cast(pl.Int64, strict=False)
        return Times(_numbers(text.cast(pl.Float64)) if whole.null_count() else whole, None)
    if is_number[0]:
        refuse_where(~is_number, text, "a time must be a number, as in the first row")
    parts = text.str.extract_groups(ISO).struct.unnest()
    day = parts["date"].str.to_date("%Y-%m-%d", strict=False)
    refuse_where(day.is_null(), text, f"a time must be ISO 8601; {ADVICE}")
    zone = parts["zone"]
    rule = "the times of a column must all have a zone, or none; mend this one or the first"
    refuse_where(zone.is_null() != zone.is_null()[0], text, rule)

    def count(name: str) -> pl.Series:
        return parts[name].cast(pl.Int64).fill_null(0)

    minutes = (day.to_physical().cast(pl.Int64) * 24 + count("hour")) * 60 + count("minute")
    ahead = count("ahead") * 60 + count("more")
    behind = ahead * (1 - 2 * (parts["sign"] == "+").fill_null(False).cast(pl.Int64))
    seconds = (minutes + behind) * 60 + count("second")
    digits = parts["digits"].fill_null("")
    if not (digits.str.len_chars() > 6).any():
        return Times(_joined(seconds, digits, 6), UNITS["us"])
    rule = "a time with a fraction below a microsecond must be of the years 1678 to 2261"
    refuse_where(seconds.abs() > LAST_SECOND, text, rule)
    return Times(_joined(seconds, digits, 9), UNITS["ns"])


def _joined(seconds: pl.Series, digits: pl.Series, count: int) -> pl.Series:
    """Return seconds and their fractions in units of ``10 ** -count`` seconds."""
    fraction = digits.str.pad_end(count, "0").cast(pl.Int64)
    whole: pl.Series = seconds * 10**count
    return whole + fraction


def _formatted(text: pl.Series, time_format: str) -> Times:
    """Return times of text that a format tells."""
    # In polars %f is a number of nanoseconds, and not the digits of a fraction: .5 would be less
    # than .25. Zones' names say no offset there.
    given = time_format.replace(".%f", "%.f")
    for wrong, instead in (("%f", ".%f"), ("%Z", "%z")):
        if wrong in given.replace("%%", ""):
            raise ValueAtError(
                f"time_format must not have {wrong}, got {time_format!r}; use {instead}"
            )
    try:
        found = text.str.strptime(pl.Datetime("us"), given, strict=False)
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueAtError(
            f"time_format {time_format!r} cannot be read ({reason}); mend it"
        ) from error
    refuse_where(found.is_null(), text, f"a time must be as time_format {time_format!r} says")
    return Times(found.to_physical(), UNITS["us"])
