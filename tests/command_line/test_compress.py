"""The verb compress, and export --quantize, on a checkpoint that was trained in seconds."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml

from recemb.checkpoint import WholeFileIO, read_checkpoint
from recemb.command_line.main import main
from recemb.data.tabular import Tabular
from recemb.rebuild import rebuild
from tests.command_line.small import small_config, write
from tests.command_line.test_mistakes import checkpoint_mistake
from tests.command_line.test_train import log_folder, results_of
from tests.serving.test_export import requests


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run with plain tables of users and items beside a unified one."""
    config = small_config()
    model = config["model"]["init_args"]
    model["tables"] |= {"user": {"kind": "full", "dim": 8}, "item": {"kind": "full", "dim": 8}}
    model["features"] |= {"user": {"table": "user"}, "item": {"table": "item"}}
    folder = tmp_path_factory.mktemp("plain")
    assert main(["fit", "--config", write(config, folder), "--run", str(folder / "run")]) == 0
    return folder / "run"


def best(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


def compressed(run: Path, folder: Path, *options: str) -> dict:
    """Compress, and return the results."""
    assert main(["compress", best(run), "--run", str(folder), *options]) == 0
    return results_of(folder)


def verb(name: str, folder: Path, *options: str) -> dict:
    """Run a verb of training on what was compressed into a folder."""
    config, checkpoint = str(folder / "compressed.yaml"), str(folder / "compressed.ckpt")
    own = ["--config", config, "--ckpt_path", checkpoint, "--run", str(folder / name)]
    assert main([name, *own, *options]) == 0
    return results_of(folder / name)


METHODS = {
    # What may be lost of the AUC: nothing to speak of, but for elements and rows that are dropped.
    "fp16": ([], 0.0005),
    "int8": ([], 0.0005),
    "int4": (["--budget", "20kB"], 0.01),
    "pq": (["--budget", "25kB"], 0.01),
    "svd": (["--budget", "25kB"], 0.02),
    "prune": (["--budget", "27kB"], 0.03),
    "dedup": (["--budget", "27kB"], 0.03),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_what_was_measured_and_every_verb_takes_it(method, run, tmp_path):
    folder = tmp_path / "smaller"
    options, loss = METHODS[method]
    results = compressed(run, folder, "--method", method, *options)
    fitted = results_of(run)
    assert results["before"]["metrics"] == {
        name: value for name, value in fitted["metrics"].items() if name.startswith("val/")
    }
    assert results["before"]["bytes"]["serving"] == fitted["bytes"]["serving"]
    assert results["before"]["tables"] == fitted["tables"]
    auc, before = results["metrics"]["val/auc"], results["before"]["metrics"]["val/auc"]
    assert before > 0.6
    assert abs(auc - before) < loss
    # All that changes is the tables, and a few numbers per feature that their kinds encode with.
    saved = {
        what: results["before"]["bytes"][what] - results["bytes"][what]
        for what in ("tables", "serving")
    }
    assert 0 < saved["tables"] == pytest.approx(saved["serving"], abs=300)
    assert results["bytes"]["tables"] == sum(one["bytes"] for one in results["tables"].values())
    if results["budget"]:
        assert results["bytes"]["tables"] <= results["budget"]
    size = Path(results["checkpoint"]).stat().st_size
    assert results["bytes"]["checkpoint"] <= size <= results["bytes"]["checkpoint"] + 150_000
    assert verb("validate", folder)["metrics"] == results["metrics"]

    predicted = verb("predict", folder)["predictions"]
    assert main(["export", results["checkpoint"], "--run", str(folder / "export")]) == 0
    served = torch.jit.load(folder / "export/model.pt")
    assert results_of(folder / "export")["bytes"]["serving"] == results["bytes"]["serving"]
    rows = pl.read_parquet(log_folder(run) / "test.parquet")
    probability = torch.from_numpy(pl.read_parquet(predicted)["probability"].to_numpy().copy())
    torch.testing.assert_close(served(requests(rows)), probability, atol=1e-6, rtol=0)


def test_the_envelope_names_what_stays_and_why(run, tmp_path, capsys):
    results = compressed(run, tmp_path / "a", "--method", "svd", "--budget", "25kB")
    assert {
        "verb", "config_hash", "versions", "run", "method", "budget", "checkpoint", "config",
        "metrics", "bytes", "tables", "before", "kept", "seconds", "peak_memory_bytes",
    } <= set(results)  # fmt: skip
    assert (results["verb"], results["method"], results["budget"]) == ("compress", "svd", 25_000)
    reason = "it is of kind unified, and svd compresses kind full only"
    assert results["kept"] == {"shared": reason}
    printed = capsys.readouterr().out
    assert f"stays: {reason}" in printed
    assert "table user    full, 401 rows x 8, 12.83 kB -> full, 401 rows x " in printed
    assert main(["show", str(tmp_path)]) == 0
    before, after = (one["metrics"]["val/auc"] for one in (results["before"], results))
    assert f"val/auc       {before:.4f} -> {after:.4f}" in capsys.readouterr().out


def test_settings_are_solved_in_the_form_that_fit_writes(run, tmp_path):
    compressed(run, tmp_path / "a", "--method", "prune", "--budget", "25kB")
    header = torch.load(tmp_path / "a/compressed.ckpt", weights_only=True)["recemb"]
    written = yaml.safe_load((tmp_path / "a/compressed.yaml").read_text())
    saved = yaml.safe_load(header["config"])
    assert written == saved
    settings = saved["model"]["init_args"]["tables"]["user"]
    assert settings["class_path"] == "recemb.tables.pruned.Pruned"
    assert settings["init_args"]["num_values"] > 0
    assert settings["init_args"]["budget"] is settings["init_args"]["share"] is None
    # The order of the features is that of the model's inputs.
    assert list(saved["model"]["init_args"]["features"]) == [
        "user", "item", "category", "hour", "tags",
    ]  # fmt: skip


def test_a_compressed_checkpoint_can_be_compressed_again(run, tmp_path):
    first = compressed(run, tmp_path / "a", "--method", "svd", "--budget", "25kB")
    options = ["--method", "int8", "--run", str(tmp_path / "b")]
    assert main(["compress", first["checkpoint"], *options]) == 0
    second = results_of(tmp_path / "b")
    assert second["before"]["metrics"] == first["metrics"]
    assert second["bytes"]["tables"] < first["bytes"]["tables"]
    header = torch.load(second["checkpoint"], weights_only=True)["recemb"]
    assert header["compressed"] == ["svd", "int8"]


FIT = (
    "--trainer.enable_progress_bar", "no", "--trainer.log_every_n_steps", "1",
    "--trainer.max_epochs",
)  # fmt: skip


def test_fit_goes_on_from_the_smaller_tables(run, tmp_path):
    folder = tmp_path / "a"
    results = compressed(run, folder, "--method", "prune", "--budget", "23kB")
    lost = results["before"]["metrics"]["val/auc"] - results["metrics"]["val/auc"]
    assert lost > 0.005
    still = verb("fit", folder, *FIT, "1", "--trainer.limit_train_batches", "1")
    assert still["metrics"]["val/auc"] == pytest.approx(results["metrics"]["val/auc"], abs=0.01)
    folder.joinpath("fit").rename(tmp_path / "one batch")
    tuned = verb("fit", folder, *FIT, "2")
    assert tuned["metrics"]["val/auc"] > results["metrics"]["val/auc"] + lost / 4
    assert tuned["tables"] == results["tables"]
    # From here on it is an ordinary run.
    options = ["--config", str(folder / "fit/config.yaml"), *FIT, "3"]
    last = str(folder / "fit/checkpoints/last.ckpt")
    assert main(["fit", *options, "--ckpt_path", last, "--run", str(tmp_path / "b")]) == 0
    assert results_of(tmp_path / "b")["epochs"] == 3


def test_fine_tuning_may_have_learning_rates_of_its_own(run, tmp_path):
    folder = tmp_path / "a"
    results = compressed(run, folder, "--method", "int4")
    slow = ["--model.init_args.learning_rate", "1e-9"]
    slow += ["--model.init_args.rows_optimizer.init_args.learning_rate", "1e-9"]
    tuned = verb("fit", folder, *FIT, "1", *slow)
    # Nothing moves but the moving averages of Dice, and rows that are rounded at random.
    assert tuned["metrics"]["val/auc"] == pytest.approx(results["metrics"]["val/auc"], abs=2e-3)


def test_the_old_configuration_is_refused_and_the_new_one_named(run, tmp_path, capsys):
    compressed(run, tmp_path / "a", "--method", "int8")
    capsys.readouterr()
    config, checkpoint = str(run.parent / "config.yaml"), str(tmp_path / "a/compressed.ckpt")
    options = ["--config", config, "--ckpt_path", checkpoint, "--run", str(tmp_path / "b")]
    line = checkpoint_mistake("test", options, capsys)
    assert "precision was int8 there and is fp32 here" in line
    assert line.endswith("its tables were compressed, so give --config compressed.yaml beside it")


def test_only_the_validation_file_is_read(run, tmp_path, monkeypatch):
    read = []
    honest = Tabular.loader
    monkeypatch.setattr(
        Tabular, "loader", lambda self, stage: read.append(stage) or honest(self, stage)
    )
    compressed(run, tmp_path / "a", "--method", "int8")
    assert set(read) == {"validation"}


def test_another_data_section_is_taken_and_kept(run, tmp_path, capsys):
    config = yaml.safe_load((run.parent / "config.yaml").read_text())
    config["data"]["init_args"]["eval_batch_size"] = 100
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"data": config["data"], "trainer": {"max_epochs": 7}}))
    results = compressed(run, tmp_path / "a", "--method", "int8", "--config", str(other))
    assert results["before"]["metrics"]["val/auc"] == pytest.approx(
        results_of(run)["metrics"]["val/auc"], abs=1e-6
    )
    written = yaml.safe_load((tmp_path / "a/compressed.yaml").read_text())
    assert written["data"]["init_args"]["eval_batch_size"] == 100
    assert written["trainer"] == {"max_epochs": 7}
    other.write_text("model: {}")
    capsys.readouterr()
    options = [best(run), "--method", "int8", "--config", str(other), "--run", str(tmp_path / "b")]
    assert "other.yaml: there is no section 'data'" in checkpoint_mistake(
        "compress", options, capsys
    )


