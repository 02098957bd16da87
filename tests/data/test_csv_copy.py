"""The copy of a text file: every cell keeps its text; what is no CSV is refused by line."""

import csv
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recemb.data import csv_copy
from recemb.data.csv_copy import write_copy
from recemb.data.files import TableFile
from recemb.errors import RecembError
from recemb.text_lines import line_of


def copied(tmp_path: Path, text: str | bytes, name: str = "rows.csv") -> dict[str, list]:
    """Return the columns of a text file's copy, read by pyarrow."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    write_copy(path, tmp_path / "copy.parquet")
    return pq.read_table(tmp_path / "copy.parquet").to_pydict()


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(RecembError) as error:
        copied(tmp_path, text)
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(f"{tmp_path}/rows.csv: ")


@pytest.mark.parametrize(
    "cells",
    [
        ["00007", "7"], ["+5", "5"], ["1.0", "1"], ["1e5", "100000"], ["12e34", "5"],
        ["9223372036854775808", "1"], ["-0", "0"], ["7 ", "7"], ["0x1", "1"], ["NA", "1"],
        ["true", "1"], ["1_000", "1000"],
    ],
)  # fmt: skip
def test_cells_that_integers_are_not_written_as_stay_text(tmp_path: Path, cells: list[str]) -> None:
    assert copied(tmp_path, "a\n" + "".join(f"{cell}\n" for cell in cells)) == {"a": cells}


def test_cells_that_integers_are_written_as_are_integers(tmp_path: Path) -> None:
    text = 'a,b\n9223372036854775807,1\n-9223372036854775808,\n0,""\n'
    assert copied(tmp_path, text) == {"a": [2**63 - 1, -(2**63), 0], "b": [1, None, None]}


def test_no_type_is_guessed_from_the_first_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks of 64 bytes, so that the word comes in a late one: what is written is begun again.
    monkeypatch.setattr(csv_copy, "BLOCK_BYTES", 64)
    monkeypatch.setattr(csv_copy, "ROW_GROUP", 10)
    cells = [*map(str, range(95)), "X1", "", "07"]
    text = "a,b\n" + "".join(f"{cell},{row}\n" for row, cell in enumerate(cells))
    assert copied(tmp_path, text) == {"a": [c or None for c in cells], "b": list(range(98))}
    groups = pq.ParquetFile(tmp_path / "copy.parquet").metadata
    sizes = [groups.row_group(group).num_rows for group in range(groups.num_row_groups)]
    assert sizes == [10] * 9 + [8]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(*[st.text('07+-.e,"\n x\u00e9', max_size=4)] * 2), min_size=1, max_size=6)
)
def test_every_text_is_kept(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    tmp_path = tmp_path_factory.mktemp("rows")
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b"), *rows])
    write_copy(path, tmp_path / "copy.parquet")
    read = pq.read_table(tmp_path / "copy.parquet").to_pydict()
    shown = [["" if cell is None else str(cell) for cell in read[name]] for name in ("a", "b")]
    assert list(zip(*shown, strict=True)) == rows


def test_names_that_are_patterns_to_polars(tmp_path: Path) -> None:
    assert copied(tmp_path, "*,^a.*$,\n1,x,7\n2,y,8\n") == {
        "*": [1, 2], "^a.*$": ["x", "y"], "": [7, 8],
    }  # fmt: skip
    file = TableFile(tmp_path / "rows.csv")
    assert file.read(0, ["*", "^a.*$"]).rows() == [(1, "x"), (2, "y")]


def test_a_name_that_comes_twice_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    assert copied(tmp_path, "a,b,a,\n1,2,3,\n") == {"b": [2], "": [None]}
    file = TableFile(tmp_path / "rows.csv")
    file.require(["b"])
    with pytest.raises(RecembError, match=r"rows\.csv: column 'a' is there more than once; rename"):
        file.require(["b", "a"])
    assert refused(tmp_path, "a,a\n1,2\n") == "column 'a' is there more than once; rename one"


def test_dialects(tmp_path: Path) -> None:
    expected = {"a": [1, 2], "b": ["x", "y"]}
    assert copied(tmp_path, "a\tb\n1\tx\n2\ty\n", "rows.tsv") == expected
    for text in (
        "\ufeffa,b\r\n1,x\r\n2,y", "\n\na,b\n\n1,x\n\n2,y\n\n", '"a","b"\n"1","x"\n"2","y"\n',
        "a,b\r1,x\r2,y\r",
    ):  # fmt: skip
        assert copied(tmp_path, text) == expected
    assert copied(tmp_path, 'a,b\n1,5" disk\n') == {"a": [1], "b": ['5" disk']}


def test_rows_of_another_length_are_refused_by_line(tmp_path: Path) -> None:
    rule = "a row must have as many cells as the header, 2, got"
    advice = "fill them, or quote cells that hold the separator"
    assert refused(tmp_path, "a,b\n1,x\n2\n") == f"line 3: {rule} 1; {advice}"
    assert refused(tmp_path, "a,b\n1,x,z\n2\n") == f"line 2: {rule} 3; {advice}"
    assert refused(tmp_path, 'a,b\n1,"x\n\nz"\n\n2\n') == f"line 6: {rule} 1; {advice}"


@pytest.mark.parametrize("text", ['a,b\n1,x\n2,"y\n3,z\n', 'a,b\n1,x\n2,"y\n3,"z"\n4,q\n'])
def test_a_quote_that_is_not_closed_is_refused_by_line(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text).startswith("line 3: a quote is not closed (")


def test_other_bytes_are_refused_by_line(tmp_path: Path) -> None:
    latin = refused(tmp_path, b"a,b\n1,x\n2,\xe9\n")
    assert latin.startswith("line 3: not a readable CSV file, whose text must be UTF-8, got the")
    assert refused(tmp_path, "a,b\n1,x\n".encode("utf-16")).startswith("line 1: not a readable")
    assert refused(tmp_path, b"\n\n") == (
        "not a readable CSV file (it has no line of column names)"
    )
    assert refused(tmp_path, b"a,b") == refused(tmp_path, b"a,b\n\n") == "the file has no rows"


def test_long_cells(tmp_path: Path) -> None:
    long = "1|" * 100_000 + "1"  # Python's reader of CSV stops at 131,072 characters by default
    assert copied(tmp_path, f"a,b\n{long},2\n3,4\n") == {"a": [long, "3"], "b": [2, 4]}
    assert line_of(tmp_path / "rows.csv", 1) == 3
    assert csv.field_size_limit() == 131_072


def test_a_damaged_copy_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.csv").write_text("a\n" + "7\n" * 100)
    TableFile(tmp_path / "rows.csv")
    (copy,) = (tmp_path / "cache").rglob("*.parquet")
    damaged = bytearray(copy.read_bytes())
    damaged[10] ^= 1
    copy.write_bytes(damaged)
    assert TableFile(tmp_path / "rows.csv").read(0, ["a"])["a"].to_list() == [7] * 100


@pytest.mark.parametrize("kind", ["Int128", "UInt128"])
def test_parquet_that_arrow_does_not_open(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "rows.parquet"
    wide = pl.Series([2**64, 1, None], dtype=getattr(pl, kind))
    pl.DataFrame({"a": [1, 2, 3], "wide": wide}).write_parquet(path)
    with pytest.raises(pa.ArrowNotImplementedError):
        pq.ParquetFile(path)
    file = TableFile(path)
    assert (file.names, file.num_rows) == (["a", "wide"], 3)
    assert file.read(0, ["a"]).rows() == [(1,), (2,), (3,)]


def test_parquet_in_which_a_name_comes_twice(tmp_path: Path) -> None:
    columns = [pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, names=["a", "a"]), tmp_path / "rows.parquet")
    with pytest.raises(RecembError, match=r"rows\.parquet: column 'a' is there more than once"):
        TableFile(tmp_path / "rows.parquet")
