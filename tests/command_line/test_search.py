"""The verb search, on a click log that is trained on in seconds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recemb.checkpoint import read_checkpoint
from recemb.command_line.main import main
from recemb.command_line.search.methods import METHODS
from recemb.command_line.search.options import parse, read_config
from tests.command_line.small import ROOT, small_config, write

TABLES = ("user", "item")
LIGHTNING = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers",
    "ignore:.*exists and is not empty",
)
"""Notices of Lightning's own, which the command line silences."""


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
    "--held_out", "0.2", "--forms", "dense", "sparse", "--plots",
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
    assert {path.name for path in run.glob("*.png")} == {
        "dimensions.png", "gates.png", "quality.png",
    }  # fmt: skip


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
        "class_path": "recemb.data.tabular.Tabular",
        "init_args": {
            "folder": "/",
            "label": "label",
            "categorical": {"user": {}, "item": {}},
            "batch_size": 64,
            **{name: str(path)[1:] for name, path in files.items()},
        },
    }
    model = found["model"] = {
        "class_path": "recemb.models.deepfm.DeepFM",
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
    derived = json.loads((folder / "run/derived.json").read_text())
    assert derived["dense"].pop("seconds") > 0
    return derived


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


OPTEMBED = [
    "--method", "optembed", "--warm_up", "0", "--epochs", "1", "--held_out", "0.2",
    "--threshold_learning_rate", "1", "--alpha", "0.02", "--rounds", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def evolved(tmp_path_factory) -> Path:
    """A finished search by OptEmbed under a budget."""
    folder = tmp_path_factory.mktemp("optembed")
    own = ["--config", write(config(), folder), "--run", str(folder / "run"), *OPTEMBED]
    assert main(["search", *own, "--share", "0.25"]) == 0
    return folder / "run"


@LIGHTNING
def test_optembed_returns_the_best_of_all_that_fit(evolved):
    derived = json.loads((evolved / "derived.json").read_text())["dense"]
    state = json.loads((evolved / "evolution.json").read_text())
    results = json.loads((evolved / "results.json").read_text())
    best, score = max(state["scores"], key=lambda one: one[1])
    assert score == derived["held_out_auc"]
    widths = {name: len(derived["keep"][name][0]) for name in derived["keep"]}
    assert list(widths.values()) == best
    assert derived["bytes"] == results["forms"]["dense"]["bytes"]["tables"]
    assert 0.99 * results["budget"] < derived["bytes"] <= results["budget"]
    # Thresholds have dropped some rows and not all, which takes a map.
    assert 0 < min(derived["rows_kept"].values()) < 1
    # Scored again, as it is stored, it is as good.
    search = searching(evolved)
    keep = {name: [list(range(width))] for name, width in widths.items()}
    assert search.held_out(search.selected(keep)) == score


def searching(folder: Path):
    """Return a search as it is when its supernet is trained."""
    source = str(folder.parent / "config.yaml")
    options = parse(["--config", source, "--share", "0.25", *OPTEMBED], None)
    search = METHODS["optembed"](options, read_config(options), folder)
    search.load(json.loads((folder / "supernet/results.json").read_text()))
    return search


@LIGHTNING
def test_widths_are_drawn_up_to_what_the_budget_can_have(evolved):
    results = json.loads((evolved / "results.json").read_text())
    supernet = yaml.safe_load((evolved / "supernet.yaml").read_text())
    own = supernet["trainer"]["callbacks"][-1]["init_args"]["widest"]
    spaces = searching(evolved).embeddings.spaces
    tables = config()["model"]["init_args"]["tables"]
    rows = {name: spaces[name][0].num_ids for name in own}
    # Four bytes an element; the unified table has 100 rows, and all searched ones a dimension.
    room = results["budget"] - 4 * 100 * tables["shared"]["dim"] - 4 * sum(rows.values())
    assert all(4 * (width - 1) * rows[name] <= room for name, width in own.items())
    narrow = {name: width for name, width in own.items() if width < tables[name]["dim"]}
    assert narrow
    assert all(4 * width * rows[name] > room for name, width in narrow.items())


@LIGHTNING
def test_candidates_are_scored_without_gradients(evolved):
    search = searching(evolved)
    seen = []
    hook = search.model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    search.fitness((3, 5))
    hook.remove()
    assert seen
    assert not any(seen)
    assert not search.model.training


@LIGHTNING
def test_an_evolution_goes_on_after_its_last_round(evolved, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(evolved, folder)
    shutil.copy(evolved.parent / "config.yaml", tmp_path)
    whole = json.loads((evolved / "evolution.json").read_text())
    (folder / "derived.json").unlink()
    first = {"round": 2, "scores": whole["scores"][:40]}
    (folder / "evolution.json").write_text(json.dumps(first))
    search = searching(folder)
    search.derive()
    assert json.loads((folder / "evolution.json").read_text()) == whole


def test_optembed_without_a_budget_reports_its_bytes(tmp_path):
    own = ["--config", write(config(), tmp_path), "--run", str(tmp_path / "run"), *OPTEMBED]
    assert main(["search", *own, "--start", "derived"]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["budget"] == results["forms"]["dense"]["bytes"]["tables"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "dnis finds what is best within a budget; give --budget or --share"),
        (["--method", "pep"], "pep finds what is best within a budget"),
        (["--method", "autodim", "--share", "0.5"], "autodim knows no budget; drop --budget and"),
        (["--method", "autodim", "--start", "derived"], "autodim finds sizes and no weights; drop"),
        (
            ["--method", "autodim", "--forms", "sparse"],
            "autodim finds tables in the forms dense, got sparse",
        ),
    ],
)
def test_methods_refuse_what_they_have_no_use_for(options, message, tmp_path, capsys):
    assert main(["search", "--config", write(config(), tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def found_by(method: str, folder: Path, *more: str) -> dict:
    """Search by a method and return the results."""
    own = ["--config", write(config(), folder), "--run", str(folder / "run"), "--method", method]
    options = ["--warm_up", "1", "--epochs", "2", "--held_out", "0.2", "--plots", *more]
    assert main(["search", *own, *options]) == 0
    return json.loads((folder / "run/results.json").read_text())


@pytest.fixture(scope="module")
def elements(tmp_path_factory) -> Callable[[str], Path]:
    """Return the folder of a finished search for elements by a method."""
    folders: dict[str, Path] = {}

    def folder_of(method: str) -> Path:
        if method not in folders:
            folders[method] = tmp_path_factory.mktemp(method)
            found_by(
                method, folders[method], "--share", "0.5", "--forms", "sparse", "dense",
                "--blocks", "3", "--block_ids", "5", "--threshold_start", "-3",
            )  # fmt: skip
        return folders[method]

    return folder_of


@pytest.mark.parametrize("method", ["pep", "deeplight"])
def test_elements_are_found_within_the_budget(method, elements, tmp_path):
    run = elements(method) / "run"
    results = json.loads((run / "results.json").read_text())
    for name in ("sparse", "dense"):
        size = results["forms"][name]["bytes"]["tables"]
        assert 0.99 * results["budget"] <= size <= results["budget"], name
        assert results["forms"][name]["metrics"]["test/auc"] > 0.55
    # How many elements an id keeps is said by block, and adds up to all.
    dimensions = results["derived"]["sparse"]["dimensions"]
    assert all(len(blocks) == 3 for blocks in dimensions.values())
    # tables.yaml is the first form: the elements are in it, and fit takes it as it is.
    tables = yaml.safe_load((run / "tables.yaml").read_text())["model"]["init_args"]
    assert {tables["tables"][name]["kind"] for name in TABLES} == {"pruned"}
    own = ["--config", str(run / "tables.yaml"), "--run", str(tmp_path / "fit")]
    assert main(["fit", *own]) == 0
    fitted, sparse = (
        read_checkpoint(path / "checkpoints/best.ckpt")["state_dict"]
        for path in (tmp_path / "fit", run / "sparse")
    )
    places = [name for name in fitted if name.endswith(("column_M", "offset_V"))]
    assert len(places) == 4
    assert all(torch.equal(fitted[name], sparse[name]) for name in places)


def test_deeplight_ends_at_its_sparsity(tmp_path):
    baselines = ["--baselines", "uniform", "mixed_dim"]
    results = found_by("deeplight", tmp_path, "--share", "0.25", *baselines)
    # 100 rows of 8 elements beside; what is left is less than mixed dimensions take at least.
    assert "cannot be smaller than" in results["baselines"]["mixed_dim"]["refused"]
    assert results["baselines"]["uniform"]["bytes"]["tables"] <= results["budget"]
    state = read_checkpoint(Path(results["supernet"]["checkpoint"]))["state_dict"]
    rows = [state[name] for name in state if ".rows." in name and name.endswith(TABLES)]
    assert len(rows) == 2, list(state)
    zeros = sum(int((one == 0).sum()) for one in rows) / sum(one.numel() for one in rows)
    kept = sum(
        table["num_values"]
        for table in yaml.safe_load((tmp_path / "run/tables.yaml").read_text())["model"][
            "init_args"
        ]["tables"].values()
        if table["kind"] == "pruned"
    )
    assert zeros == pytest.approx(1 - kept / sum(one.numel() for one in rows), abs=1e-3)


def test_a_ticket_of_pep_begins_with_the_first_weights(elements):
    run = elements("pep") / "run"
    first = read_checkpoint(run / "supernet/checkpoints/initial.ckpt")["state_dict"]
    ticket = read_checkpoint(run / "sparse.ckpt")["state_dict"]
    network = [name for name in first if name.startswith(("attention", "mlp", "network"))]
    assert network
    assert all(torch.equal(first[name], ticket[name]) for name in network)
    trained = read_checkpoint(run / "supernet/checkpoints/last.ckpt")["state_dict"]
    assert not any(torch.equal(first[name], trained[name]) for name in network[:1])


def test_autodim_reports_its_bytes(tmp_path):
    results = found_by("autodim", tmp_path, "--baselines", "uniform")
    dims = {
        name: table["dim"]
        for name, table in yaml.safe_load((tmp_path / "run/tables.yaml").read_text())["model"][
            "init_args"
        ]["tables"].items()
    }
    assert {name: dims[name] in (2, 4, 8) for name in TABLES} == dict.fromkeys(TABLES, True)
    assert results["budget"] == results["forms"]["dense"]["bytes"]["tables"]
    assert results["baselines"]["uniform"]["bytes"]["tables"] <= results["budget"]


@LIGHTNING
def test_a_search_that_is_stopped_goes_on_to_the_bit(tmp_path):
    found = config()
    path = write(found, tmp_path)
    states = []
    for name, stops in (("whole", [3]), ("stopped", [2, 3])):
        for epochs in stops:
            # As after a kill: what an earlier, shorter search has left is gone on from.
            options = parse([
                "--config", path, "--share", "0.5", "--warm_up", "1", "--epochs", str(epochs - 1),
            ], None)  # fmt: skip
            search = METHODS["dnis"](options, read_config(options), tmp_path / name)
            done = tmp_path / name / "supernet/results.json"
            done.unlink(missing_ok=True)
            search.supernet()
        states.append(read_checkpoint(tmp_path / name / "supernet/checkpoints/last.ckpt"))
    whole, stopped = (one["state_dict"] for one in states)
    gates = [name for name in whole if name.endswith("gate_SD")]
    assert len(gates) == 2
    assert all(float(whole[name].std()) > 0.01 for name in gates)
    for name in whole:
        assert torch.equal(whole[name], stopped[name]), name


def refused_at_the_start(found: dict, options: list[str], folder: Path, capsys, monkeypatch) -> str:
    """Search, without being able to train; return the one line."""

    def fit(self, *given, **settings):
        raise AssertionError("a training was begun")

    monkeypatch.setattr("lightning.Trainer.fit", fit)
    run = folder / "run"
    arguments = ["--config", write(found, folder), "--run", str(run)]
    assert main(["search", *arguments, *options]) == 2
    assert not run.exists()
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("recemb")]
    return line


def other_family(family: str, folder: Path) -> dict:
    """A model over pairs, or over sessions, on a few events."""
    count = 400
    pl.DataFrame({
        "user": [n // 20 for n in range(count)], "item": [n * 7 % 31 for n in range(count)],
        "time": range(count),
    }).write_parquet(folder / "events.parquet")  # fmt: skip
    plain = {"kind": "full", "dim": 4}
    names = ["user", "item"] if family == "lightgcn.LightGCN" else ["item"]
    model = {"tables": dict.fromkeys(names, plain)}
    model["features"] = {name: {"table": name} for name in names}
    data = {"source": str(folder / "events.parquet"), "batch_size": 16}
    if family == "session.SessionTransformer":
        model["network"] = {"num_layers": 1, "hidden": 4, "max_length": 4}
        data |= {"time": "time", "max_length": 4}
    reader = {"session.SessionTransformer": "sequences.Sequences"}.get(
        family, "interactions.Interactions"
    )
    return {
        "model": {"class_path": f"models.{family}", "init_args": model},
        "data": {"class_path": f"data.{reader}", "init_args": data},
        "trainer": {"max_epochs": 1, "enable_progress_bar": False, "logger": False},
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["lightgcn.LightGCN", "session.SessionTransformer"])
def test_other_models_are_refused_before_training(family, method, tmp_path, capsys, monkeypatch):
    options = ["--method", method, *(["--share", "0.5"] if method != "autodim" else [])]
    found = other_family(family, tmp_path)
    line = refused_at_the_start(found, options, tmp_path, capsys, monkeypatch)
    assert "all methods apply to models that learn labels of rows" in line
    assert f"got {family.partition('.')[2]}" in line


def test_a_share_of_raw_ids_is_refused_before_training(tmp_path, capsys, monkeypatch):
    rows = pl.DataFrame({
        "user": [f"u{n % 9}" for n in range(60)], "item": [n % 7 for n in range(60)],
        "label": [n % 2 for n in range(60)],
    })  # fmt: skip
    for stage in ("train", "validation", "test"):
        rows.write_parquet(tmp_path / f"{stage}.parquet")
    found = {
        "model": {"class_path": "recemb.models.deepfm.DeepFM", "init_args": {
            "tables": {"user": {"kind": "hashed", "num_rows": 16, "dim": 4},
                       "item": {"kind": "full", "dim": 4}},
            "features": {"user": {"table": "user"}, "item": {"table": "item"}},
        }},
        "data": {"class_path": "recemb.data.tabular.Tabular", "init_args": {
            "folder": str(tmp_path), "label": "label",
            "categorical": {"user": {"raw": True}, "item": {}}, "batch_size": 16,
        }},
        "trainer": {"max_epochs": 1, "enable_progress_bar": False, "logger": False},
    }  # fmt: skip
    line = refused_at_the_start(found, ["--share", "0.5"], tmp_path, capsys, monkeypatch)
    assert "user" in line
    assert "raw" in line
