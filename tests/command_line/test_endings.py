"""Trainings that end early, that go on, and that may not; on a small file of clicks."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recemb.command_line.main import main
from tests.command_line.launch import ONE_THREAD
from tests.command_line.small import ROOT

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*logging interval", "ignore:Be aware that when using `ckpt_path`"
)
# Of 200 rows and batches of 25: an epoch has 8 steps.
STOP = "lightning.pytorch.callbacks.EarlyStopping"
DECAY = "recemb.learning_rate_decay.LearningRateDecay"


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> Path:
    """Three files; ``zeros.csv`` has one class."""
    folder = tmp_path_factory.mktemp("clicks")
    draw = np.random.default_rng(1)
    for name, count in (("train", 200), ("validation", 60), ("test", 60), ("zeros", 60)):
        user, item = draw.integers(0, 12, count), draw.integers(0, 9, count)
        label = (user + item) % 2 * (name != "zeros")
        pl.DataFrame({"y": label, "user": user, "item": item}).write_csv(folder / f"{name}.csv")
    return folder


def config(clicks: Path, data: dict[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    tables = {name: {"kind": "full", "dim": 4} for name in ("user", "item")}
    return {
        "model": {
            "class_path": "recemb.models.dcn.DCN",
            "init_args": {
                "tables": tables,
                "features": {name: {"table": name} for name in tables},
                "network": {"hidden": [8]},
            },
        },
        "data": {
            "class_path": "recemb.data.tabular.Tabular",
            "init_args": {
                "folder": str(clicks),
                "train": "train.csv",
                "validation": "validation.csv",
                "test": "test.csv",
                "label": "y",
                "categorical": {"user": {}, "item": {}},
                "batch_size": 25,
                **(data or {}),
            },
        },
        "trainer": {"max_epochs": 2, "enable_progress_bar": False, "logger": False, **trainer},
    }


def run(settings: dict[str, Any], folder: Path, *options: str, verb: str = "fit") -> int:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return main([verb, "--config", str(path), "--run", str(folder), *options])


def results(folder: Path) -> dict[str, Any]:
    def no(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "results.json").read_text(), parse_constant=no)


def last(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return found


@pytest.fixture(scope="module")
def whole(clicks, tmp_path_factory) -> Path:
    """A training of 16 steps that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(config(clicks), folder) == 0
    return folder


@pytest.mark.parametrize("is_validated", [True, False])
def test_a_training_that_ends_inside_an_epoch_goes_on_there(
    is_validated, clicks, whole, tmp_path, capsys
):
    data = {} if is_validated else {"validation": None}
    first, rest = tmp_path / "first", tmp_path / "rest"
    assert run(config(clicks, data, max_steps=11), first) == 0
    assert last(first)["global_step"] == 11
    assert ("val/auc" in results(first)["metrics"]) is is_validated
    assert "test/auc" in results(first)["metrics"]
    options = ["--ckpt_path", str(first / "checkpoints/last.ckpt")]
    assert run(config(clicks, data), rest, *options) == 0
    assert "trainer.max_steps was 11 and is -1" in capsys.readouterr().out
    ours, theirs = last(rest), last(whole)
    assert ours["global_step"] == theirs["global_step"] == 16
    for part in ("state_dict", "rows_optimizer"):
        for name, tensor in theirs[part].items():
            assert torch.equal(ours[part][name], tensor), name


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"fast_dev_run": True}, 1),
        ({"limit_train_batches": 3}, 6),
        ({"check_val_every_n_epoch": 5}, 16),
        ({"limit_val_batches": 0}, 16),
    ],
)
def test_what_was_trained_is_kept(trainer, steps, clicks, tmp_path):
    folder = tmp_path / "run"
    assert run(config(clicks, **trainer), folder) == 0
    assert last(folder)["global_step"] == steps
    assert Path(results(folder)["checkpoint"]).name == "best.ckpt"


def test_an_early_end_is_the_end_of_a_run_that_was_killed_after_it(clicks, tmp_path, capsys):
    stopping = {"class_path": STOP, "init_args": {"monitor": "val/auc", "mode": "max"}}
    stopping["init_args"] |= {"patience": 1, "stopping_threshold": 0.0}  # so after an epoch
    settings, folder = config(clicks, callbacks=[stopping]), tmp_path / "run"
    assert run(settings, folder) == 0
    before = results(folder)
    (folder / "results.json").unlink()
    assert run(settings, folder, "--resume") == 0
    assert "had ended; nothing is trained" in capsys.readouterr().out
    assert last(folder)["global_step"] == 8
    for name in ("metrics", "epochs", "checkpoint"):
        assert results(folder)[name] == before[name]


