"""Whole files and folders: the old one or the new one, never a part, and nothing left behind."""

from pathlib import Path

import pytest

from recemb.files import whole_file, whole_folder


class _FailureError(Exception):
    pass


def _write_half(path: Path) -> None:
    path.write_text("half of the n")
    raise _FailureError("the disk is full")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_is_written_under_its_name(tmp_path: Path) -> None:
    with whole_file(tmp_path / "deep" / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert _names(tmp_path / "deep") == ["a.txt"]


def test_file_replaces_the_old_one_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_file_is_renamed_within_its_folder(tmp_path: Path) -> None:
    # A rename is atomic only within a file system.
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.touch()
        assert temporary.parent == tmp_path


def test_failure_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(_FailureError, match="disk is full"), whole_file(path) as temporary:
        _write_half(temporary)
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_failure_before_the_first_byte_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(_FailureError, match="disk is full"), whole_file(tmp_path / "a.txt"):
        raise _FailureError("the disk is full")
    assert _names(tmp_path) == []


def test_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with whole_folder(path) as temporary:
        (temporary / "new.txt").write_text("new")
        assert _names(path) == ["old.txt"]
    assert _names(path) == ["new.txt"]
    assert _names(tmp_path) == ["out"]


def test_failure_leaves_the_old_folder_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old.txt").write_text("old")
    with pytest.raises(_FailureError, match="disk is full"), whole_folder(path) as temporary:
        _write_half(temporary / "new.txt")
    assert (path / "old.txt").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_folder_starts_empty_after_a_killed_process(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as temporary:
        leftover = temporary.name
    (tmp_path / leftover).mkdir()
    (tmp_path / leftover / "stale.txt").touch()
    with whole_folder(tmp_path / "out") as temporary:
        (temporary / "new.txt").touch()
    assert _names(tmp_path / "out") == ["new.txt"]
