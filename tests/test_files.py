"""Whole files and folders: the old one or the new one, never a part, and nothing left behind."""

import multiprocessing
import os
import signal
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


def _die(path: Path, is_folder: bool) -> None:
    """Begin to write and be killed, in a process of its own."""
    with (whole_folder if is_folder else whole_file)(path) as temporary:
        (temporary / "half.txt" if is_folder else temporary).write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_a_killed_process_left_is_removed_by_the_next_writer(
    tmp_path: Path, is_folder: bool
) -> None:
    path = tmp_path / "out [1]"
    process = multiprocessing.get_context("fork").Process(target=_die, args=(path, is_folder))
    process.start()
    process.join()
    assert len(_names(tmp_path)) == 2
    if is_folder:
        with whole_folder(path) as temporary:
            (temporary / "new.txt").touch()
        assert _names(path) == ["new.txt"]
    else:
        with whole_file(path) as temporary:
            temporary.write_text("new")
        assert path.read_text() == "new"
    assert _names(tmp_path) == ["out [1]"]


def test_what_a_living_writer_has_stays(tmp_path: Path) -> None:
    # Process numbers say nothing: this process is both writers, as two containers may be.
    path = tmp_path / "a.txt"
    with whole_file(path) as slow:
        slow.write_text("slow")
        with whole_file(path) as quick:
            quick.write_text("quick")
        assert path.read_text() == "quick"
        assert slow.read_text() == "slow"
    assert path.read_text() == "slow"
    assert _names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("stays", [False, True])
def test_of_two_writers_of_a_folder_one_is_whole(tmp_path: Path, stays: bool) -> None:
    path = tmp_path / "out"
    asked = []
    with whole_folder(path, lambda there: asked.append(_names(there)) or stays) as slow:
        (slow / "slow.txt").touch()
        with whole_folder(path) as quick:
            (quick / "quick.txt").touch()
    assert asked == [["quick.txt"]]
    assert _names(path) == ["quick.txt" if stays else "slow.txt"]
    assert _names(tmp_path) == ["out"]


def test_a_folder_that_was_aside_when_its_writer_died_is_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_folder(path) as temporary:
        (temporary / "old.txt").touch()
        names = temporary.with_suffix(".lock"), temporary.with_suffix(".old")
    # As a kill between the two renames leaves it.
    names[0].touch()
    path.rename(names[1])
    with pytest.raises(_FailureError), whole_folder(path) as temporary:
        _write_half(temporary / "new.txt")
    assert _names(path) == ["old.txt"]
    assert _names(tmp_path) == ["out"]
