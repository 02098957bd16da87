"""Session transformers from the command line: fit, go on, predict, export, and what is served."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recemb.command_line.main import main
from recemb.data.columns import AttributeFile, IdColumn, ListColumn
from recemb.data.sequences import Sequences
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.jagged import Jagged
from recemb.rebuild import rebuild
from recemb.serving import next_item
from recemb.serving.export import export

NUM_ITEMS = 40
COLORS = ["red", "green", "blue", "black"]


def write_events(folder: Path) -> None:
    """Write events of 150 users who go around a circle of items, and what is known of items."""
    draw = np.random.RandomState(0)
    users, items = [], []
    for user in range(150):
        item, step = draw.randint(NUM_ITEMS), draw.randint(1, 3)
        for _ in range(draw.randint(3, 12)):
            users.append(user)
            items.append(f"i{item}")
            item = (item + step) % NUM_ITEMS
    frame = pl.DataFrame({"user": users, "item": items, "time": range(len(users))})
    frame.write_csv(folder / "events.csv")
    pl.DataFrame({
        "item": [f"i{i}" for i in range(NUM_ITEMS)],
        "color": [COLORS[i % 4] for i in range(NUM_ITEMS)],
        "tags": [[i // 10, 4 + i % 7] for i in range(NUM_ITEMS)],
    }).write_parquet(folder / "items.parquet")  # fmt: skip


def config(folder: Path, mode: str) -> str:
    tables = {
        "item": {"kind": "full", "dim": 16},
        "color": {"kind": "full", "dim": 4, "project": 16},
        "tags": {"kind": "full", "dim": 16},
    }
    names = {"ids": ["item"], "metadata": ["color", "tags"], "both": ["item", "color", "tags"]}
    own = names.get(mode, ["item"])
    settings = {
        "tables": {name: tables[name] for name in own},
        "features": {name: {"table": name} for name in own},
        "network": {"num_layers": 1, "hidden": 16, "dropout": 0.1, "max_length": 8},
        "objective": {"temperature": 0.1, "heads": {"color": 0.5} if mode == "both" else {}},
        "evaluation": {"cutoffs": [5], "monitor": "ndcg@5"},
        "learning_rate": 0.005,
        "rows_optimizer": {"kind": "adam", "learning_rate": 0.01},
    }
    if mode == "codes":
        settings["codebook"] = {"num_codes": 8, "num_probes": 4, "start_epoch": 1}
    attributes = {"path": str(folder / "items.parquet"), "key": "item",
                  "categorical": {"color": {}}, "lists": {"tags": {}}}  # fmt: skip
    data = {"source": str(folder / "events.csv"), "time": "time", "attributes": attributes,
            "max_length": 8, "batch_size": 16}  # fmt: skip
    path = folder / f"{mode}.yaml"
    path.write_text(yaml.safe_dump({
        "model": {"class_path": "recemb.models.session.SessionTransformer", "init_args": settings},
        "data": {"class_path": "recemb.data.sequences.Sequences", "init_args": data},
        "trainer": {"max_epochs": 4, "enable_progress_bar": False, "logger": False},
    }, sort_keys=False))  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("session")
    write_events(made)
    for mode in ("ids", "metadata", "both", "codes"):
        assert main(["fit", "--config", config(made, mode), "--run", str(made / mode)]) == 0
    return made


MODES = pytest.mark.parametrize("mode", ["ids", "metadata", "both", "codes"])


def results(folder: Path, mode: str) -> dict:
    return json.loads((folder / mode / "results.json").read_text())


@MODES
def test_fit_learns_the_circle(folder, mode):
    found = results(folder, mode)
    # At random 5 of 40 items are hit an eighth of the time.
    assert found["metrics"]["test/hr@5"] > 0.5
    assert found["samples_per_s"] > 0
    assert found["bytes"]["serving"] > 0


@MODES
def test_program_is_exported_and_served_without_the_project(folder, mode, tmp_path):
    checkpoint = str(folder / mode / "checkpoints/best.ckpt")
    model = tmp_path / "model.pt"
    assert main(["export", checkpoint, "--output", str(model), "--run", str(tmp_path / "r")]) == 0
    alone = f"""
