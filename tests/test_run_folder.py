"""Run folders: one run at a time, and nothing left of one that was refused."""

import os
from pathlib import Path

import pytest

from recemb.errors import RecembError
from recemb.run_folder import RunFolder


def test_a_folder_is_one_runs_whose_process_is_named(tmp_path: Path) -> None:
    own = RunFolder(tmp_path / "run", "fit")
    with pytest.raises(RecembError, match=f"in use by process {os.getpid()} on .* since "):
        RunFolder(tmp_path / "run", "fit", begin="resumed")
    own.close()
    RunFolder(tmp_path / "run", "fit").close()
    assert not (tmp_path / "run").exists()


def test_nothing_is_left_of_a_run_that_came_to_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", "fit") as folder:
        (folder / "config.yaml").write_text("")
        (folder / "csv").mkdir()
        (folder / "csv/metrics.csv").write_text("")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "results.json"])
def test_what_came_of_a_run_stays(name: str, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", "fit") as folder:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    assert [one.name for one in (tmp_path / "run").iterdir()] == [Path(name).parts[0]]


@pytest.mark.parametrize(
    ("begin", "files", "says"),
    [
        ("new", ["notes.txt"], "the run folder is not empty; name a new one"),
        ("resumed", ["notes.txt"], "the folder is of no run; name another one"),
        ("resumed", ["config.yaml", "results.json"], "the run has ended; name a new one"),
        ("resumed", ["config.yaml"], None),
        ("any", ["notes.txt"], None),
        # What a process that was killed before it had written anything leaves.
        ("new", [".run.lock", ".config.yaml.0123.part"], None),
        ("resumed", [".run.lock", ".config.yaml.0123.part"], None),
    ],
)
def test_what_a_folder_may_hold(
    begin: str, files: list[str], says: str | None, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).write_text("")
    if says is None:
        RunFolder(tmp_path, "fit", begin=begin).close()  # type: ignore[arg-type]
        return
    with pytest.raises(RecembError, match=says):
        RunFolder(tmp_path, "fit", begin=begin)  # type: ignore[arg-type]
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(files)


def test_two_runs_without_a_name_have_a_folder_each(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder(None, "fit", "shop"), RunFolder(None, "fit", "shop")
    assert first.path != second.path
    first.close()
    second.close()
