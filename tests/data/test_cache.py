"""Prepared folders: what names them, and that nothing but what was written is read from them."""

import multiprocessing
import os
import shutil
import time
from pathlib import Path

import polars as pl
import pytest

from recemb.data.cache import cache_name, prepared_folder
from recemb.errors import RecembError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.csv"
    path.write_text("1\n2\n")
    return path


def prepare(root: Path, source: Path, calls: list[Path] | None = None) -> Path:
    """Prepare a copy of the source as parquet."""

    def write(folder: Path) -> None:
        if calls is not None:
            calls.append(folder)
        text = source.read_text()
        pl.DataFrame({"line": text.split()}).write_parquet(folder / "lines.parquet")

    return prepared_folder(root, "lines-1", [source], {"header": False}, write)


def test_a_folder_is_written_once(tmp_path: Path, source: Path) -> None:
    calls: list[Path] = []
    folder = prepare(tmp_path / "cache", source, calls)
    assert prepare(tmp_path / "cache", source, calls) == folder
    assert len(calls) == 1
    assert pl.read_parquet(folder / "lines.parquet")["line"].to_list() == ["1", "2"]


def test_the_name_follows_the_content_and_no_path(tmp_path: Path, source: Path) -> None:
    name = cache_name("lines-1", [source], {"a": 1, "b": None})
    moved = tmp_path / "elsewhere" / "other.csv"
    moved.parent.mkdir()
    shutil.copy(source, moved)
    assert cache_name("lines-1", [moved], {"b": None, "a": 1}) == name
    other = tmp_path / "other.csv"
    other.write_text("1\n3\n")
    table = tmp_path / "source.tsv"
    shutil.copy(source, table)
    names = {
        name,
        cache_name("lines-2", [source], {"a": 1, "b": None}),
        cache_name("lines-1", [source], {"a": 2, "b": None}),
        cache_name("lines-1", [source], {"a": 1, "b": "None"}),
        cache_name("lines-1", [other], {"a": 1, "b": None}),
        cache_name("lines-1", [source, other], {"a": 1, "b": None}),
        cache_name("lines-1", [other, source], {"a": 1, "b": None}),
        # The same bytes are read otherwise.
        cache_name("lines-1", [table], {"a": 1, "b": None}),
    }
    assert len(names) == 8


def test_a_source_that_changes_within_the_process_has_another_name(source: Path) -> None:
    first = cache_name("lines-1", [source], {})
    before = source.stat()
    time.sleep(0.01)
    # As many bytes as before, and the time of a copy that keeps times.
    source.write_text("3\n4\n")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache_name("lines-1", [source], {}) != first


@pytest.mark.parametrize("place", [0, 5, 40, -5, -1])
def test_a_flipped_bit_is_found_and_the_folder_prepared_anew(
    tmp_path: Path, source: Path, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file = prepare(tmp_path / "cache", source) / "lines.parquet"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 16
    file.write_bytes(damaged)
    calls: list[Path] = []
    assert prepare(tmp_path / "cache", source, calls) == file.parent
    assert len(calls) == 1
    assert file.read_bytes() == whole
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: damaged")
    assert line.endswith("it is prepared anew")


@pytest.mark.parametrize("name", ["lines.parquet", "checksums.txt"])
def test_a_folder_without_one_of_its_files_is_prepared_anew(
    tmp_path: Path, source: Path, name: str
) -> None:
    folder = prepare(tmp_path / "cache", source)
    (folder / name).unlink()
    prepare(tmp_path / "cache", source)
    assert sorted(path.name for path in folder.iterdir()) == ["checksums.txt", "lines.parquet"]


def test_a_folder_is_checked_once_per_state(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "cache", source)
    prepare(tmp_path / "cache", source)
    monkeypatch.setattr("recemb.data.cache.check_manifest", None)
    prepare(tmp_path / "cache", source)


def test_a_failure_leaves_no_folder(tmp_path: Path, source: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "half").touch()
        raise RecembError("line 1: wrong")

    with pytest.raises(RecembError, match="line 1: wrong"):
        prepared_folder(tmp_path / "cache", "lines-1", [source], {}, write)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecembError, match=r"no\.csv: not a readable file .*; check that it is"):
        prepare(tmp_path / "cache", tmp_path / "no.csv")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, source: Path) -> None:
    # A file in the way: unlike a read-only folder it stops every user.
    (tmp_path / "cache").write_text("")
    with pytest.raises(RecembError, match=r"cache/lines-1-\w+: cannot be written"):
        prepare(tmp_path / "cache", source)


def test_processes_that_prepare_at_once_have_one_folder(tmp_path: Path, source: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)

    def write(folder: Path) -> None:
        (folder / "lines").write_text(source.read_text())
        start.wait(20)

    def one() -> None:
        prepared_folder(tmp_path / "cache", "lines-1", [source], {}, write)

    processes = [context.Process(target=one) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    (folder,) = (tmp_path / "cache").iterdir()
    assert (folder / "lines").read_text() == "1\n2\n"
