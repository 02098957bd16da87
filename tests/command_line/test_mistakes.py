"""A user's mistake: one line, exit code 2, no trace, nothing half-written."""

import copy
import math
import pickle
import re
from pathlib import Path

import polars as pl
import pytest
import torch

from recemb.checkpoint import WholeFileIO
from recemb.command_line.main import main
from tests.command_line.small import small_config, write

ROWS = {
    "label": [0, 1, 1, 0, 1, 0, 1, 1] * 8,
    "user": [1, 2, 3, 4, 5, 6, 7, 8] * 8,
    "item": [10, 20, 30, 40, 10, 20, 30, 40] * 8,
    "history": [[10], [], [20, 30], [40], [10, 10], [], [30], [20]] * 8,
    "price": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5] * 8,
}


def tiny_config(folder: Path) -> dict:
    """DIN on three small files in ``folder``."""
    return {
        "model": {
            "class_path": "recemb.models.din.DIN",
            "init_args": {
                "tables": {"user": {"kind": "full", "dim": 4}, "item": {"kind": "full", "dim": 4}},
                "features": {"user": {"table": "user"}, "item": {"table": "item"}},
                "history": {"item": "history"},
                "network": {"hidden": [4]},
            },
        },
        "data": {
            "class_path": "recemb.data.tabular.Tabular",
            "init_args": {
                "folder": str(folder),
                "label": "label",
                "categorical": {"user": {}, "item": {}},
                "lists": {"history": {"vocabulary": "item"}},
                "dense": {"price": {}},
                "batch_size": 16,
            },
        },
        "trainer": {
            "max_epochs": 1, "enable_progress_bar": False, "log_every_n_steps": 1, "logger": False,
        },
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    for stage in ("train", "validation", "test"):
        pl.DataFrame(ROWS).write_parquet(tmp_path / f"{stage}.parquet")
    return tmp_path


def fit(config: dict, folder: Path, capsys, *options: str) -> str:
    """Run fit, check that it refuses in the agreed way, and return its one line."""
    run = folder / "run"
    assert main(["fit", "--config", write(config, folder), "--run", str(run), *options]) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, printed.err
    assert "Traceback" not in printed.err + printed.out
    assert not run.exists()
    return lines[0]


def test_the_files_as_they_are_train(folder):
    run = folder / "run"
    assert main(["fit", "--config", write(tiny_config(folder), folder), "--run", str(run)]) == 0
    assert (run / "results.json").is_file()


def changed(column: str, row: int, value: object) -> dict:
    rows = copy.deepcopy(ROWS)
    rows[column][row] = value
    return rows


BAD_ROWS = {
    "NaN": (changed("price", 13, math.nan), r"train\.parquet: column 'price', row 13: .*finite"),
    "label": (changed("label", 5, 2), r"train\.parquet: column 'label', row 5: .*0 or 1, got 2"),
    "negative id": (changed("user", 3, -7), r"column 'user', row 3: .*not be negative, got -7"),
    "null in list": (changed("history", 2, [20, None]), r"column 'history', row 2: .*nulls"),
    "null list": (changed("history", 4, None), r"column 'history', row 4: .*must not be null"),
    "missing column": (
        {name: values for name, values in ROWS.items() if name != "item"},
        r"train\.parquet: column 'item' is missing",
    ),
    "wrong type": (
        {**ROWS, "user": [float(one) for one in ROWS["user"]]},
        r"column 'user': ids must be integers or strings, got type Float64",
    ),
    "no rows": ({name: values[:0] for name, values in ROWS.items()}, r"train\.parquet: .*no rows"),
}


@pytest.mark.parametrize(("rows", "line"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_are_named_by_file_column_and_row(rows, line, folder, capsys):
    schema = None if len(rows["label"]) else pl.DataFrame(ROWS).schema
    pl.DataFrame(rows, schema=schema, strict=False).write_parquet(folder / "train.parquet")
    printed = fit(tiny_config(folder), folder, capsys)
    assert re.search(line, printed), printed


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_bad_rows_of_other_files_are_found_before_training(stage, folder, capsys):
    pl.DataFrame(changed("label", 9, 5)).write_parquet(folder / f"{stage}.parquet")
    assert f"{stage}.parquet: column 'label', row 9" in fit(tiny_config(folder), folder, capsys)


def test_empty_and_truncated_files(folder, capsys):
    path = folder / "train.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "train.parquet: not a readable parquet file" in fit(tiny_config(folder), folder, capsys)
    path.write_bytes(b"")
    assert "train.parquet: the file is empty" in fit(tiny_config(folder), folder, capsys)
    path.unlink()
    assert "train.parquet: there is no such file" in fit(tiny_config(folder), folder, capsys)


BAD_CONFIGS = {
    "unused table": (
        lambda model: model["tables"].update(extra={"kind": "full", "dim": 4}),
        "table 'extra' is read by no feature",
    ),
    "unknown table": (
        lambda model: model["features"].update(user={"table": "users"}),
        "feature 'user' reads table 'users', which is not in tables ['item', 'user']",
    ),
    "dimension 0": (
        lambda model: model["tables"].update(user={"kind": "full", "dim": 0}),
        "table 'user': dim must be at least 1, got 0",
    ),
    "unknown kind": (
        lambda model: model["tables"].update(user={"kind": "ful", "dim": 4}),
        "table 'user': kind must be one of",
    ),
    "misspelt setting": (
        lambda model: model["tables"].update(user={"kind": "full", "dimm": 4}),
        "table 'user': kind full has no setting 'dimm'",
    ),
    "feature not in data": (
        lambda model: model["features"].update(age={"table": "user"}),
        "feature 'age' is not in the data",
    ),
    "history of nothing": (
        lambda model: model.update(history={"item": "clicks"}),
        "history of 'item' must be a list column",
    ),
    "misspelt model setting": (
        lambda model: model.update(learningrate=0.1),
        "learningrate",
    ),
}


@pytest.mark.parametrize(("change", "line"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_bad_configurations_name_table_or_feature(change, line, folder, capsys):
    config = tiny_config(folder)
    change(config["model"]["init_args"])
    assert line in fit(config, folder, capsys)


class Evil:
    """Touches a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def checkpoint_mistake(verb: str, options: list[str], capsys) -> str:
    assert main([verb, *options]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    return printed[0]


@pytest.mark.parametrize("verb", ["export", "fit", "test"])
def test_a_checkpoint_with_a_pickled_callable_is_refused_and_not_run(
    verb, trained, tmp_path, capsys
):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["extra"] = Evil(tmp_path / "ran")
    path = tmp_path / "evil.ckpt"
    torch.save(checkpoint, path)
    config = str(trained.parent / "config.yaml")
    options = {"export": [str(path)]}.get(verb, ["--config", config, "--ckpt_path", str(path)])
    line = checkpoint_mistake(verb, [*options, "--run", str(tmp_path / "run")], capsys)
    assert "refused, because it holds a pickled object that would run code" in line
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "run").exists()
    with path.open("rb"), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_a_checkpoint_that_names_a_foreign_class_is_refused(trained, tmp_path, capsys):
    checkpoint = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    config = checkpoint["recemb"]["config"]
    checkpoint["recemb"]["config"] = config.replace("recemb.models.din.DIN", "subprocess.Popen")
    path = tmp_path / "foreign.ckpt"
    WholeFileIO().save_checkpoint(checkpoint, path)
    line = checkpoint_mistake("export", [str(path), "--run", str(tmp_path / "run")], capsys)
    assert "names the class 'subprocess.Popen'" in line


def test_a_truncated_checkpoint_is_refused(trained, tmp_path, capsys):
    whole = (trained / "checkpoints/best.ckpt").read_bytes()
    path = tmp_path / "short.ckpt"
    path.write_bytes(whole[: len(whole) // 2])
    line = checkpoint_mistake("export", [str(path), "--run", str(tmp_path / "run")], capsys)
    assert "short.ckpt: not a readable checkpoint" in line


@pytest.mark.parametrize("verb", ["fit", "test", "predict"])
def test_a_checkpoint_of_another_configuration_names_the_setting(verb, trained, tmp_path, capsys):
    config = small_config()
    config["model"]["init_args"]["tables"]["shared"]["num_rows"] = 700
    checkpoint = str(trained / "checkpoints/best.ckpt")
    options = ["--config", write(config, tmp_path), "--ckpt_path", checkpoint]
    line = checkpoint_mistake(verb, [*options, "--run", str(tmp_path / "run")], capsys)
    assert "num_rows was 600 there and is 700 here" in line


@pytest.mark.parametrize("verb", ["fit", "test", "predict"])
def test_a_checkpoint_of_features_in_another_order_is_refused(verb, trained, tmp_path, capsys):
    config = small_config()
    features = config["model"]["init_args"]["features"]
    config["model"]["init_args"]["features"] = dict(reversed(features.items()))
    checkpoint = str(trained / "checkpoints/best.ckpt")
    options = ["--config", write(config, tmp_path), "--ckpt_path", checkpoint]
    line = checkpoint_mistake(verb, [*options, "--run", str(tmp_path / "run")], capsys)
    assert "features.user.table was where model.init_args.features.tags.table is here" in line


def test_tables_may_be_in_another_order(trained, tmp_path):
    config = small_config()
    config["model"] = dict(reversed(config["model"].items()))
    init = config["model"]["init_args"]
    init["tables"]["shared"] = dict(reversed(init["tables"]["shared"].items()))
    checkpoint = str(trained / "checkpoints/best.ckpt")
    options = ["--config", write(config, tmp_path), "--ckpt_path", checkpoint]
    assert main(["validate", *options, "--run", str(tmp_path / "run")]) == 0


def test_a_run_folder_in_use_is_left_alone(trained, tmp_path, capsys):
    before = sorted(trained.rglob("*"))
    config = str(trained.parent / "config.yaml")
    line = checkpoint_mistake("fit", ["--config", config, "--run", str(trained)], capsys)
    assert "the run folder is not empty" in line
    assert sorted(trained.rglob("*")) == before


def test_a_configuration_that_is_no_yaml(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("model: [1,\n")
    line = checkpoint_mistake("fit", ["--config", str(path), "--run", str(tmp_path / "r")], capsys)
    assert "not readable YAML" in line


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--trainer.max_epochs", "x", "trainer.max_epochs: Expected a <class 'int'>, got x"),
     ("--model.init_args.tables.shared.dim", "q", "tables.dim: Expected a <class 'int'>")],
)  # fmt: skip
def test_a_value_of_the_wrong_type_on_the_command_line(option, value, said, tmp_path, capsys):
    config = write(small_config(), tmp_path)
    options = ["--config", config, "--run", str(tmp_path / "r"), option, value]
    assert said in checkpoint_mistake("fit", options, capsys)


def test_an_unknown_verb_prints_the_verbs(capsys):
    assert main(["fitt"]) == 2
    assert "usage: python -m recemb VERB" in capsys.readouterr().err


def test_measuring_needs_a_checkpoint(trained, tmp_path, capsys):
    config = str(trained.parent / "config.yaml")
    line = checkpoint_mistake("test", ["--config", config, "--run", str(tmp_path / "r")], capsys)
    assert "test needs a checkpoint; give --ckpt_path" in line
