"""``fit --warm_start``, as a user types it."""

import copy
import json
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from recemb.checkpoint import read_checkpoint
from recemb.command_line.main import main
from tests.command_line.small import write
from tests.command_line.test_mistakes import ROWS, tiny_config
from tests.command_line.test_sharded import torchrun

GROWN = {
    **ROWS,
    # 8 users become 9, of which the last was not there; user 2 is now the most frequent one.
    "user": [1, 2, 2, 2, 5, 6, 7, 9] * 8,
}


def folder_of(path: Path, rows: dict) -> Path:
    path.mkdir()
    for stage in ("train", "validation", "test"):
        pl.DataFrame(rows).write_parquet(path / f"{stage}.parquet")
    return path


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A folder with a trained run, ``run``."""
    folder = folder_of(tmp_path_factory.mktemp("begun") / "data", ROWS)
    config = write(tiny_config(folder), folder)
    assert main(["fit", "--config", config, "--run", str(folder.parent / "run")]) == 0
    return folder.parent


def grown_config(tmp_path: Path) -> dict:
    config = tiny_config(folder_of(tmp_path / "data", GROWN))
    # So small a rate that one epoch leaves everything where it was.
    config["model"]["init_args"] |= {
        "learning_rate": 1e-12,
        "rows_optimizer": {"kind": "adam", "learning_rate": 1e-12},
    }
    return config


def fit(config: dict, tmp_path: Path, *options: str) -> Path:
    run = tmp_path / "run"
    assert main(["fit", "--config", write(config, tmp_path), "--run", str(run), *options]) == 0
    return run


def saved(run: Path) -> dict:
    return read_checkpoint(run / "checkpoints/last.ckpt")


def index_of(checkpoint: dict, space: str) -> dict[int, int]:
    """Raw id to index, from what the checkpoint says of its vocabulary."""
    (own,) = [one for one in checkpoint["recemb"]["schema"]["vocabularies"] if one["name"] == space]
    return dict(zip(own["keys"].tolist(), own["index"].tolist(), strict=True))


def test_a_model_on_grown_data_goes_on_from_what_is_known(begun, tmp_path, capsys):
    best = str(begun / "run/checkpoints/last.ckpt")
    run = fit(grown_config(tmp_path), tmp_path, "--warm_start", best)
    printed = capsys.readouterr().out
    lines = [line.split(maxsplit=2) for line in printed.splitlines() if line.startswith("table ")]
    said = {name: text for _, name, text in lines[:2]}
    assert said == {
        "user": "moved, 5 of 6 ids (3 dropped), optimizer state kept",
        "item": "unchanged, 4 of 4 ids, optimizer state kept",
    }
    old, new = torch.load(best, weights_only=True), saved(run)
    there, here = index_of(old, "user"), index_of(new, "user")
    assert set(here) - set(there) == {9}
    assert [there[2], here[2]] == [1, 0]
    for raw in (1, 2, 5, 6, 7):
        row = new["state_dict"]["embeddings.rows.user"][here[raw]]
        wanted = old["state_dict"]["embeddings.rows.user"][there[raw]]
        assert torch.allclose(row, wanted, atol=1e-9, rtol=0)
    # The optimizer's count goes on: 4 batches there and 4 here.
    assert int(new["rows_optimizer"]["step"]) == 8
    for name, tensor in old["state_dict"].items():
        if name.endswith("weight"):
            assert torch.allclose(new["state_dict"][name], tensor, atol=1e-9, rtol=0), name
    results = json.loads((run / "results.json").read_text())["warm_start"]
    assert results["checkpoint"] == best
    assert results["tables"]["user"] == {
        "level": "moved", "known": 5, "num_ids": 6, "dropped": 3, "error": 0.0,
        "optimizer_state": True, "notes": [],
    }  # fmt: skip
    assert results["dense"]["fresh"] == {}
    dense = {name for name in old["state_dict"] if not name.startswith("embeddings.")}
    assert set(results["dense"]["kept"]) == dense
    assert yaml.safe_load((run / "config.yaml").read_text())["warm_start"] == best
    assert new["epoch"] == 0


def test_another_kind_is_fitted_and_another_width_named(begun, tmp_path, capsys):
    config = grown_config(tmp_path)
    tables = config["model"]["init_args"]["tables"]
    tables["user"] = {"kind": "hashed", "dim": 4, "num_rows": 3}
    tables["item"] = {"kind": "full", "dim": 6}
    run = fit(config, tmp_path, "--warm_start", str(begun / "run/checkpoints/best.ckpt"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "table item fresh; the model saw 4 elements of it and sees 6" in printed
    assert "table user fitted, 5 of 6 ids (3 dropped), error 0." in printed
    found = json.loads((run / "results.json").read_text())["warm_start"]
    assert 0 < found["tables"]["user"]["error"] < 1
    assert not found["tables"]["user"]["optimizer_state"]
    assert found["tables"]["item"]["level"] == "fresh"
    # user 4 | 2 items of 4 | price: 13 wide there, 17 here.
    widths = [why for why in found["dense"]["fresh"].values() if " x 13 there" in why]
    assert len(widths) == 1
    assert widths[0].endswith(" x 17 here")
    assert widths[0] in printed


def test_raw_ids_are_read_from_the_training_file(tmp_path, capsys):
    config = tiny_config(folder_of(tmp_path / "data", ROWS))
    config["data"]["init_args"]["categorical"]["user"] = {"raw": True}
    tables = config["model"]["init_args"]["tables"]
    tables["user"] = {"kind": "hashed", "dim": 4, "num_rows": 50}
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    run = fit(config, first)
    tables["user"]["num_rows"] = 3
    capsys.readouterr()
    fit(config, second, "--warm_start", str(run / "checkpoints/best.ckpt"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "table user fitted, 8 of 8 ids, error 0." in printed


def test_a_configuration_that_names_a_warm_start_serves_the_other_verbs(begun, tmp_path):
    best = str(begun / "run/checkpoints/best.ckpt")
    run = fit(grown_config(tmp_path), tmp_path, "--warm_start", best)
    config, own = str(run / "config.yaml"), str(run / "checkpoints/best.ckpt")
    options = ["--config", config, "--ckpt_path", own]
    assert main(["test", *options, "--run", str(tmp_path / "measured")]) == 0
    again = ["--warm_start", "null", "--run", str(tmp_path / "again"), "--trainer.max_epochs", "2"]
    assert main(["fit", *options, *again]) == 0


def test_a_compressed_checkpoint_has_no_optimizer_state(begun, tmp_path, capsys):
    small = tmp_path / "small.ckpt"
    options = ["--method", "fp16", "--output", str(small), "--run", str(tmp_path / "compress")]
    assert main(["compress", str(begun / "run/checkpoints/best.ckpt"), *options]) == 0
    capsys.readouterr()
    run = fit(grown_config(tmp_path), tmp_path, "--warm_start", str(small))
    printed = " ".join(capsys.readouterr().out.split())
    assert "table user moved, 5 of 6 ids (3 dropped), optimizer state fresh table item" in printed
    old, new = torch.load(small, weights_only=True), saved(run)
    there, here = index_of(old, "user"), index_of(new, "user")
    for raw in (1, 2, 5, 6, 7):
        row = new["state_dict"]["embeddings.rows.user"][here[raw]]
        wanted = old["state_dict"]["embeddings.rows.user"][there[raw]].float()
        assert torch.allclose(row, wanted, atol=1e-9, rtol=0)


def mistake(config: dict, tmp_path: Path, capsys, *options: str) -> str:
    run = tmp_path / "refused"
    capsys.readouterr()
    assert main(["fit", "--config", write(config, tmp_path), "--run", str(run), *options]) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, printed.err
    assert not run.exists() or not list(run.rglob("*.ckpt"))
    return lines[0]


def test_mistakes(begun, tmp_path, capsys):
    best = str(begun / "run/checkpoints/best.ckpt")
    config = grown_config(tmp_path)
    line = mistake(config, tmp_path, capsys, "--warm_start", best, "--ckpt_path", best)
    assert "--ckpt_path goes on with a training and --warm_start begins another, got both" in line
    line = mistake(config, tmp_path, capsys, "--warm_start", str(tmp_path / "none.ckpt"))
    assert "none.ckpt: there is no such checkpoint" in line


def test_a_checkpoint_that_shares_nothing_is_refused(begun, tmp_path, capsys):
    config = grown_config(tmp_path)
    model = config["model"]["init_args"]
    for table in model["tables"].values():
        table["dim"] = 7
    config["model"] = {
        "class_path": "recemb.models.deepfm.DeepFM",
        "init_args": {name: model[name] for name in ("tables", "features")},
    }
    del config["data"]["init_args"]["dense"]
    best = str(begun / "run/checkpoints/best.ckpt")
    line = mistake(copy.deepcopy(config), tmp_path, capsys, "--warm_start", best)
    assert "best.ckpt: it has nothing that this model could start from" in line
    assert "table user: fresh; the model saw 4 elements of it and sees 7" in line


def test_several_processes_take_over_what_one_does(begun, tmp_path):
    config = grown_config(tmp_path)
    model = config["model"]["init_args"]
    model["tables"]["user"]["sharding"] = "row_wise"
    model["tables"]["item"] = {"kind": "dpq", "dim": 4, "num_parts": 2, "num_keys": 2}
    model["network"] |= {"activation": "prelu", "attention_activation": "prelu"}
    options = ["--warm_start", str(begun / "run/checkpoints/best.ckpt")]
    one = fit(config, tmp_path, *options)
    two = tmp_path / "two"
    command = ["fit", "--config", str(tmp_path / "config.yaml"), "--run", str(two), *options]
    torchrun(2, *command, "--trainer.strategy", "torchrec")
    found = [json.loads((run / "results.json").read_text()) for run in (one, two)]
    for table in ("user", "item"):
        ours, theirs = (one["warm_start"]["tables"][table] for one in found)
        assert theirs == {**ours, "error": pytest.approx(ours["error"], rel=1e-4)}
    ours, theirs = saved(one), saved(two)
    for name in ("user", "item"):
        key = f"embeddings.rows.{name}"
        assert torch.allclose(theirs["state_dict"][key], ours["state_dict"][key], atol=1e-5)
    for key in ("user/mean", "user/square"):
        assert torch.allclose(
            theirs["rows_optimizer"][key], ours["rows_optimizer"][key], atol=1e-6
        ), key
