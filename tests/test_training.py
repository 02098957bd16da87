"""The path from Python: frames in, a trained model, frames out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

import recemb
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.training import with_sources

TRAINER = {"max_epochs": 1, "enable_progress_bar": False, "logger": False, "log_every_n_steps": 1}
CLICKS = pl.DataFrame(
    {
        "clicked": [(n * 7) % 3 == 0 for n in range(300)],
        "user": [f"u{n % 7}" for n in range(300)],
        "item": [n % 11 for n in range(300)],
    }
)
RANKER = {
    "seed_everything": 1,
    "model": {
        "class_path": "recemb.models.deepfm.DeepFM",
        "init_args": {
            "tables": {"user": {"kind": "full", "dim": 4}, "item": {"kind": "full", "dim": 4}},
            "features": {"user": {"table": "user"}, "item": {"table": "item"}},
        },
    },
    "data": {
        "class_path": "recemb.data.tabular.Tabular",
        "init_args": {"label": "clicked", "categorical": {"user": {}, "item": {}}},
    },
    "trainer": TRAINER,
}
# User n has the items n to n + 5 of 20, in this order.
PAIRS = pl.DataFrame(
    {
        "customer": [f"c{n}" for n in range(15) for _ in range(6)],
        "product": [(n + step) % 20 for n in range(15) for step in range(6)],
    }
)
BPR = {
    "model": {
        "class_path": "recemb.models.mf_bpr.MatrixFactorizationBPR",
        "init_args": RANKER["model"]["init_args"],  # type: ignore[index]
    },
    "data": {
        "class_path": "recemb.data.interactions.Interactions",
        "init_args": {"user": "customer", "item": "product", "validation_share": 0.2},
    },
    "trainer": TRAINER,
}


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> recemb.Trained:
    run = tmp_path_factory.mktemp("ranker") / "run"
    parts = {"validation": CLICKS[200:250].lazy(), "test": CLICKS[250:]}
    return recemb.fit(RANKER, train=CLICKS[:200], run=run, **parts)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> recemb.Trained:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pairs.yaml").write_text(yaml.safe_dump(BPR))
    return recemb.fit(folder / "pairs.yaml", train=PAIRS, run=folder / "run")


def test_a_fit_on_frames_measures_what_it_was_given(ranker: recemb.Trained) -> None:
    assert set(ranker.metrics) == {"val/auc", "val/logloss", "test/auc", "test/logloss"}
    rows = ranker.predict(CLICKS[250:], keep=["clicked"])
    label = rows["clicked"].cast(pl.Float64)
    p = rows["probability"].cast(pl.Float64)
    losses = -(label * p.log() + (1 - label) * (1 - p).log())
    assert ranker.metrics["test/logloss"] == pytest.approx(losses.mean(), abs=1e-6)


def test_predictions_are_those_of_the_exported_program(
    ranker: recemb.Trained, tmp_path: Path
) -> None:
    rows = pl.DataFrame({"user": ["u3", "never seen", "u0"], "item": [2, 10, 999]})
    found = ranker.export(tmp_path / "model.pt", quantize=None)
    program = torch.jit.load(found["program"])
    users = torch.tensor([hash_string(one) for one in rows["user"]])
    wanted = program({"user": users, "item": torch.tensor([2, 10, 999])})
    predicted = ranker.predict(rows)["probability"].to_list()
    assert predicted == pytest.approx(wanted.tolist(), abs=1e-6)
    assert len(set(predicted)) == 3


def test_pandas_comes_out_where_pandas_came_in(ranker: recemb.Trained) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"user": ["u1", "u2"], "item": [1, 2]}, index=[50, 40])
    found = ranker.predict(frame, keep=["user"])
    assert isinstance(found, pd.DataFrame)
    assert (list(found.index), list(found["user"])) == ([50, 40], ["u1", "u2"])
    wanted = ranker.predict(pl.from_pandas(frame))["probability"].to_list()
    assert list(found["probability"]) == pytest.approx(wanted)


def test_a_model_is_loaded_by_run_folder_or_checkpoint_from_anywhere(
    ranker: recemb.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ranker.path.parents[1]
    wanted = ranker.predict(CLICKS[:5])
    monkeypatch.chdir(run.parent)
    of_run = recemb.load("run")
    monkeypatch.chdir(tmp_path)
    assert of_run.path == ranker.path
    assert of_run.metrics == ranker.metrics
    for loaded in (of_run, recemb.load(ranker.path)):
        assert loaded.predict(CLICKS[:5]).equals(wanted)


def test_items_are_ranked_by_products_without_those_that_a_user_has(
    recommender: recemb.Trained,
) -> None:
    users, items = recommender.vectors("user"), recommender.vectors("item")
    assert users["vector"].dtype == pl.Array(pl.Float32, 4)
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    place = users["id"].to_list().index("c3")
    own = dict(zip(items["id"].to_list(), scores[place].tolist(), strict=True))
    found = recommender.recommend(["c3", "stranger"], k=4)
    assert found.columns == ["customer", "item", "score", "rank", "known"]
    assert found["customer"].to_list() == ["c3"] * 4 + ["stranger"] * 4
    assert found["known"].to_list() == [True] * 4 + [False] * 4
    assert found["rank"].to_list() == [1, 2, 3, 4] * 2
    mine = found.filter(pl.col("customer") == "c3")
    assert mine["score"].to_list() == pytest.approx([own[one] for one in mine["item"]], abs=1e-6)
    # Of six items one is test and one validation; training has the others.
    attribute = recommender.schema.attributes["seen"]
    known = recommender.schema.vocabularies["user"].values(torch.arange(15)).to_list()
    start, stop = attribute.offsets_V[known.index("c3") : known.index("c3") + 2].tolist()
    index = attribute.values_M[start:stop].to(torch.int64)
    seen = recommender.schema.vocabularies["item"].values(index).to_list()
    assert set(seen) < set(range(3, 9))
    best = sorted((one for one in own if one not in seen), key=own.__getitem__, reverse=True)
    assert mine["item"].to_list() == best[:4]


@pytest.mark.parametrize("kind", ["array", "series", "frame", "pandas", "file"])
def test_users_come_in_any_form(recommender: recemb.Trained, kind: str, tmp_path: Path) -> None:
    users: Any = ["c3", "c1"]
    wanted = recommender.recommend(users, k=2)
    if kind == "array":
        users = np.array(users)
    elif kind == "series":
        users = pl.Series(users, dtype=pl.Categorical)
    elif kind == "frame":
        users = pl.DataFrame({"customer": users, "age": [1, 2]})
    elif kind == "file":
        pl.DataFrame({"customer": users}).write_csv(tmp_path / "users.csv")
        users = tmp_path / "users.csv"
    else:
        users = pytest.importorskip("pandas").Series(users)
    found = recommender.recommend(users, k=2)
    assert pl.DataFrame(found).equals(wanted)
    assert isinstance(found, pl.DataFrame) == (kind != "pandas")


def test_everyone_is_asked_for_where_nobody_is_named(recommender: recemb.Trained) -> None:
    found = recommender.recommend(k=1)
    assert set(found["customer"]) == {f"c{n}" for n in range(15)}


def test_next_items_of_sessions(tmp_path: Path) -> None:
    events = PAIRS.with_columns(time=pl.int_range(pl.len()).over("customer"))
    settings = {
        "model": {
            "class_path": "recemb.models.session.SessionTransformer",
            "init_args": {
                "tables": {"item": {"kind": "full", "dim": 8}},
                "features": {"item": {"table": "item"}},
                "network": {"num_layers": 1, "num_heads": 1, "hidden": 8, "max_length": 5},
            },
        },
        "data": {
            "class_path": "recemb.data.sequences.Sequences",
            "init_args": {
                "sequence": "customer", "item": "product", "time": "time", "max_length": 5
            },
        },
        "trainer": TRAINER,
    }  # fmt: skip
    trained = recemb.fit(settings, train=events.lazy(), run=tmp_path / "run")
    asked = pl.DataFrame({"customer": ["x", "x", "y"], "product": [1, 2, 77], "time": [1, 2, 1]})
    found = trained.recommend(asked, k=3)
    assert found.columns == ["customer", "item", "score", "rank", "known"]
    assert dict(found.select("customer", "known").unique().rows()) == {"x": True, "y": False}
    assert found["rank"].to_list() == [1, 2, 3] * 2
    with pytest.raises(
        RecembError, match=r"frame sessions: column 'time' is missing; the frame has"
    ):
        trained.recommend(asked.drop("time"))
    with pytest.raises(RecembError, match="a model of sessions needs a frame or file of events"):
        trained.recommend()


def test_a_stage_takes_the_place_of_its_file_and_others_are_left() -> None:
    def of(class_name: str, **init_args: object) -> dict[str, Any]:
        return {"data": {"class_path": class_name, "init_args": init_args}}

    tabular = "data.tabular.Tabular"  # an old class path
    found = with_sources(of(tabular, label="y"), {"train": "a.csv"})["data"]["init_args"]
    assert found == {"label": "y", "train": "a.csv", "validation": None, "test": None}
    named = of(tabular, label="y", test="t.csv", train="old.csv")
    found = with_sources(named, {"train": "a.csv"})["data"]["init_args"]
    assert found == {"label": "y", "train": "a.csv", "validation": None, "test": "t.csv"}
    assert named["data"]["init_args"]["train"] == "old.csv"
    pairs = "recemb.data.interactions.Interactions"
    found = with_sources(of(pairs), {"train": "a.csv", "test": "t.csv"})["data"]["init_args"]
    assert found == {"source": "a.csv", "test": "t.csv"}
    with pytest.raises(RecembError, match="validation: Interactions takes no such frame; leave it"):
        with_sources(of(pairs), {"validation": "a.csv"})
    with pytest.raises(
        RecembError, match=r"data.class_path 'recemb.data.no.No' cannot be imported"
    ):
        with_sources(of("recemb.data.no.No"), {"train": "a.csv"})
    with pytest.raises(RecembError, match="config: data must be a section with a class_path"):
        with_sources({"data": 3}, {"train": "a.csv"})


def test_frames_may_stand_in_the_configuration(tmp_path: Path) -> None:
    about = pl.DataFrame({"key": [0, 1], "kind": ["a", "b"]})
    described = {"path": about, "key": "item", "column": "key", "categorical": {"kind": {}}}
    section = {"class_path": "recemb.data.tabular.Tabular", "init_args": {"attributes": described}}
    found = with_sources({"data": section}, {})["data"]["init_args"]["attributes"]
    assert pl.read_parquet(found["path"]).equals(about)
    assert described["path"] is about


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (
            lambda m: m.predict(CLICKS.drop("user")),
            "frame predict: column 'user' is missing; the f",
        ),
        (lambda m: m.predict([1]), "predict: must be a file or a frame"),
        (
            lambda m: m.predict(CLICKS.with_columns(item=pl.lit("x"))),
            "frame predict: column 'item': ids must be integers as in training, got type String",
        ),
        (lambda m: m.recommend(["u1"]), "ranks no items; use predict"),
        (lambda m: m.vectors("shop"), "vectors: there is no table 'shop'; the model has ['item', "),
        (lambda m: m.export("model.onnx"), "model.onnx: the program's name must end in .pt"),
        (lambda m: m.export("model.pt", "int3"), "export: quantize must be one of ['fp16', "),
    ],
)
def test_what_a_ranker_cannot_do(ranker: recemb.Trained, ask: Any, wanted: str) -> None:
    with pytest.raises(RecembError) as caught:
        ask(ranker)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda m: m.predict(PAIRS), "makes rows of its own, so none can be given; use recommend"),
        (lambda m: m.recommend(["c1"], k=0), "recommend: k must be at least 1, got 0"),
        (
            lambda m: m.recommend([1, 2]),
            "frame users: column 'user': users are strings in this mod",
        ),
        (lambda m: m.recommend([1, "a"]), "recommend: users must be a list, an array, a column or"),
        (lambda m: m.recommend([]), "recommend: there are no users to ask for"),
        (
            lambda m: m.recommend(pl.DataFrame({"a": ["c1"], "b": ["c1"]})),
            "frame users: column 'customer' is missing; the file has ['a', 'b']",
        ),
    ],
)
def test_what_a_recommender_cannot_do(recommender: recemb.Trained, ask: Any, wanted: str) -> None:
    with pytest.raises(RecembError) as caught:
        ask(recommender)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ([1], "config: must be the path of a configuration or a mapping of its sections, got list"),
        ("no.yaml", "no.yaml: there is no such file"),
        (
            {**RANKER, "model": {"class_path": "x", "init_args": {"a": object()}}},
            "config: must hold",
        ),
        ({**RANKER, "trainer": {"max_epoch": 1}}, "max_epoch"),
        ({**RANKER, "seed_everything": [1]}, "seed_everything"),
    ],
)
def test_a_wrong_configuration_is_one_line(config: Any, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(RecembError) as caught:
        recemb.fit(config, train=CLICKS, run=tmp_path / "run")
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_of_the_software_keeps_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("recemb.command_line.train.module_bytes", fails)
    with pytest.raises(KeyError, match="a fault"):
        recemb.fit(RANKER, train=CLICKS, run=tmp_path / "run")


def test_the_package_is_imported_without_what_trains() -> None:
    code = "import sys, recemb; assert not {'lightning', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'fits'"):
        recemb.fits  # noqa: B018
