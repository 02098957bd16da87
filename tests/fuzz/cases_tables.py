"""Tables: CSV, TSV and parquet files of rows, through ``recemb.data.tabular.Tabular``.

Cells are text in the case's own lists, and two ids are the same if their texts are. What is read is
compared by that: which rows have the same id, what it is called, and numbers by their value.
"""

import csv
import io
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from recemb.data.columns import IdColumn, ListColumn, NumberColumn
from recemb.data.tabular import Tabular
from recemb.jagged import split_keyed
from tests.fuzz.judge import Case, MayRefuse

Cells = dict[str, list[str]]
COUNT = 12


def base() -> Cells:
    """Rows that are as documented: cells of a text file, by column."""
    return {
        "label": [str(n % 2) for n in range(COUNT)],
        "user": [str(n % 5) for n in range(COUNT)],
        "seen": ["|".join(str(100 + k) for k in range(n % 3)) for n in range(COUNT)],
        "price": [f"{n / 4}" for n in range(COUNT)],
    }


def plain(cells: Cells, separator: str = "|") -> dict[str, list[Any]]:
    """Return what the cells mean, worked out here."""
    return {
        "label": [float(one) for one in cells["label"]],
        "user": list(cells["user"]),
        "seen": [one.split(separator) if one else [] for one in cells["seen"]],
        "price": [float(one) for one in cells["price"]],
    }


def load(path: Path, separator: str = "|", **types: str) -> dict[str, list[Any]]:
    """Read the same file for training and testing, and return its rows as it is tested."""
    data = Tabular(
        folder=str(path.parent),
        label="label",
        categorical={"user": IdColumn(type=types.get("user"))},  # type: ignore[arg-type]
        lists={"seen": ListColumn(separator=separator)},
        dense={"price": NumberColumn(standardize=False)},
        train=path.name,
        validation=None,
        test=path.name,
    )
    schema = data.schema
    found: dict[str, list[Any]] = {"label": [], "user": [], "seen": [], "price": []}
    for batch in data.loader("test"):
        ids = split_keyed(batch.ids)
        names = {
            column: [str(one) for one in schema.vocabularies[column].values(ids[column].values)]
            for column in ("user", "seen")
        }
        ends = [0, *ids["seen"].lengths.cumsum(0).tolist()]
        found["label"] += batch.label_B.tolist()
        found["user"] += names["user"]
        found["seen"] += [names["seen"][a:b] for a, b in itertools.pairwise(ends)]
        found["price"] += batch.dense_BK[:, 0].tolist()
    return found


