"""Table files: parquet and CSV read alike, and every damaged file ends in one clear error."""

import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recemb.data.files import ROW_GROUP, TableFile
from recemb.errors import RecembError

FRAME = pl.DataFrame({"user": [3, 1, 2], "word": ["a", "b", None], "price": ["0.5", "2.0", "-1"]})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))


def cached(tmp_path: Path) -> list[Path]:
    """Return all that lies in the cache folder, hidden files too."""
    folder = tmp_path / "cache" / "csv"
    return sorted(folder.iterdir()) if folder.is_dir() else []


def write_groups(path: Path, sizes: list[int]) -> None:
    """Write ``row``, counted from 0, in row groups of ``sizes``."""
    schema = pa.schema([("row", pa.int64())])
    start = 0
    with pq.ParquetWriter(path, schema) as writer:
        for size in sizes:
            # write_table leaves empty tables out; a batch is written as it is.
            rows = pa.array(range(start, start + size), pa.int64())
            writer.write_table(pa.table({"row": rows}), row_group_size=max(size, 1))
            start += size


@pytest.mark.parametrize(("suffix", "separator"), [(".csv", ","), (".tsv", "\t")])
def test_text_is_read_like_parquet(tmp_path: Path, suffix: str, separator: str) -> None:
    path = tmp_path / f"rows{suffix}"
    lines = ["user,word,price", "3,a,0.5", "1,b,2.0", "2,,-1"]
    path.write_text("\n".join(lines).replace(",", separator) + "\n")
    FRAME.write_parquet(tmp_path / "rows.parquet")
    text, parquet = TableFile(path), TableFile(tmp_path / "rows.parquet")
    columns = ["price", "user", "word"]
    assert text.read(0, columns).equals(parquet.read(0, columns))
    assert text.read(0, columns).rows() == [("0.5", 3, "a"), ("2.0", 1, "b"), ("-1", 2, None)]
    assert text.scan().collect().equals(FRAME)


def test_only_the_named_columns_are_read_once_each(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "rows.parquet")
    assert TableFile(tmp_path / "rows.parquet").read(0, ["word", "word"]).columns == ["word"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecembError, match=r"/gone\.parquet: there is no such file"):
        TableFile(tmp_path / "gone.parquet")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(RecembError, match=r"/folder\.parquet: there is no such file"):
        TableFile(tmp_path / "folder.parquet")


def test_other_suffix(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text("{}")
    rule = r"/rows\.json: must end in \.parquet, \.csv or \.tsv, got '\.json'"
    with pytest.raises(RecembError, match=rule):
        TableFile(tmp_path / "rows.json")


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_file_of_no_bytes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(RecembError, match=rf"/{name}: the file is empty \(0 bytes\)"):
        TableFile(tmp_path / name)


def test_parquet_without_rows(tmp_path: Path) -> None:
    FRAME.clear().write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(RecembError, match=r"/rows\.parquet: the file has no rows"):
        TableFile(tmp_path / "rows.parquet")


def test_csv_with_a_header_alone(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("user,word\n")
    with pytest.raises(RecembError, match=r"/rows\.csv: the file has no rows"):
        TableFile(tmp_path / "rows.csv")


@pytest.mark.parametrize("kept", [0.5, 0.9], ids=["half", "footer"])
def test_truncated_parquet(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "rows.parquet"
    FRAME.write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    rule = r"/rows\.parquet: not a readable parquet file, perhaps truncated \("
    with pytest.raises(RecembError, match=rule):
        TableFile(path)


@pytest.fixture
def damaged(tmp_path: Path) -> TableFile:
    """Return a file of three row groups, of which the pages of the second are overwritten."""
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"row": range(3_000)}).write_parquet(path, row_group_size=1_000)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * column.total_compressed_size)
    return TableFile(path)


def test_damaged_row_group_is_named(damaged: TableFile) -> None:
    with pytest.raises(RecembError, match=r"/rows\.parquet: row group 1 cannot be read \("):
        damaged.read(1, ["row"])


def test_row_groups_beside_a_damaged_one_are_read(damaged: TableFile) -> None:
    assert damaged.read(0, ["row"])["row"].to_list() == list(range(1_000))
    assert damaged.read(2, ["row"])["row"].to_list() == list(range(2_000, 3_000))


