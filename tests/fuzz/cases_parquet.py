"""Parquet: columns of every type, and files with damaged bytes, through Tabular."""

import datetime
import decimal
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from tests.fuzz.cases_tables import COUNT, base, frame, load, plain
from tests.fuzz.judge import Case, MayRefuse


def case(name: str, make: Any, right: Any, may: MayRefuse = "also") -> Case:
    return Case(
        group="tables: parquet", name=name, make=make, load=load, right=right, may_refuse=may
    )


def stored(rows: pl.DataFrame, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "rows.parquet"
        rows.write_parquet(path, **options)
        return path

    return make


def of_types() -> Iterator[Case]:
    """A column of ids, of lists, of numbers or of labels in each type that parquet has."""
    right = plain(base())
    small = [n % 5 for n in range(COUNT)]
    for dtype in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64,
                  pl.Int128):  # fmt: skip
        for column in ("user", "label"):
            rows = frame().with_columns(pl.col(column).cast(dtype))
            yield case(f"{column} as {dtype}", stored(rows), right, "never" if dtype != pl.Int128
                       else "also")  # fmt: skip
        lists = frame().with_columns(pl.col("seen").cast(pl.List(dtype)))
        yield case(f"seen as lists of {dtype}", stored(lists), right, "never" if dtype != pl.Int128
                   else "also")  # fmt: skip
        price = frame().with_columns(price=pl.Series(small, dtype=dtype))
        yield case(
            f"price as {dtype}", stored(price), {**right, "price": [float(n) for n in small]}
        )
    for dtype in (pl.String, pl.Categorical, pl.Enum([str(n) for n in range(5)])):
        text = frame().with_columns(pl.col("user").cast(pl.String).cast(dtype))
        yield case(f"user as {dtype}"[:40], stored(text), right,
                   "never" if dtype == pl.String else "also")  # fmt: skip
    for dtype in (pl.Float32, pl.Float64):
        label = frame().with_columns(pl.col("label").cast(dtype))
        yield case(f"label as {dtype}", stored(label), right, "never")
        price = frame().with_columns(pl.col("price").cast(dtype))
        yield case(f"price as {dtype}", stored(price), right, "never")
        yield case(f"user as {dtype}", stored(frame().with_columns(pl.col("user").cast(dtype))),
                   None, "only")  # fmt: skip
        lists = frame().with_columns(pl.col("seen").cast(pl.List(dtype)))
        yield case(f"seen as lists of {dtype}", stored(lists), None, "only")
    yield case("label as Boolean", stored(frame().with_columns(pl.col("label") == 1)), right)
    odd: dict[str, pl.Series] = {
        "date": pl.Series([datetime.date(2024, 1, 1 + n) for n in small]),
        "time": pl.Series([datetime.datetime(2024, 1, 1, n) for n in small]),
        "decimal": pl.Series([decimal.Decimal(n) for n in small]),
        "binary": pl.Series([bytes([n]) for n in small]),
        "struct": pl.Series([{"a": n} for n in small]),
        "list": pl.Series([[n] for n in small]),
        "null": pl.Series([None] * COUNT),
        "duration": pl.Series([datetime.timedelta(n) for n in small]),
    }
    for label, values in odd.items():
        for column in ("user", "seen", "price", "label"):
            if (label, column) == ("list", "seen"):
                continue
            rows = frame().with_columns(values.alias(column))
            may: MayRefuse = "also" if (label, column) in NUMBERS else "only"
            known = {**right, "price": [float(n) for n in small]} if column == "price" else None
            yield case(f"{column} of {label}", stored(rows), known, may)
        rows = frame().with_columns(values.alias("more"))
        yield case(f"another column of {label}", stored(rows), right, "never")
    nested = frame().with_columns(seen=pl.Series([[[1]]] * COUNT))
    yield case("seen of lists of lists", stored(nested), None, "only")
    words = frame().with_columns(seen=pl.Series([["a", "b"]] * COUNT))
    yield case("seen of lists of words", stored(words), {**right, "seen": [["a", "b"]] * COUNT},
               "never")  # fmt: skip
    fixed = frame().with_columns(seen=pl.Series([[1, 2]] * COUNT, dtype=pl.Array(pl.Int64, 2)))
    yield case("seen of arrays", stored(fixed), {**right, "seen": [["1", "2"]] * COUNT})


NUMBERS = {("decimal", "price")}


def of_values(rng: random.Random) -> Iterator[Case]:
    """Values that are missing or out of range, at a row drawn."""
    right = plain(base())
    at = rng.randrange(COUNT)
    for column, value in (
        ("user", -1), ("user", -(2**63)), ("seen", None), ("seen", [None]),
        ("seen", [-1]), ("price", None), ("price", float("nan")), ("price", float("inf")),
        ("label", None), ("label", 2), ("label", -1),
    ):  # fmt: skip
        rows = frame()
        values = rows[column].to_list()
        values[at] = value
        rows = rows.with_columns(pl.Series(column, values, dtype=rows.schema[column]))
        yield case(f"{column} with {value}", stored(rows), None, "only")
    users = [None if n == at else n % 5 for n in range(COUNT)]
    # No id: unknown, which has no name.
    yield case("user with None", stored(frame().with_columns(user=pl.Series(users))),
               {**right, "user": [str(one) for one in users]}, "never")  # fmt: skip
    for value in (2**63 - 1, 2**63, 2**64 - 1):
        users = [value if n == at else n % 5 for n in range(COUNT)]
        rows = frame().with_columns(user=pl.Series(users, dtype=pl.UInt64))
        known = {**right, "user": [str(one) for one in users]}
        yield case(f"user with {value}", stored(rows), known)
    yield case("no rows", stored(frame().clear()), None, "only")
    yield case("groups of two rows", stored(frame(), row_group_size=2), right, "never")
    for compression in ("snappy", "gzip", "lz4", "uncompressed", "brotli"):
        yield case(compression, stored(frame(), compression=compression), right, "never")
    rows = frame().with_columns(seen=pl.Series([[]] * COUNT, dtype=pl.List(pl.Int64)))
    yield case("lists that are all empty", stored(rows), {**right, "seen": [[]] * COUNT})


def of_damage(rng: random.Random, count: int) -> Iterator[Case]:
    """Bits that are flipped, and ends that are missing.

    Parquet has no checksum that its readers look at, so a flip within the values of a user's own
    file cannot be told from another value; flips of the footer can, and nothing may crash.
    """
    for number in range(count):
        where = rng.random()

        def make(folder: Path, where: float = where, number: int = number) -> Path:
            path = stored(frame())(folder)
            content = bytearray(path.read_bytes())
            if number % 2 == 0:
                content = content[: int(where * len(content))]
            else:  # the footer: the last bytes but the length and the magic number
                size = int.from_bytes(content[-8:-4], "little")
                at = len(content) - 8 - size + int(where * (size + 8))
                content[at] ^= 1 << number % 8
            path.write_bytes(content)
            return path

        label = "cut" if number % 2 == 0 else "a flip of the footer"
        may: MayRefuse = "only" if number % 2 == 0 else "also"
        yield case(f"{number}: {label} at {where:.4f}", make, plain(base()), may)


def cases(rng: random.Random) -> Iterator[Case]:
    """All cases of parquet files."""
    yield from of_types()
    yield from of_values(rng)
    yield from of_damage(rng, 60)
