"""Raw files of public data sets: what is wrong in one is said in a line that names it."""

from pathlib import Path

import polars as pl
import pytest

from recemb.data.beauty import Beauty
from recemb.data.columns import IdColumn
from recemb.data.movielens import MovieLens1M
from recemb.data.raw_files import read_raw
from recemb.errors import RecembError

COLUMNS = {"user": "integers", "items": "lists", "zip": "texts"}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"user": [1], "items": [[2]]}, "column 'zip' is missing; the file has"),
        ({"user": ["1"], "items": [[2]], "zip": ["3"]}, "'user': must hold integers, got type Str"),
        ({"user": [1], "items": [2], "zip": ["3"]}, "'items': must hold lists, got type Int64"),
        ({"user": [1, 2], "items": [[2], None], "zip": ["3"] * 2}, "'items', row 1: must not be"),
        ({"user": [1][1:], "items": [[2]][1:], "zip": ["3"][1:]}, "got type Null"),
    ],
)
def test_what_is_wrong_in_a_raw_file_is_named(tmp_path: Path, columns: dict, words: str) -> None:
    path = tmp_path / "raw.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(RecembError, match=rf"/raw\.parquet: .*{words}.*; put the data set there"):
        read_raw(path, COLUMNS)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00\xff" * 500, b"a,b\n1,2\n"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raw.parquet").write_bytes(content)
    with pytest.raises(
        RecembError, match=r"/raw\.parquet: not a readable parquet file \(.+\); put"
    ):
        read_raw(tmp_path / "raw.parquet", COLUMNS)


def test_brackets_in_a_path_stand_for_themselves(tmp_path: Path) -> None:
    for name, user in (("raw[1].parquet", 1), ("raw1.parquet", 2)):
        pl.DataFrame({"user": [user]}).write_parquet(tmp_path / name)
    assert read_raw(tmp_path / "raw[1].parquet", {"user": "integers"})["user"].to_list() == [1]


def test_a_damaged_data_set_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    for name in ("Beauty", "Beauty_item2attributes", "ratings", "users", "movies"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 but no more")
    columns = {"movie": IdColumn()}
    for data in (
        Beauty(source=str(tmp_path)),
        MovieLens1M(source=str(tmp_path), label="label", categorical=columns),
    ):
        with pytest.raises(RecembError, match="not a readable parquet file"):
            data.prepare_data()
    assert list((tmp_path / "cache").iterdir()) == []