REFUSED = {
    "budget": (["--method", "pq", "--budget", "lots"], "--budget: a budget must be a number of"),
    "too small": (
        ["--method", "pq", "--budget", "1kB"],
        "a budget of 1,000 bytes is too small for",
    ),
    "no budget": (["--method", "svd"], "give a budget or a share"),
    "share": (["--method", "svd", "--share", "1.5"], "a share must be above 0 and at most 1, got"),
    "precision": (["--method", "fp16", "--budget", "15kB"], "or choose int8, the most precise"),
    "table": (["--method", "int8", "--tables", "users"], "table 'users' is not among the model's"),
    "kind": (
        ["--method", "svd", "--budget", "30kB", "--tables", "shared"],
        "svd changes no table: 'user', 'item': it was not asked for; 'shared': it is of kind",
    ),
    "name": (["--method", "int8", "--output", "model.pt"], "model.pt: the checkpoint's name must"),
    "missing": (
        ["--method", "int8", "--config", "no.yaml"],
        "no.yaml: there is no such file",
    ),
}


@pytest.mark.parametrize(("options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(options, said, run, tmp_path, capsys):
    folder = tmp_path / "run"
    line = checkpoint_mistake("compress", [best(run), "--run", str(folder), *options], capsys)
    assert said in line
    assert not folder.exists()


def test_nothing_is_overwritten(run, tmp_path, capsys):
    options = [best(run), "--method", "int8"]
    line = checkpoint_mistake("compress", [*options, "--run", str(run)], capsys)
    assert "the run folder is not empty" in line
    for taken in ("shop.ckpt", "shop.yaml"):
        (tmp_path / taken).write_text("mine")
        own = [*options, "--run", str(tmp_path / "run"), "--output", str(tmp_path / "shop.ckpt")]
        assert f"{taken}: exists already" in checkpoint_mistake("compress", own, capsys)
        assert (tmp_path / taken).read_text() == "mine"
        (tmp_path / taken).unlink()


def test_a_full_disk_leaves_nothing_behind(run, tmp_path, capsys, monkeypatch):
    def full(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    options = [best(run), "--method", "int8", "--run", str(tmp_path / "run")]
    assert main(["compress", *options]) == 2
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_whose_data_is_a_foreign_class_is_refused(run, tmp_path, capsys):
    checkpoint = torch.load(best(run), weights_only=True)
    config = checkpoint["recemb"]["config"]
    checkpoint["recemb"]["config"] = config.replace(
        "recemb.data.synthetic_clicks.SyntheticClicks", "os.Popen"
    )
    path = tmp_path / "foreign.ckpt"
    WholeFileIO().save_checkpoint(checkpoint, path)
    options = [str(path), "--method", "int8", "--run", str(tmp_path / "run")]
    assert "names the class 'os.Popen'" in checkpoint_mistake("compress", options, capsys)


def test_a_checkpoint_without_the_version_of_lightning_is_refused(run, tmp_path, capsys):
    content = read_checkpoint(Path(best(run)))
    del content["pytorch-lightning_version"]
    WholeFileIO().save_checkpoint(content, tmp_path / "other.ckpt")
    words = ["compress", str(tmp_path / "other.ckpt"), "--method", "int8"]
    assert main([*words, "--run", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "other.ckpt: compress takes over 'pytorch-lightning_version', and the ch" in line


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_export_quantizes_as_compress_does(precision, run, tmp_path):
    smaller = compressed(run, tmp_path / "a", "--method", precision)
    for name, options in (
        ("b", [smaller["checkpoint"]]),
        ("c", [best(run), "--quantize", precision]),
    ):
        assert main(["export", *options, "--run", str(tmp_path / name)]) == 0
    rows = requests(pl.read_parquet(log_folder(run) / "test.parquet")[:500])
    once, straight = (torch.jit.load(tmp_path / name / "model.pt") for name in ("b", "c"))
    assert torch.equal(once(rows), straight(rows))
    results = results_of(tmp_path / "c")
    assert (results["quantize"], results["tables"]) == (precision, smaller["tables"])
    assert results["bytes"]["serving"] == smaller["bytes"]["serving"]


def test_the_checkpoint_alone_is_the_model(run, tmp_path):
    compressed(run, tmp_path / "a", "--method", "pq", "--budget", "30kB", "--tables", "user")
    model, _ = rebuild(tmp_path / "a/compressed.ckpt")
    assert {name: one.kind_name for name, one in model.embeddings.tables.items()} == {
        "shared": "unified", "user": "codes", "item": "full",
    }  # fmt: skip
    assert json.loads((tmp_path / "a/results.json").read_text())["kept"].keys() == {
        "shared",
        "item",
    }