def test_damage_found_while_counting(damaged: TableFile) -> None:
    with pytest.raises(RecembError, match=r"/rows\.parquet: cannot be read to its end \("):
        damaged.collect(damaged.scan().select(pl.col("row").sum()))


def test_missing_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    FRAME.write_parquet(tmp_path / "rows.parquet")
    file = TableFile(tmp_path / "rows.parquet")
    file.require(["user", "price"])
    rule = r"/rows\.parquet: column 'item' is missing; the file has \['user', 'word', 'price'\]"
    with pytest.raises(RecembError, match=rule):
        file.require(["user", "item"])


def test_rows_are_numbered_over_all_row_groups(tmp_path: Path) -> None:
    write_groups(tmp_path / "rows.parquet", [3, 1, 4])
    file = TableFile(tmp_path / "rows.parquet")
    assert file.group_sizes == [3, 1, 4]
    assert file.num_rows == 8
    assert [file.first_row(group) for group in range(3)] == [0, 3, 4]
    firsts = [file.read(group, ["row"])["row"][0] for group in range(3)]
    assert firsts == [0, 3, 4]


def test_empty_row_groups_are_skipped(tmp_path: Path) -> None:
    write_groups(tmp_path / "rows.parquet", [0, 2, 0, 0, 3, 0])
    stored = pq.ParquetFile(tmp_path / "rows.parquet").metadata
    assert stored.num_row_groups == 6, "the writer left the empty ones out: nothing is tested"
    file = TableFile(tmp_path / "rows.parquet")
    assert file.group_sizes == [2, 3]
    assert [file.read(group, ["row"])["row"].to_list() for group in (0, 1)] == [[0, 1], [2, 3, 4]]
    assert file.first_row(1) == 2


def test_csv_is_converted_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user\n7\n")
    TableFile(path)
    (first,) = cached(tmp_path)
    stamp = first.stat().st_mtime_ns
    TableFile(path)
    assert cached(tmp_path) == [first]
    assert first.stat().st_mtime_ns == stamp


def test_changed_csv_is_converted_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("user\n7\n")
    stamp = path.stat().st_mtime_ns
    assert TableFile(path).read(0, ["user"])["user"].to_list() == [7]
    path.write_text("user\n8\n")  # of the same size: its time alone tells
    os.utime(path, ns=(stamp + 1, stamp + 1))
    assert TableFile(path).read(0, ["user"])["user"].to_list() == [8]


def test_equal_names_in_two_folders_are_two_files(tmp_path: Path) -> None:
    for value in (1, 2):
        (tmp_path / str(value)).mkdir()
        path = tmp_path / str(value) / "rows.csv"
        path.write_text(f"user\n{value}\n")
        os.utime(path, ns=(10**18, 10**18))
    read = [TableFile(tmp_path / str(v) / "rows.csv").read(0, ["user"]).item() for v in (1, 2)]
    assert read == [1, 2]


def test_long_csv_has_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    pl.DataFrame({"row": range(ROW_GROUP + 10)}).write_csv(path)
    file = TableFile(path)
    assert max(file.group_sizes) <= ROW_GROUP
    assert file.num_rows == ROW_GROUP + 10
    last = len(file.group_sizes) - 1
    assert last >= 1
    assert file.read(last, ["row"])["row"][0] == file.first_row(last)


def test_places_are_lines_of_text_files_and_rows_of_parquet(tmp_path: Path) -> None:
    pl.DataFrame({"a": range(30)}).write_csv(tmp_path / "rows.csv")
    pl.DataFrame({"a": range(30)}).write_parquet(tmp_path / "rows.parquet")
    # The header is line 1, so the first row is line 2.
    assert [TableFile(tmp_path / "rows.csv").place(row) for row in (0, 21)] == ["line 2", "line 23"]
    assert TableFile(tmp_path / "rows.parquet").place(21) == "row 21"


def test_lines_are_those_of_an_editor_though_cells_hold_line_ends(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('a,b\n1,"x\ny\nz"\n2,p\n3,q\n')
    file = TableFile(tmp_path / "rows.csv")
    assert [file.place(row) for row in range(3)] == ["line 2", "line 5", "line 6"]
