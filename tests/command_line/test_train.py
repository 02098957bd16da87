"""The verbs of training, as a user types them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recemb.command_line.main import main
from recemb.data.files import cache_root
from tests.command_line.small import small_config, write


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def auc_by_ranks(label: np.ndarray, score: np.ndarray) -> float:
    """Mann-Whitney: the share of (positive, negative) pairs in the right order, ties half."""
    positive, negative = score[label == 1], np.sort(score[label == 0])
    below = np.searchsorted(negative, positive, "left")
    upto = np.searchsorted(negative, positive, "right")
    return float((below + upto).sum() / 2 / len(positive) / len(negative))


def log_folder(run: Path) -> Path:
    """The synthetic log's own files."""
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["log"]
    for law in cache_root().glob("synthetic-*/law.json"):
        if json.loads(law.read_text())["log"].items() >= config.items():
            return law.parent
    raise AssertionError("the log is not in the cache")


def test_fit_writes_the_whole_envelope(trained):
    results = results_of(trained)
    assert {
        "verb", "config_hash", "seed", "versions", "checkpoint", "metrics", "bytes", "tables",
        "seconds", "samples_per_s", "peak_memory_bytes",
    } <= set(results)  # fmt: skip
    assert set(results["metrics"]) == {"val/auc", "val/logloss", "test/auc", "test/logloss"}
    assert set(results["bytes"]) == {"training", "checkpoint", "serving"}
    assert results["tables"]["shared"] == {
        "kind": "unified", "num_rows": 600, "dim": 8, "bytes": 600 * 8 * 4,
    }  # fmt: skip
    assert results["versions"]["torch"] == torch.__version__
    assert results["samples_per_s"] > 0


def test_fit_learns_and_stays_below_the_best_possible_auc(trained):
    results = results_of(trained)
    assert 0.55 < results["metrics"]["test/auc"] < results["best_auc"]["test"]


def test_fit_leaves_config_logs_and_checkpoints(trained):
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "csv"):
        assert (trained / name).exists()
    assert list(trained.glob("tensorboard/events*"))


def test_checkpoint_bytes_are_those_of_the_file(trained):
    results = results_of(trained)
    size = Path(results["checkpoint"]).stat().st_size
    # The file adds names, the zip's directory and alignment: a few hundred bytes per tensor.
    assert results["bytes"]["checkpoint"] <= size <= results["bytes"]["checkpoint"] + 150_000


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(trained, tmp_path):
    config = write(small_config(), tmp_path)
    for name, seed in (("again", "1"), ("other", "2")):
        run = str(tmp_path / name)
        assert main(["fit", "--config", config, "--run", run, "--seed_everything", seed]) == 0
    first, again, other = (
        results_of(run)["metrics"] for run in (trained, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert first != other


@pytest.fixture(scope="module")
def stepped(tmp_path_factory) -> Path:
    """The folder of checkpoints written every five steps of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("stepped")
    config = small_config()
    arguments = {"dirpath": str(folder / "steps"), "every_n_train_steps": 5, "save_top_k": -1}
    config["trainer"]["callbacks"] = [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {**arguments, "filename": "{step}"},
        }
    ]
    assert main(["fit", "--config", write(config, folder), "--run", str(folder / "run")]) == 0
    return folder


# The resuming run does without the callback that wrote a checkpoint every five steps.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
# An epoch has 20 steps: inside the first epoch, at its end, inside the second one.
@pytest.mark.parametrize("step", [5, 20, 25])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(trained, stepped, tmp_path, step):
    options = [
        "--run",
        str(tmp_path / "b"),
        "--ckpt_path",
        str(stepped / "steps" / f"step={step}.ckpt"),
    ]
    assert main(["fit", "--config", write(small_config(), tmp_path), *options]) == 0
    ours, theirs = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)
        for run in (tmp_path / "b", trained)
    )
    assert ours["global_step"] == theirs["global_step"]
    for part in ("state_dict", "rows_optimizer"):
        for name, tensor in theirs[part].items():
            assert torch.equal(ours[part][name], tensor), name
    for number, state in theirs["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(ours["optimizer_states"][0]["state"][number][name], value)


def test_test_and_validate_repeat_what_fit_reported(trained, tmp_path):
    fitted = results_of(trained)
    config = str(trained.parent / "config.yaml")
    for verb, prefix in (("test", "test/"), ("validate", "val/")):
        run = tmp_path / verb
        options = ["--config", config, "--ckpt_path", fitted["checkpoint"], "--run", str(run)]
        assert main([verb, *options]) == 0
        expected = {name: v for name, v in fitted["metrics"].items() if name.startswith(prefix)}
        assert results_of(run)["metrics"] == expected


def test_predict_writes_probabilities_in_the_order_of_the_file(trained, tmp_path):
    fitted = results_of(trained)
    options = ["--ckpt_path", fitted["checkpoint"], "--run", str(tmp_path / "p")]
    assert main(["predict", "--config", str(trained.parent / "config.yaml"), *options]) == 0
    probability = pl.read_parquet(tmp_path / "p" / "predictions.parquet")["probability"].to_numpy()
    label = pl.read_parquet(log_folder(trained) / "test.parquet")["label"].to_numpy()
    assert auc_by_ranks(label, probability) == pytest.approx(
        fitted["metrics"]["test/auc"], abs=1e-6
    )


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_predict_reads_files_without_a_label(trained, tmp_path, form):
    rows = pl.read_parquet(log_folder(trained) / "test.parquet").head(50)
    checkpoint = str(trained / "checkpoints/best.ckpt")
    section = small_config()
    settings = section["data"]["init_args"]
    kept = {name: settings[name] for name in ("categorical", "lists", "dense") if name in settings}
    found = {}
    for name, own in (("labelled", rows), ("bare", rows.drop("label"))):
        if form == "csv":
            joined = [pl.col(one).cast(pl.List(pl.String)).list.join("|") for one in kept["lists"]]
            own.with_columns(joined).write_csv(tmp_path / f"{name}.csv")
        else:
            own.write_parquet(tmp_path / f"{name}.parquet")
        section["data"] = {
            "class_path": "recemb.data.tabular.Tabular",
            "init_args": {
                "folder": str(tmp_path), "label": "label", "test": f"{name}.{form}", **kept
            },
        }  # fmt: skip
        options = ["--config", write(section, tmp_path), "--ckpt_path", checkpoint]
        run = tmp_path / name
        assert main(["predict", *options, "--run", str(run), "--keep", "item", "user"]) == 0
        found[name] = pl.read_parquet(run / "predictions.parquet")
    assert found["bare"].columns == ["item", "user", "probability"]
    assert found["bare"]["user"].to_list() == rows["user"].to_list()
    assert found["bare"].equals(found["labelled"])


def test_json_option_puts_a_copy_elsewhere(trained, tmp_path):
    options = ["--ckpt_path", results_of(trained)["checkpoint"], "--run", str(tmp_path / "r")]
    copy = tmp_path / "copy.json"
    config = str(trained.parent / "config.yaml")
    assert main(["test", "--config", config, *options, "--json", str(copy)]) == 0
    assert json.loads(copy.read_text()) == results_of(tmp_path / "r")


def test_show_prints_every_run_below_a_folder(trained, capsys):
    assert main(["show", str(trained.parent)]) == 0
    printed = capsys.readouterr().out
    assert "--- fit" in printed
    assert f"{results_of(trained)['metrics']['test/auc']:.4f}" in printed