@pytest.mark.parametrize(
    ("data", "trainer", "options", "says"),
    [
        ({"batch_size": 50}, {}, [], "data.init_args.batch_size was 25 and is 50 here"),
        ({}, {}, ["--seed_everything", "2"], "data.init_args.seed (seed_everything) was 1"),
        ({"train": "test.csv"}, {}, [], "the number of training rows was 200 and is 60 here"),
        ({}, {"callbacks": [{"class_path": DECAY}]}, [], "the checkpoint's training had none"),
    ],
)
def test_what_cannot_go_on_is_refused_and_leaves_no_folder(
    data, trainer, options, says, clicks, whole, tmp_path, capsys
):
    settings = config(clicks, data, **{"max_epochs": 3, **trainer})
    path = str(whole / "checkpoints/last.ckpt")
    assert run(settings, tmp_path / "run", "--ckpt_path", path, *options) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_schedule_does_not_go_on_as_another_one(clicks, tmp_path, capsys):
    settings = config(clicks, callbacks=[{"class_path": DECAY}], max_steps=3)
    assert run(settings, tmp_path / "first") == 0
    path = str(tmp_path / "first/checkpoints/last.ckpt")
    del settings["trainer"]["max_steps"]
    assert run(settings, tmp_path / "second", "--ckpt_path", path) == 2
    assert "steps in all was 3 where the training began and is 16" in capsys.readouterr().err
    assert run(config(clicks), tmp_path / "third", "--ckpt_path", path) == 2
    assert "trainer.callbacks has no LearningRateDecay here" in capsys.readouterr().err


def test_one_class_has_no_auc_and_says_so(clicks, tmp_path, capsys):
    data = {"validation": "zeros.csv", "test": "zeros.csv"}
    assert run(config(clicks, data), tmp_path / "run") == 0
    found = results(tmp_path / "run")
    assert {name for name, value in found["metrics"].items() if value is None} == {
        "val/auc",
        "test/auc",
    }
    assert "the best epoch is chosen by val/logloss" in capsys.readouterr().out
    stopping = {"class_path": STOP, "init_args": {"monitor": "val/auc", "mode": "max"}}
    assert run(config(clicks, data, callbacks=[stopping]), tmp_path / "stopped") == 2
    assert "val/auc is not defined: all 60 labels are 0" in capsys.readouterr().err


def test_a_training_that_diverges_ends_with_its_step(clicks, tmp_path, capsys):
    options = ["--model.init_args.learning_rate", "1e20"]
    assert run(config(clicks), tmp_path / "run", *options) == 2
    line = capsys.readouterr().err
    assert "recemb fit: training diverged at step " in line
    assert "the learning rate is 1e+20" in line
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_train_in_one_folder(clicks, tmp_path):
    folder = tmp_path / "run"
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config(clicks, max_epochs=10_000), sort_keys=False))
    command = [sys.executable, "-W", "ignore", "-m", "recemb", "fit", "--config", str(path)]
    command += ["--run", str(folder), "--resume"]
    with subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD) as first:
        try:
            while not (folder / "checkpoints/last.ckpt").exists():
                assert first.poll() is None
                time.sleep(0.05)
            second = subprocess.run(
                command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=120
            )
            assert first.poll() is None
        finally:
            first.kill()
    assert second.returncode == 2
    (line,) = second.stderr.strip().splitlines()
    assert f"{folder}: the run folder is in use by process {first.pid} on " in line


def test_data_without_a_test_file(clicks, tmp_path, capsys):
    settings = config(clicks, {"test": None})
    assert run(settings, tmp_path / "run") == 0
    assert set(results(tmp_path / "run")["metrics"]) == {"val/auc", "val/logloss"}
    best = str(tmp_path / "run/checkpoints/best.ckpt")
    for verb in ("test", "predict"):
        assert run(settings, tmp_path / verb, "--ckpt_path", best, verb=verb) == 2
        assert "the data has no test file" in capsys.readouterr().err
        assert not (tmp_path / verb).exists()
