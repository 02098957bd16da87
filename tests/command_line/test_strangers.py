"""Checkpoints of strangers: whatever their configuration says, nothing of theirs is imported."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recemb.checkpoint import WholeFileIO, checkpoint_config, read_checkpoint
from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.rebuild import rebuild_data, rebuild_model
from tests.command_line.small import ROOT, trained  # noqa: F401

NAME = "stranger.Evil"
FORMS: list[Any] = [
    NAME,
    "class_path: stranger.Evil",
    "[stranger.Evil]",
    '{"class\\x5fpath": "stranger.Evil", "init_args": {}}',
    {"class_path": NAME},
    {"init_args.network.class_path": NAME},
    {"x": "[{class_path: stranger.Evil}]"},
    {"__path__": "stranger.yaml"},
    "stranger.yaml",
    "stranger.txt",
    "models.din.stranger.Evil",
    "recemb.__main__.run",
]
"""Ways to name a class, or a file that does."""
PLACES = [
    "model",
    "model.init_args.tables.shared",
    "model.init_args.features",
    "model.init_args.network",
    "model.init_args.rows_optimizer",
    "data",
    "data.init_args.log",
]


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Put a module in reach that records its import, and the files that name it."""
    ran = tmp_path / "ran"
    (tmp_path / "stranger.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
    (tmp_path / "stranger.yaml").write_text(f"class_path: {NAME}\n")
    (tmp_path / "stranger.txt").write_text(f"{NAME}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield ran.exists
    sys.modules.pop("stranger", None)


def changed(config: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a configuration with another value at a place."""
    new = copy.deepcopy(config)
    *parents, last = place.split(".")
    inner = new
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return new


def strange(checkpoint: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """Return a checkpoint whose configuration has another value at a place."""
    config = changed(checkpoint_config(checkpoint), place, value)
    header = {**checkpoint["recemb"], "config": yaml.safe_dump(config, sort_keys=False)}
    return {**checkpoint, "recemb": header}


@pytest.fixture
def checkpoint(trained):  # noqa: F811
    return read_checkpoint(trained / "checkpoints/best.ckpt")


READ: list[str] = []
"""Files named like the stranger's that Python has opened."""
sys.addaudithook(
    lambda event, given: (
        READ.append(str(given[0]))
        if event == "open" and str(given[0]).endswith(("stranger.yaml", "stranger.txt"))
        else None
    )
)


def rebuild_section(name: str, theirs: dict[str, Any]) -> None:
    if name == "model":
        rebuild_model(Path("theirs.ckpt"), theirs)
    else:
        rebuild_data(Path("theirs.ckpt"), theirs, checkpoint_config(theirs)["data"])


@pytest.mark.parametrize("place", PLACES)
def test_no_value_at_any_place_makes_anything_be_imported_or_read(place, checkpoint, imported):
    READ.clear()
    for value in FORMS:
        theirs = strange(checkpoint, place, value)
        with pytest.raises(RecembError) as refused:
            rebuild_section(place.split(".")[0], theirs)
        assert "\n" not in str(refused.value)
        assert not imported(), value
        assert READ == [], value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("data.init_args.log", [1, 2]),
        ("data.init_args.log", 3.5),
        ("data.init_args.log.num_items", None),
        ("data.init_args.batch_size", None),
        ("data.init_args", [1]),
        ("model.init_args.tables", [1]),
        ("model.init_args.features", {"item": None}),
        ("model.init_args.learning_rate", None),
    ],
)
def test_a_setting_of_another_shape_is_refused_in_a_line(place, value, checkpoint):
    with pytest.raises(RecembError, match=r"^theirs.ckpt: ") as refused:
        rebuild_section(place.split(".")[0], strange(checkpoint, place, value))
    assert "\n" not in str(refused.value)


def verbs(checkpoint: str, config: str) -> dict[str, list[str]]:
    """Return every verb that reads a checkpoint, with its options."""
    measured = ["--config", config, "--ckpt_path", checkpoint]
    return {
        **{verb: [verb, *measured] for verb in ("fit", "validate", "test", "predict")},
        "warm start": ["fit", "--config", config, "--warm_start", checkpoint],
        "compress": ["compress", checkpoint, "--method", "int8"],
        "export": ["export", checkpoint],
        "index": ["index", checkpoint],
        "recommend": ["recommend", checkpoint, "--users", "1"],
    }


@pytest.mark.parametrize("verb", verbs("", ""))
def test_every_verb_refuses_a_class_from_elsewhere(
    verb,
    checkpoint,
    trained,  # noqa: F811
    imported,
    tmp_path,
    capsys,
):
    path = tmp_path / "theirs.ckpt"
    theirs = strange(checkpoint, "model.init_args.rows_optimizer", NAME)
    WholeFileIO().save_checkpoint(theirs, str(path))
    words = verbs(str(path), str(trained.parent / "config.yaml"))[verb]
    assert main([*words, "--run", str(tmp_path / "run")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not imported()


def test_rebuilding_leaves_the_configuration_as_it_is(checkpoint):
    settings = checkpoint_config(checkpoint)["data"]
    before = copy.deepcopy(settings)
    rebuild_data(Path("own.ckpt"), checkpoint, settings)
    assert settings == before


def test_a_package_that_is_allowed_is_imported(checkpoint, imported):
    theirs = strange(checkpoint, "model.class_path", NAME)
    with pytest.raises(RecembError, match="pass --allow stranger if you trust it"):
        rebuild_model(Path("theirs.ckpt"), theirs)
    assert not imported()
    # It is no model, which only shows once it was imported.
    with pytest.raises(RecembError, match="does not fit"):
        rebuild_model(Path("theirs.ckpt"), theirs, ["stranger"])
    assert imported()


def test_the_name_of_an_allowed_package_must_be_one(checkpoint):
    with pytest.raises(RecembError, match="must be the name of a package, got 'my-models'"):
        rebuild_model(Path("own.ckpt"), checkpoint, ["my-models"])


def test_the_current_folder_is_not_looked_in(trained, tmp_path):  # noqa: F811
    """Neither for what a checkpoint names nor for the project's own packages."""
    for package in ("models", "data"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"open('ran-{package}', 'w').close()")
    command = [sys.executable, "-W", "ignore", "-m", "recemb", "export"]
    ended = subprocess.run(
        [*command, str(trained / "checkpoints/best.ckpt"), "--run", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("ran-*"))