import sys, torch
program = torch.jit.load({str(model)!r})
assert not [name for name in sys.modules if name.split('.')[0] in ('recemb', 'models', 'torchrec')]
"""
    ended = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True,
                           cwd=tmp_path)  # fmt: skip
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("mode", ["ids", "both", "codes"])
def test_served_items_are_those_that_predict_names(folder, mode, tmp_path):
    checkpoint = folder / mode / "checkpoints/best.ckpt"
    options = ["--ckpt_path", str(checkpoint), "--run", str(tmp_path / "p")]
    assert main(["predict", "--config", str(folder / f"{mode}.yaml"), *options]) == 0
    predicted = pl.read_parquet(tmp_path / "p/predictions.parquet")
    model, schema = rebuild(checkpoint)
    export(model, schema, tmp_path / "model.pt")
    data = yaml.safe_load((folder / f"{mode}.yaml").read_text())["data"]["init_args"]
    given = AttributeFile(
        path=data["attributes"]["path"],
        key="item",
        categorical={"color": IdColumn()},
        lists={"tags": ListColumn()},
    )
    rows = pl.read_parquet(Sequences(**{**data, "attributes": given}).file("test").path)
    raw = [[hash_string(item) for item in one] for one in rows["history"]]
    inputs = {
        "history": torch.tensor([item for one in raw for item in one]),
        "history.size": torch.tensor([len(one) for one in raw]),
    }
    items, scores = torch.jit.load(tmp_path / "model.pt")(inputs)
    same = []
    for own, own_scores, raw_K, scores_K in zip(
        predicted["items"], predicted["scores"], items, scores, strict=True
    ):
        # Items by their names in the file; where a session leaves fewer, a list is shorter.
        num = len(own)
        assert num == min(20, int((scores_K > -torch.inf).sum()))
        np.testing.assert_allclose(scores_K[:num], own_scores, rtol=1e-4, atol=1e-4)
        same += [hash_string(name) == raw for name, raw in zip(own, raw_K.tolist(), strict=False)]
    assert np.mean(same) > 0.99  # scores that are equal up to rounding may change places


def test_predictions_say_whose_they_are(folder, tmp_path):
    options = ["--ckpt_path", str(folder / "ids/checkpoints/best.ckpt"), "--run", str(tmp_path)]
    keep = ["--keep", "item", "history"]
    assert main(["predict", "--config", str(folder / "ids.yaml"), *options, *keep]) == 0
    found = pl.read_parquet(tmp_path / "predictions.parquet")
    events = pl.read_csv(folder / "events.csv").group_by("user", maintain_order=True).agg("item")
    own = {user: items for user, items in events.iter_rows() if len(items) >= 3}
    assert sorted(found["user"]) == sorted(own)
    for user, item, history in found.select("user", "item", "history").iter_rows():
        assert [*history, item] == own[user][-1 - len(history) :]


@pytest.mark.parametrize("mode", ["ids", "metadata", "codes"])
def test_the_next_items_of_sessions_in_a_file(folder, mode, tmp_path):
    # Two sessions with their events mixed, one of an item that nobody knows.
    rows = [("b", "i5", 9), ("a", "i3", 2), ("a", "i2", 1), ("b", "i4", 8), ("c", "new", 1)]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(
        tmp_path / "now.csv"
    )
    checkpoint = folder / mode / "checkpoints/best.ckpt"
    asked = ["--sessions", str(tmp_path / "now.csv"), "--count", "4", "--run", str(tmp_path / "r")]
    assert main(["recommend", str(checkpoint), *asked]) == 0
    found = pl.read_parquet(tmp_path / "r/recommendations.parquet")
    model, schema = rebuild(checkpoint)
    items = {f"i{i}": hash_string(f"i{i}") for i in range(NUM_ITEMS)}
    index = schema.vocabularies["item"].lookup(torch.tensor(list(items.values())))
    name_of = dict(zip(index.tolist(), items, strict=True))
    for user, session in (("a", ["i2", "i3"]), ("b", ["i4", "i5"])):
        history = Jagged(index[[list(items).index(i) for i in session]], torch.tensor([2]))
        best, scores = model.best(history, 4)
        wanted = [name_of[i] for i in best[0][scores[0] > -torch.inf].tolist()]
        own = found.filter(pl.col("user") == user)
        assert own["item"].to_list() == wanted
        assert own["known"].all()
    assert not found.filter(pl.col("user") == "c")["known"].any()


def test_what_is_predicted_need_not_be_in_the_file(folder, tmp_path):
    rows = pl.DataFrame({"who": ["x", "y"], "history": [["i2", "i3"], ["i7"]]})
    rows.write_parquet(tmp_path / "now.parquet")
    section = yaml.safe_load((folder / "ids.yaml").read_text())
    section["data"] = {
        "class_path": "recemb.data.tabular.Tabular",
        "init_args": {
            "folder": str(tmp_path),
            "label": "label",
            "test": "now.parquet",
            "categorical": {"item": {}},
            "lists": {"history": {"vocabulary": "item"}},
        },
    }
    (tmp_path / "now.yaml").write_text(yaml.safe_dump(section, sort_keys=False))
    checkpoint = folder / "ids/checkpoints/best.ckpt"
    options = ["--ckpt_path", str(checkpoint), "--run", str(tmp_path / "p"), "--keep", "who"]
    assert main(["predict", "--config", str(tmp_path / "now.yaml"), *options]) == 0
    found = pl.read_parquet(tmp_path / "p/predictions.parquet")
    assert found["who"].to_list() == ["x", "y"]
    model, schema = rebuild(checkpoint)
    raw = torch.tensor([hash_string(item) for item in ("i2", "i3", "i7")])
    index = schema.vocabularies["item"].lookup(raw)
    items, _ = model.best(Jagged(index, torch.tensor([2, 1])), 1)
    assert [hash_string(own[0]) for own in found["items"]] == (
        schema.vocabularies["item"].raw_of_index()[items[:, 0]].tolist()
    )


def test_a_new_item_is_served_by_its_attributes(folder, tmp_path):
    model, schema = rebuild(folder / "metadata/checkpoints/best.ckpt")
    found = export(model, schema, tmp_path / "model.pt")
    assert "item" not in found["inputs"]
    program = torch.jit.load(tmp_path / "model.pt")

    def described(items, start=""):
        return {
            f"{start}color": torch.tensor([hash_string(COLORS[i % 4]) for i in items]),
            f"{start}tags": torch.tensor([tag for i in items for tag in (i // 10, 4 + i % 7)]),
            f"{start}tags.size": torch.full((len(items),), 2),
        }

    session, every = [3, 4, 5], list(range(NUM_ITEMS))
    asked = described(session) | {"history.size": torch.tensor([3])}
    scores = program(asked | described(every, "candidate."))
    assert scores.shape == (1, NUM_ITEMS)
    # An item that is described as the seventh is, whatever it is called, has its score.
    new = program(asked | described([7], "candidate."))
    torch.testing.assert_close(new[0, 0], scores[0, 7], rtol=1e-5, atol=1e-5)
    keys = schema.vocabularies["item"]
    raw = torch.tensor([hash_string(f"i{i}") for i in every])
    query = model(Jagged(keys.lookup(raw[session]), torch.tensor([3])))
    wanted = query @ model.outputs(keys.lookup(raw)).T
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=1e-4)


def test_a_program_that_says_something_else_is_not_written(folder, tmp_path, monkeypatch):
    model, schema = rebuild(folder / "ids/checkpoints/best.ckpt")
    monkeypatch.setattr(next_item, "TOLERANCE", -1.0)
    with pytest.raises(RecembError, match="nothing was written"):
        export(model, schema, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("mode", ["both", "codes"])
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(folder, mode, tmp_path):
    options = ["--config", str(folder / f"{mode}.yaml")]
    half = [*options, "--run", str(tmp_path / "half"), "--trainer.max_epochs", "2"]
    assert main(["fit", *half]) == 0
    last = str(tmp_path / "half/checkpoints/last.ckpt")
    assert main(["fit", *options, "--run", str(tmp_path / "rest"), "--ckpt_path", last]) == 0
    resumed = torch.load(tmp_path / "rest/checkpoints/last.ckpt", weights_only=True)
    whole = torch.load(folder / mode / "checkpoints/last.ckpt", weights_only=True)
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    for name, value in whole["rows_optimizer"].items():
        assert torch.equal(resumed["rows_optimizer"][name], value), name


def test_a_checkpoint_of_clicks_still_has_its_program(trained, tmp_path):
    checkpoint = str(trained / "checkpoints/best.ckpt")
    options = ["--output", str(tmp_path / "m.pt"), "--run", str(tmp_path / "r")]
    assert main(["export", checkpoint, *options]) == 0


@MODES
def test_rows_in_fewer_bits_are_served(folder, mode, tmp_path):
    checkpoint = str(folder / mode / "checkpoints/best.ckpt")
    options = ["--quantize", "int8", "--output", str(tmp_path / "m.pt")]
    assert main(["export", checkpoint, *options, "--run", str(tmp_path / "r")]) == 0
    plain = results(folder, mode)["bytes"]["serving"]
    found = json.loads((tmp_path / "r/results.json").read_text())
    assert found["bytes"]["serving"] < plain
