"""A dynamic table of raw ids, trained, resumed, exported and sharded as a user does it."""

import csv
import json
from pathlib import Path

import pytest
import torch

from recemb.command_line.main import main
from tests.command_line.small import write
from tests.command_line.test_sharded import losses, results, sharded_config, torchrun


def dynamic_config() -> dict:
    """Return a configuration whose users are raw ids, more than there are rows for them."""
    config = sharded_config()
    model = config["model"]["init_args"]
    model["tables"]["ids"] = {
        "kind": "dynamic", "dim": 8, "num_rows": 200, "every": 7, "decay": 0.9,
    }  # fmt: skip
    model["features"]["user"] = {"table": "ids"}
    config["data"]["init_args"]["categorical"]["user"] = {"raw": True}
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run of one process, ``one``, with its checkpoints of some steps."""
    folder = tmp_path_factory.mktemp("dynamic")
    config = dynamic_config()
    arguments = {"dirpath": str(folder / "steps"), "every_n_train_steps": 5, "save_top_k": -1}
    config["trainer"]["callbacks"] = [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {**arguments, "filename": "{step}"},
        }
    ]
    assert main(["fit", "--config", write(config, folder), "--run", str(folder / "one")]) == 0
    return folder


def saved(run: Path) -> dict:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def test_counts_are_reported_by_epoch_and_at_the_end(folder, capsys):
    table = results(folder / "one")["tables"]["ids"]
    assert table["kind"] == "dynamic"
    # 180 rows of their own for 400 users: all are taken, and some have changed hands.
    assert table["known"] == 180
    assert table["admitted"] - table["evicted"] == 180
    assert table["evicted"] > 0
    # Half of the users have rows, and not the coldest.
    assert 0.4 < table["hits"] < 0.8
    with (folder / "one/csv/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("ids/hits")]
    assert [float(row["ids/known"]) for row in rows] == [180, 180]
    assert 0 < float(rows[0]["ids/hits"]) < float(rows[1]["ids/hits"])
    assert main(["show", str(folder / "one")]) == 0
    assert f"180 ids known by {table['hits']:.1%} of reads" in capsys.readouterr().out


# The resuming run does without the callback that wrote a checkpoint every five steps.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("step", [5, 20, 25])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(folder, tmp_path, step):
    last = str(folder / "steps" / f"step={step}.ckpt")
    options = ["--config", write(dynamic_config(), tmp_path), "--ckpt_path", last]
    assert main(["fit", *options, "--run", str(tmp_path / "b")]) == 0
    ours, theirs = saved(tmp_path / "b"), saved(folder / "one")
    for part in ("state_dict", "rows_optimizer"):
        assert list(ours[part]) == list(theirs[part])
        for name, tensor in theirs[part].items():
            assert torch.equal(ours[part][name], tensor), name


def test_two_processes_hold_the_map_of_one(folder, tmp_path):
    config = write(dynamic_config(), tmp_path)
    strategy = ["--trainer.strategy", "torchrec"]
    torchrun(2, "fit", "--config", config, *strategy, "--run", str(tmp_path / "two"))
    assert losses(tmp_path / "two") == pytest.approx(losses(folder / "one"), rel=1e-5)
    ours, theirs = saved(tmp_path / "two"), saved(folder / "one")
    names = [name for name in theirs["state_dict"] if ".learned." in name]
    assert len(names) == 11
    for name in names:
        assert torch.equal(ours["state_dict"][name], theirs["state_dict"][name]), name
    assert results(tmp_path / "two")["tables"] == results(folder / "one")["tables"]


def test_the_program_has_keys_and_no_counts(folder, tmp_path):
    best = results(folder / "one")["checkpoint"]
    options = ["--output", str(tmp_path / "model.pt"), "--run", str(tmp_path / "export")]
    assert main(["export", best, *options]) == 0
    program = torch.jit.load(tmp_path / "model.pt")
    stored = {name: one for name, one in program.named_buffers() if "learned" in name}
    sizes = {name.rpartition(".")[2]: one.numel() for name, one in stored.items()}
    assert sizes == {"key_K": 180, "end_S": 1}
    report = json.loads((tmp_path / "export/results.json").read_text())
    assert max(report["parity"].values()) <= 1e-6
