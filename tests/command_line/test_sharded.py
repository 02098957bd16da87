"""The verbs of training on several processes, started as a user starts them."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch

from recemb.checkpoint import read_checkpoint
from recemb.command_line.main import main
from tests.command_line.launch import torchrun
from tests.command_line.small import small_config, write

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torchrun on Linux")


def sharded_config() -> dict:
    """The small configuration without dropout, which draws other numbers in other processes."""
    config = small_config()
    network = config["model"]["init_args"]["network"]
    assert network["activation"] == network["attention_activation"] == "dice"
    assert network["decay"]
    network["dropout"] = 0.0
    config["trainer"] |= {"max_epochs": 2, "log_every_n_steps": 1}
    return config


def losses(run: Path) -> list[float]:
    """Return the logged training losses."""
    with (run / "csv/metrics.csv").open() as file:
        return [
            float(row["train/logloss"]) for row in csv.DictReader(file) if row.get("train/logloss")
        ]


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run of one process, ``one``, and one of two, ``two``."""
    folder = tmp_path_factory.mktemp("sharded")
    config = write(sharded_config(), folder)
    assert main(["fit", "--config", config, "--run", str(folder / "one")]) == 0
    torchrun(
        2, "fit", "--config", config, "--trainer.strategy", "torchrec", "--run", str(folder / "two")
    )
    return folder


def test_two_processes_train_what_one_trains(folder):
    one, two = losses(folder / "one"), losses(folder / "two")
    assert len(one) > 20
    assert two == pytest.approx(one, rel=1e-5)
    for name, value in results(folder / "one")["metrics"].items():
        assert results(folder / "two")["metrics"][name] == pytest.approx(value, abs=1e-5), name


def test_two_processes_report_what_one_reports(folder):
    one, two = results(folder / "one"), results(folder / "two")
    assert two["tables"] == one["tables"]
    more = torch.get_rng_state().numel()  # of the second process
    assert two["bytes"]["checkpoint"] - more == pytest.approx(one["bytes"]["checkpoint"], rel=1e-3)
    for name in ("training", "serving"):
        assert two["bytes"][name] == pytest.approx(one["bytes"][name], rel=1e-2)


def test_a_checkpoint_of_two_processes_is_one_of_any_number(folder, tmp_path):
    saved = [read_checkpoint(folder / name / "checkpoints/last.ckpt") for name in ("one", "two")]
    for entry in ("state_dict", "rows_optimizer"):
        one, two = (checkpoint[entry] for checkpoint in saved)
        assert set(one) == set(two)
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    config = write(
        {**sharded_config(), "trainer": {**sharded_config()["trainer"], "max_epochs": 3}}, tmp_path
    )
    for name in ("one", "two"):
        last = str(folder / name / "checkpoints/last.ckpt")
        options = ["--config", config, "--ckpt_path", last, "--run", str(tmp_path / name)]
        assert main(["fit", *options]) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    last = str(folder / "one/checkpoints/last.ckpt")
    torchrun(
        2,
        "fit",
        "--config",
        config,
        "--ckpt_path",
        last,
        "--trainer.strategy",
        "torchrec",
        "--run",
        str(tmp_path / "again"),
    )
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_a_mistake_is_a_line_and_no_hang(folder, tmp_path):
    config = sharded_config()
    config["model"]["init_args"]["tables"]["shared"]["dim"] = 0
    ended = torchrun(
        2, "fit", "--config", write(config, tmp_path), "--trainer.strategy", "torchrec", check=False
    )
    assert ended.returncode
    line = "recemb fit: table 'shared': dim must be at least 1, got 0"
    assert ended.stderr.count(line) == 1
