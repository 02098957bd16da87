"""The verb search, on a click log that is trained on in seconds."""

import json
from pathlib import Path

import pytest
import yaml

from recemb.command_line.main import main
from tests.command_line.small import small_config, write

TABLES = ("user", "item")


def config() -> dict:
    """Plain tables of users and items beside a unified one, which is not searched."""
    found = small_config()
    model = found["model"]["init_args"]
    model["tables"]["shared"]["num_rows"] = 100
    model["tables"] |= {name: {"kind": "full", "dim": 8} for name in TABLES}
    model["features"] |= {name: {"table": name} for name in TABLES}
    found["trainer"]["max_epochs"] = 1
    return found


OPTIONS = [
    "--share", "0.5", "--blocks", "4", "--warm_up", "1", "--epochs", "1", "--draws", "2",
    "--held_out", "0.2", "--forms", "dense", "sparse",
    "--baselines", "full", "uniform", "mixed_dim", "pruning", "random",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished search."""
    folder = tmp_path_factory.mktemp("search")
    path = write(config(), folder)
    assert main(["search", "--config", path, "--run", str(folder / "run"), *OPTIONS]) == 0
    return folder / "run"


def test_everything_is_trained_within_the_budget(run):
    results = json.loads((run / "results.json").read_text())
    budget = results["budget"]
    trained = results["forms"] | results["baselines"]
    assert trained.keys() == {
        "dense", "sparse", "full", "uniform", "mixed_dim", "pruning", "random",
    }  # fmt: skip
    for name, one in trained.items():
        if name == "full":
            assert one["bytes"]["tables"] > budget
        elif "refused" not in one:
            assert one["bytes"]["tables"] <= budget, name
            assert one["metrics"]["test/auc"] > 0.55, name
    for name in ("dense", "sparse", "random"):
        assert trained[name]["bytes"]["tables"] >= 0.99 * budget, name
    assert list(results["kept"]) == ["shared"]


def test_the_found_tables_are_a_configuration_that_fit_takes(run, tmp_path):
    found = yaml.safe_load((run / "tables.yaml").read_text())
    tables = found["model"]["init_args"]["tables"]
    assert {name: one["kind"] for name, one in tables.items()} == {
        "shared": "unified", "user": "selected", "item": "selected",
    }  # fmt: skip
    own = ["--config", str(run / "tables.yaml"), "--run", str(tmp_path / "fit")]
    assert main(["fit", *own]) == 0
    fitted = json.loads((tmp_path / "fit/results.json").read_text())
    searched = json.loads((run / "dense/results.json").read_text())
    assert fitted["tables"] == searched["tables"]
    exported = ["--run", str(tmp_path / "export"), "--output", str(tmp_path / "model.pt")]
    assert main(["export", str(tmp_path / "fit/checkpoints/best.ckpt"), *exported]) == 0
