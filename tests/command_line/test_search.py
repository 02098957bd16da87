"""The verb search, on a click log that is trained on in seconds."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from recemb.command_line.main import main
from tests.command_line.small import ROOT, small_config, write

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
    "--share", "0.5", "--blocks", "20", "--block_ids", "20", "--warm_up", "1", "--epochs", "1",
    "--draws", "2",
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


def test_what_was_searched_is_what_is_written_and_nothing_is_done_twice(run, tmp_path, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*.ckpt")}
    assert len(before) == 2 * 8
    path = str(run.parent / "config.yaml")
    assert main(["search", "--config", path, "--run", str(run), "--resume", *OPTIONS]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("*/checkpoints/*.ckpt")} == before


def searched(folder: Path, **files: Path) -> dict:
    """Search on given files and return what was derived."""
    found = config()
    found["data"] = {
        "class_path": "data.tabular.Tabular",
        "init_args": {
            "folder": "/",
            "label": "label",
            "categorical": {"user": {}, "item": {}},
            "batch_size": 64,
            **{name: str(path)[1:] for name, path in files.items()},
        },
    }
    model = found["model"] = {
        "class_path": "models.deepfm.DeepFM",
        "init_args": {
            "tables": {name: {"kind": "full", "dim": 4} for name in TABLES},
            "features": {name: {"table": name} for name in TABLES},
            "network": {"hidden": [8]},
        },
    }
    assert model["init_args"]["tables"]
    folder.mkdir()
    own = ["--config", write(found, folder), "--run", str(folder / "run")]
    options = ["--share", "0.5", "--block_ids", "5", "--warm_up", "1", "--epochs", "1"]
    assert main(["search", *own, *options]) == 0
    return json.loads((folder / "run/derived.json").read_text())


def test_validation_and_test_never_steer(tmp_path):
    generator = np.random.default_rng(1)
    user, item = generator.integers(0, 40, 3000), generator.integers(0, 30, 3000)
    rows = pl.DataFrame({"user": user, "item": item, "label": (user + item) % 2})
    rows[:2000].write_parquet(tmp_path / "train.parquet")
    rows[2000:].write_parquet(tmp_path / "rest.parquet")
    flipped = rows[2000:].with_columns(label=1 - pl.col("label"))
    flipped.write_parquet(tmp_path / "flipped.parquet")
    train = tmp_path / "train.parquet"
    found = [
        searched(tmp_path / f"by {name}", train=train, validation=other, test=other)
        for name in ("rest", "flipped")
        for other in [tmp_path / f"{name}.parquet"]
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--budget", "1"], "a budget of 1 bytes is too small for the tables that are searched"),
        (["--budget", "1 kB", "--held_out", "1.5"], "the share held out must be above 0 and below"),
        (["--budget", "1 kB", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["--budget", "1 kB", "--every", "0"], "every must be at least 1, got 0"),
        (["--budget", "1 kB", "--resume"], "resume: it needs the folder that --run names"),
    ],
)
def test_mistakes_end_in_one_line(change, message, tmp_path, capsys, monkeypatch):
    found = config()
    found["model"]["init_args"]["tables"].pop("shared")
    found["model"]["init_args"]["features"] = {
        name: one
        for name, one in found["model"]["init_args"]["features"].items()
        if one["table"] != "shared"
    }
    found["model"]["init_args"].pop("history", None)
    monkeypatch.chdir(ROOT)
    path = write(found, tmp_path)
    run = [] if "--resume" in change else ["--run", str(tmp_path / "run")]
    quick = [] if "--epochs" in change else ["--epochs", "1"]
    assert main(["search", "--config", path, *run, "--warm_up", "0", *quick, *change]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("recemb")]
    assert line.startswith("recemb search: ")
    assert message in line


def test_tables_that_cannot_be_searched_are_named(tmp_path, capsys):
    found = config()
    for name in TABLES:
        found["model"]["init_args"]["tables"][name] |= {"share": 0.5}
    own = ["--config", write(found, tmp_path), "--run", str(tmp_path / "run")]
    assert main(["search", *own, "--budget", "1 kB"]) == 2
    assert "'user': it has a budget of its own" in capsys.readouterr().err