def written(cells: Cells, name: str = "rows.csv", **form: Any) -> Callable[[Path], Path]:
    """Return what writes cells by Python's own writer of CSV."""

    def make(folder: Path) -> Path:
        buffer = io.StringIO()
        delimiter = "\t" if name.endswith(".tsv") else ","
        settings = {"delimiter": delimiter, "lineterminator": form.get("newline", "\n")}
        writer = csv.writer(buffer, **settings)
        writer.writerow(cells)
        writer.writerows(zip(*cells.values(), strict=True))
        path = folder / form.get("below", "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(form.get("start", b"") + buffer.getvalue().encode(form.get("as", "utf-8")))
        return path

    return make


def case(name: str, make: Any, right: Any, may: MayRefuse = "also", **settings: str) -> Case:
    return Case(
        group="tables: text",
        name=name,
        make=make,
        load=lambda path: load(path, **settings),
        right=right,
        may_refuse=may,
    )


IDS = {
    "leading zeros": ["7", "07", "007", "0007", "70"],
    "a plus": ["5", "+5", "55"],
    "a point": ["1", "1.0", "1.00", "10"],
    "an exponent": ["100000", "1e5", "1E5", "12e34"],
    "above 2^63": [str(2**63 - 1), str(2**63), str(2**64 - 1), "1"],
    "above 2^64": [str(2**64), str(2**70), "3"],
    "below zero as text": ["-1x", "-1y", "1"],
    "letters": ["a", "A", "b ", "b"],
    "spaces": [" 7", "7", "7 "],
    "not in English": ["\u00e9t\u00e9", "\u5546\u54c1", "\U0001f600", "e"],
    "quoted": ['say "x"', "a,b", "x\ny", "x\r\ny", "tab\there"],
    "one that is text": ["0", "1", "2", "X1"],
    "words for nothing": ["NA", "null", "nan", "None", "N/A"],
    "dates": ["2024-01-01", "2024-1-1", "01/01/2024"],
    "times": ["12:30", "12:30:00", "0.5.1"],
    "truth": ["true", "True", "false", "1"],
    "hexadecimal": ["0x10", "16", "0b1"],
    "underscores": ["1_000", "1000"],
    "long": ["x" * 5000, "x" * 5001],
    "wide digits": ["\uff17", "7"],
    "infinity": ["inf", "-inf", "1"],
}


def of_ids(rng: random.Random) -> Iterator[Case]:
    """Ids whose text must survive, as ids of rows and in lists, in CSV and TSV."""
    for label, values in IDS.items():
        for name in ("rows.csv", "rows.tsv"):
            cells = base()
            cells["user"] = [values[n % len(values)] for n in range(COUNT)]
            rng.shuffle(cells["user"])
            yield case(f"ids, {label}, {name}", written(cells, name), plain(cells), "never")
            cells = base()
            cells["seen"] = ["|".join(rng.choices(values, k=n % 4)) for n in range(COUNT)]
            right = plain(cells)
            yield case(f"lists, {label}, {name}", written(cells, name), right, "never")
        cells = base()
        cells["user"] = [values[n % len(values)] for n in range(COUNT)]
        yield case(f"ids, {label}, declared", written(cells), plain(cells), "never", user="string")


def of_cells(rng: random.Random) -> Iterator[Case]:
    """Cells that are empty or wrong, at a row drawn."""
    for column in base():
        for text in ("", " ", "x", "-1", "1.5", "nan", "inf", "1e400", "null", "2", "|", "1|"):
            cells = base()
            cells[column][rng.randrange(COUNT)] = text
            right, may = None, "only"
            allowed = column == "user" and text != "-1"
            allowed = allowed or (column == "price" and text in ("-1", "1.5", "2"))
            allowed = allowed or (column == "seen" and text not in ("|", "1|", "-1"))
            if allowed:
                right, may = plain(cells), "also"
                if text == "":
                    # No id: unknown, which has no name.
                    right["user"] = [one or "None" for one in right["user"]]
            # Whole rows of text make a column of text, in which these are ids as any other.
            if (column == "seen" and text in ("-1", "|", "1|")) or (column, text) == ("user", "-1"):
                right, may = None, "only"
            yield case(f"cell {column} is {text!r}", written(cells), right, may)  # type: ignore[arg-type]


def of_forms() -> Iterator[Case]:
    """The same rows in other forms of the file."""
    right = plain(base())
    quoted = base()
    quoted["user"] = [f"u,{n % 3}\n" for n in range(COUNT)]
    forms = {
        "byte order mark": {"start": b"\xef\xbb\xbf"},
        "carriage returns": {"newline": "\r\n"},
        "in a folder shop[1]": {"below": "shop[1]"},
        "in a folder sh*p": {"below": "sh*p"},
        "in a folder a?b": {"below": "a?b"},
        "in a folder {a,b}": {"below": "{a,b}"},
        "in a folder of spaces": {"below": "a b"},
        "in a folder of marks": {"below": "100%20#x"},
    }
    for label, form in forms.items():
        yield case(label, written(base(), **form), right, "never")
    yield case("quoted separators and newlines", written(quoted), plain(quoted), "never")
    crlf = written(quoted, newline="\r\n")
    yield case("quoted newlines and carriage returns", crlf, plain(quoted), "never")
    yield case("latin-1", written({**base(), "user": ["\xe9"] * COUNT}, **{"as": "latin-1"}), None)
    yield case("utf-16", written(base(), **{"as": "utf-16"}), None, "only")
    both = {**base(), "*": ["x"] * COUNT, "^u.*$": ["y"] * COUNT}
    yield case("columns called * and ^u.*$", written(both), right, "never")
    wide = {**base(), "more": [str(2**80)] * COUNT}
    yield case("a wide integer that no setting names", written(wide), right, "never")
    late = {**base(), "more": [str(2**64) if n == 11 else str(n) for n in range(COUNT)]}
    yield case("a wide integer in the last row", written(late), right, "never")
    odd = {**base(), "": ["z"] * COUNT, "a\nb": ["w"] * COUNT}
    yield case("columns without a name and with a newline", written(odd), right)
    yield case("separator ;", written({**base(), "seen": ["1;2"] * COUNT}),
               {**right, "seen": [["1", "2"]] * COUNT}, "never", separator=";")  # fmt: skip


def raw(text: str | bytes, name: str = "rows.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return make


def of_lines(rng: random.Random) -> Iterator[Case]:
    """Rows that are short, long or none, and bytes that are no table."""
    header = "label,user,seen,price\n"
    rows = "".join(f"{n % 2},{n % 5},1|2,{n}\n" for n in range(COUNT))
    for label, text in {
        "no bytes": "", "a header alone": header, "newlines alone": "\n\n\n",
        "a short row": header + rows + "1,2\n", "a row of one cell": header + rows + "1\n",
        "a long row": header + rows + "1,2,3,4,5\n", "an open quote": header + rows + '1,"2,3,4\n',
        "a short row in between": header + rows + "1,2\n" + rows,
        "a column twice": "label,user,user,seen,price\n0,1,2,3,4\n",
        "no such column": "label,item,seen,price\n0,1,2,3\n",
        "no header": rows, "zero bytes": header + rows.replace("1|2", "\x00\x00"),
        "another separator": (header + rows).replace(",", ";"),
        "a null byte first": "\x00" + header + rows,
    }.items():  # fmt: skip
        may: MayRefuse = "also" if label == "zero bytes" else "only"
        right = None
        if label == "zero bytes":
            cells = base()
            cells |= {"seen": ["\x00\x00"] * COUNT, "price": [str(n) for n in range(COUNT)]}
            right = plain(cells)
        yield case(label, raw(text), right, may)
    for number in range(6):
        noise = rng.randbytes(300)
        yield case(f"noise {number}, csv", raw(noise), None, "only")
        yield case(f"noise {number}, parquet", raw(noise, "rows.parquet"), None, "only")
    yield case("a CSV called parquet", raw(header + rows, "rows.parquet"), None, "only")
    yield case("a name without an ending", raw(header + rows, "rows"), None, "only")


def cases(rng: random.Random) -> Iterator[Case]:
    """All cases of text files."""
    yield from of_ids(rng)
    yield from of_cells(rng)
    yield from of_forms()
    yield from of_lines(rng)


def frame() -> pl.DataFrame:
    """The base rows with the types of a parquet file."""
    cells = plain(base())
    seen = [[int(item) for item in one] for one in cells["seen"]]
    return pl.DataFrame({
        "label": [int(one) for one in cells["label"]],
        "user": [int(one) for one in cells["user"]],
        "seen": pl.Series(seen, dtype=pl.List(pl.Int64)),
        "price": cells["price"],
    })  # fmt: skip
