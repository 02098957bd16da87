#!/usr/bin/env bash
# polars 2.1.0: text parsed as Datetime("ns") wraps round where 64 bits of nanoseconds end (before 1677 and after
# 2262), without an error or a null even under strict=True: a subscription that ends in 2300 reads as 1715, and sorts
# before every purchase. The same text as Datetime("us") is right, and a cast of that to nanoseconds is refused.
# Likewise `%f` is a count of nanoseconds, so that ".5" is earlier than ".25"; "%.f" reads a fraction.
# Parse times of unknown origin to microseconds, and fractions with "%.f".
# Fails if such text is refused or read right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet polars==2.1.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import polars as pl

FORMAT = "%Y-%m-%d %H:%M:%S"
text = pl.Series(["1676-01-01 00:00:00", "2000-01-01 00:00:00", "2300-01-01 00:00:00"])
years = text.str.strptime(pl.Datetime("ns"), FORMAT, strict=True).dt.year().to_list()
print("1676, 2000 and 2300 as nanoseconds:", years)
assert years == [2260, 2000, 1715]
right = text.str.strptime(pl.Datetime("us"), FORMAT, strict=True)
assert right.dt.year().to_list() == [1676, 2000, 2300]
try:
    right.cast(pl.Datetime("ns"))
except pl.exceptions.InvalidOperationError as error:
    print("a cast is refused:", " ".join(str(error).split())[:100])
else:
    raise SystemExit("a cast to nanoseconds is not refused any more")
fractions = pl.Series(["2000-01-01 00:00:00.5", "2000-01-01 00:00:00.25"])
as_counted = fractions.str.strptime(pl.Datetime("ns"), FORMAT + ".%f")
print("nanoseconds of .5 and .25 by %f:", as_counted.dt.nanosecond().to_list())
assert as_counted.dt.nanosecond().to_list() == [5, 25]
as_fraction = fractions.str.strptime(pl.Datetime("ns"), FORMAT + "%.f")
assert as_fraction.dt.nanosecond().to_list() == [500_000_000, 250_000_000]
PYTHON
