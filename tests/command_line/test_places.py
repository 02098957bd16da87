"""Places where nothing can be written, and files that cannot be read: a line each."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.files import check_place, read_json, read_yaml, whole_file, whole_folder, writing
from tests.command_line.small import ROOT, small_config, write
from tests.distributed.test_full_disk import small_disk


def line_of(arguments: list[str], capsys) -> str:
    """Run a verb that must end in a line; root may write anywhere, so no rights are tested."""
    assert main(arguments) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if not one.startswith("Seed")]
    assert line.startswith(f"recemb {arguments[0]}: ")
    return line


@pytest.fixture
def blocked(tmp_path) -> Path:
    """A path that cannot be: what should be its folder is a file."""
    (tmp_path / "file").write_text("x")
    return tmp_path / "file/below/results.json"


VERBS = {
    "fit": ["--config", "c.yaml"], "test": ["--config", "c.yaml"], "plan": ["--config", "c.yaml"],
    "search": ["--config", "c.yaml"], "sweep": ["--config", "c.yaml", "--space", "s.yaml"],
    "compress": ["best.ckpt"], "export": ["best.ckpt"], "index": ["best.ckpt"],
    "recommend": ["best.ckpt"], "kinds": [],
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_place_for_results_is_looked_at_first(verb, blocked, tmp_path, capsys):
    words = [verb, *VERBS[verb]]
    assert "is no folder, got a file there" in line_of([*words, "--json", str(blocked)], capsys)
    assert "must be a file, got a folder" in line_of([*words, f"--json={tmp_path}"], capsys)
    if verb not in ("kinds", "plan"):
        run = str(tmp_path / "file")
        assert f"{run}: must be a folder, got a file" in line_of([*words, "--run", run], capsys)
        assert "is no folder" in line_of([*words, "--run", str(blocked)], capsys)


def test_a_place_that_is_not_there_yet_is_made(tmp_path):
    check_place(tmp_path / "a/b/results.json", is_folder=False)
    check_place(tmp_path / "a/b", is_folder=True)
    assert main(["kinds", "--json", str(tmp_path / "a/b/kinds.json")]) == 0
    assert len(json.loads((tmp_path / "a/b/kinds.json").read_text())) == 22


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("write_one", [whole_file, whole_folder])
def test_what_is_written_names_the_place_and_leaves_nothing(number, write_one, tmp_path):
    path = tmp_path / "result"
    refused = pytest.raises(
        RecembError, match=r"/result: cannot be written \(.+\); make room there"
    )
    with refused, write_one(path):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []
    blocked = tmp_path / "file"
    blocked.write_text("x")
    refused = pytest.raises(RecembError, match=r"file/result: cannot be written \((Not a|File ex)")
    with refused, write_one(blocked / "result"):
        pass


def test_an_error_about_another_file_is_not_about_what_is_written(tmp_path):
    missing = tmp_path / "elsewhere/source.csv"
    with pytest.raises(FileNotFoundError), writing(tmp_path / "results/copy.csv"):
        missing.read_text()


DAMAGED = {
    "binary": (b"\x80\x81\x00\xff", "configuration"),
    "another encoding": ("model: \xe9".encode("latin-1"), "configuration"),
    "no YAML": (b"a: [1,\n", "configuration"),
    "a list": (b"- 1\n", "configuration|section"),
    "a word": (b"hello", "configuration|section|config"),
    "nothing": (b"", "configuration|section|config"),
    "sections that are numbers": (b"model: 3\ndata: 4\n", "model"),
    "deep": (b"[" * 3000, "configuration"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("verb", ["fit", "plan", "search", "sweep"])
def test_a_damaged_configuration_is_a_line(verb, name, tmp_path, capsys):
    content, _ = DAMAGED[name]
    (tmp_path / "c.yaml").write_bytes(content)
    (tmp_path / "s.yaml").write_text("trainer.max_epochs: {int: [1, 2]}\n")
    own = {"sweep": ["--space", str(tmp_path / "s.yaml"), "--n-trials", "1"],
           "search": ["--share", "0.5"]}  # fmt: skip
    run = [] if verb == "plan" else ["--run", str(tmp_path / "run")]
    line_of([verb, "--config", str(tmp_path / "c.yaml"), *run, *own.get(verb, [])], capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [one for one in DAMAGED if one != "sections that are numbers"])
def test_a_damaged_space_is_a_line(name, tmp_path, capsys):
    (tmp_path / "s.yaml").write_bytes(DAMAGED[name][0])
    config = write(small_config(), tmp_path)
    options = ["--space", str(tmp_path / "s.yaml"), "--n-trials", "1"]
    run = ["--run", str(tmp_path / "run")]
    assert "s.yaml" in line_of(["sweep", "--config", config, *options, *run], capsys)


RESULTS = {
    "binary": b"\x80\x81", "no JSON": b"{", "a list": b"[]", "no verb": b"{}",
    "another verb": b'{"verb": 3}', "metrics": b'{"verb": "fit", "metrics": [1]}',
    "a metric": b'{"verb": "fit", "metrics": {"val/auc": "x"}}',
    "tables": b'{"verb": "fit", "tables": {"user": {"kind": "full"}}}',
    "bytes": b'{"verb": "fit", "bytes": 3}', "seconds": b'{"verb": "fit", "seconds": "x"}',
    "run": b'{"verb": "fit", "run": 5}', "null": b'{"verb": null}',
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("verb", ["show", "report"])
def test_damaged_results_are_a_line(verb, name, tmp_path, capsys):
    if verb == "report":
        pytest.importorskip("matplotlib")
    (tmp_path / "results.json").write_bytes(RESULTS[name])
    assert "results.json: " in line_of([verb, str(tmp_path)], capsys)


@pytest.mark.parametrize(
    "content",
    [b"{}", b"[]", b"\xff", b'{"objectives": 1, "trials": []}',
     b'{"objectives": [{"label": "q"}], "trials": []}',
     b'{"objectives": [], "trials": [{"number": 1}]}'],
)  # fmt: skip
def test_a_damaged_list_of_trials_is_a_line(content, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "trials.json").write_bytes(content)
    assert "trials.json: " in line_of(["report", str(tmp_path)], capsys)


def test_files_that_are_no_files(tmp_path):
    for read in (read_yaml, lambda path: read_json(path, "result")):
        with pytest.raises(RecembError, match="there is no such file"):
            read(tmp_path / "none")
        with pytest.raises(RecembError, match="must be a file, got a folder"):
            read(tmp_path)


def test_a_disk_that_is_full_ends_a_training_in_a_line(tmp_path):
    """It has room for the configuration, and none for a checkpoint."""
    disk = tmp_path / "disk"
    disk.mkdir()
    settings = small_config()
    settings["trainer"]["max_epochs"] = 1
    config = write(settings, tmp_path)
    command = f"{sys.executable} -W ignore -m recemb fit --config {config} --run {disk}/run"
    fill = f"head -c 382000 /dev/zero > {disk}/filler"
    script = small_disk(disk, f"{fill}; exec {command}", kilobytes=400)
    ended = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    (line,) = [one for one in ended.stderr.splitlines() if one.startswith("recemb fit: ")]
    assert re.search(r"/disk/run.* (could not be written|No space left on device)", line)
