"""Raw logs: every row in exactly one part, by a hash that any language can compute."""

from pathlib import Path

import polars as pl
import pytest
import xxhash

from recemb.data.raw_log import scan_log, write_log
from recemb.errors import RecembError

COLUMNS = {"label": pl.Int8, "number": pl.Int64, "word": pl.String}
STAGES = ("train", "validation", "test")
NUM_ROWS = 3000
ROWS = [(row % 2, row, f"w{row}" if row % 7 else None) for row in range(NUM_ROWS)]
FRAME = pl.DataFrame(ROWS, schema=COLUMNS, orient="row")


def stage_of(row: int) -> str:
    """Return where a row goes: tenths 0 to 7, 8 and 9 of the unsigned hash of its number."""
    tenth = xxhash.xxh64_intdigest(str(row).encode()) % 10
    return "test" if tenth == 9 else "validation" if tenth == 8 else "train"


def write_raw(path: Path) -> Path:
    """Write the rows as the suffix says."""
    if path.suffix == ".parquet":
        # Further columns, in another order and of another width, as a download may have them.
        more = FRAME.with_columns(pl.col("label").cast(pl.Int32), extra=1)
        more.select("word", "extra", "number", "label").write_parquet(path, row_group_size=500)
    elif path.suffix == ".txt":
        FRAME.write_csv(path, separator="\t", include_header=False)
    else:
        FRAME.select("word", "label", "number").write_csv(
            path, separator="," if path.suffix == ".csv" else "\t"
        )
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".txt"])
def test_each_row_goes_where_its_number_says_in_order(tmp_path: Path, suffix: str) -> None:
    source = write_raw(tmp_path / f"raw{suffix}")
    write_log(scan_log(source, COLUMNS), source, tmp_path / "out", COLUMNS)
    for stage in STAGES:
        found = pl.read_parquet(tmp_path / "out" / f"{stage}.parquet")
        assert found.schema == pl.Schema(COLUMNS)
        assert found.rows() == [ROWS[row] for row in range(NUM_ROWS) if stage_of(row) == stage]


def test_files_are_cut_into_row_groups_that_are_read_one_at_a_time(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    source = tmp_path / "raw.parquet"
    pl.DataFrame({"label": [0, 1] * 100_000}).write_parquet(source)
    write_log(scan_log(source, {"label": pl.Int8}), source, tmp_path / "out", {"label": pl.Int8})
    metadata = pq.ParquetFile(tmp_path / "out/train.parquet").metadata
    sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert sum(sizes) == sum(stage_of(row) == "train" for row in range(200_000))
    assert len(sizes) == 3
    assert max(sizes) == 65_536


def test_a_quotation_mark_is_a_value_like_any_other(tmp_path: Path) -> None:
    source = tmp_path / "raw.txt"
    source.write_text('1\t2\t"a\n0\t3\tb"\n')
    rows = scan_log(source, COLUMNS).collect().rows()
    assert rows == [(1, 2, '"a'), (0, 3, 'b"')]


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("gone.txt", None, "there is no such file; put it under the folder that RECEMB_DATA names"),
        ("raw.gz", "x", r"must end in \.parquet, \.csv, \.tsv or \.txt, got '\.gz'; unpack"),
        ("raw.csv", "label,word\n1,a\n", r"column 'number' is missing; the file has \['label'"),
        ("raw.parquet", "no parquet", r"not a readable raw log \(.*\); download it again"),
        ("raw.csv", "", "not a readable raw log"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, text: str | None, rule: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(RecembError, match=rf"/{name}: {rule}"):
        scan_log(tmp_path / name, COLUMNS)


@pytest.mark.parametrize(
    ("suffix", "line", "rule"),
    [
        (".txt", "1\tmany\tb", "column 'number', line 2001: must be of type Int64, got 'many'"),
        (".txt", "300\t1\tb", "column 'label', line 2001: must be of type Int8, got '300'"),
        (".txt", "1\t2\tb\tc", "line 2001: a row must have 3 cells, got 4"),
        (".txt", "1\t2", "line 2001: a row must have 3 cells, got 2"),
        (".txt", "", "line 2001: a row must have 3 cells, got 1"),
        (".csv", "1,many,b", "column 'number', line 2002: must be of type Int64, got 'many'"),
        (".csv", "1,2", "line 2002: a row must have 3 cells, got 2"),
    ],
)
def test_a_wrong_line_far_down_is_named_and_leaves_nothing_behind(
    tmp_path: Path, suffix: str, line: str, rule: str
) -> None:
    source = tmp_path / f"raw{suffix}"
    separator = "\t" if suffix == ".txt" else ","
    lines = [separator.join(("0", str(row), "a")) for row in range(2000)]
    header = [] if suffix == ".txt" else ["label,number,word"]
    source.write_text("\n".join([*header, *lines, line, separator.join("01a"), ""]))
    with pytest.raises(RecembError, match=rf"/raw{suffix}: {rule}; mend"):
        write_log(scan_log(source, COLUMNS), source, tmp_path / "out", COLUMNS)
    assert [one.name for one in tmp_path.iterdir()] == [source.name]


def test_a_last_line_that_was_cut_off_is_named(tmp_path: Path) -> None:
    source = tmp_path / "raw.txt"
    source.write_text("0\t1\ta\n" * 3 + "1\t2")
    with pytest.raises(RecembError, match="line 4: a row must have 3 cells, got 2"):
        write_log(scan_log(source, COLUMNS), source, tmp_path / "out", COLUMNS)


def test_columns_that_nobody_names_are_not_guessed(tmp_path: Path) -> None:
    source = tmp_path / "raw.csv"
    lines = [f"{2**64 if row else 7},0,{row},a" for row in range(300)]
    source.write_text("\n".join(["id,label,number,word", *lines, ""]))
    rows = scan_log(source, COLUMNS).collect()
    assert rows["number"].to_list() == list(range(300))


def test_fractions_are_not_cut_off(tmp_path: Path) -> None:
    source = tmp_path / "raw.parquet"
    whole = pl.DataFrame({"label": [0.0, 1.0] * 20, "number": [1.0, None] * 20, "word": ["a"] * 40})
    whole.write_parquet(source)
    write_log(scan_log(source, COLUMNS), source, tmp_path / "out", COLUMNS)
    whole.with_columns(number=pl.Series([1.0] * 39 + [1.9])).write_parquet(source)
    with pytest.raises(
        RecembError, match=r"column 'number', row 39: must be of type Int64, got 1\.9; mend"
    ):
        write_log(scan_log(source, COLUMNS), source, tmp_path / "out", COLUMNS)
