"""Matrix factorisation by the formula, trained and measured by squared error, also in a search."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.models.matrix_factorization import MatrixFactorization
from recemb.serving.export import export
from tests.models import example


def build(dim: int = 3, names: tuple[str, ...] = ("user", "item"), **settings: object) -> object:
    torch.manual_seed(4)
    return MatrixFactorization(
        example.schema(dense=False),
        example.tables(**dict.fromkeys(names, dim)),
        {name: FeatureConfig(table=name) for name in names},
        **settings,
    )


def ids() -> dict[str, torch.Tensor]:
    return {"user": torch.tensor(example.USER), "item": torch.tensor(example.ITEM)}


def test_ratings_follow_the_formula() -> None:
    model = build(offset=3.5)
    rows = {name: model.embeddings.content(name).values["rows"] for name in ("user", "item")}
    wanted = []
    for user, item in zip(example.USER, example.ITEM, strict=True):
        (bias, *p), (other, *q) = rows["user"][user].tolist(), rows["item"][item].tolist()
        wanted.append(3.5 + bias + other + sum(a * b for a, b in zip(p, q, strict=True)))
    got = model.eval().score(ids(), torch.empty(7, 0))
    torch.testing.assert_close(got, torch.tensor(wanted))


def test_products_are_dropped_and_biases_are_not() -> None:
    model = build(dim=401, dropout=0.5).train()
    for name in ("user", "item"):
        rows = torch.ones_like(model.embeddings.content(name).values["rows"])
        model.embeddings.rows.assign(name, rows)
    # 400 products of 1, half of them dropped and the others twice as large: 400 with a deviation
    # of 20, plus two biases.
    got = model.score(ids(), torch.empty(7, 0)).detach()
    assert 300 < float(got.min()) < 402 < float(got.max()) < 504
    assert got.unique().numel() > 1
    assert torch.equal(
        model.eval().score(ids(), torch.empty(7, 0)).detach(), torch.full((7,), 402.0)
    )


def test_what_is_exported_are_ratings(tmp_path: Path) -> None:
    model = build(offset=3.5)
    results = export(model, model.schema, tmp_path / "model.pt")
    assert max(results["parity"].values()) <= 1e-5
    program = torch.jit.load(tmp_path / "model.pt")
    # Raw ids are ten times the numbers in this data set; lists that are not read are empty.
    empty = torch.zeros(1, dtype=torch.int64)
    asked = {"user": torch.tensor([20]), "item": torch.tensor([30]), "tags": empty[:0]}
    got = program({**asked, "tags.size": empty})
    wanted = model.score({"user": torch.tensor([2]), "item": torch.tensor([3])}, torch.empty(1, 0))
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("user",)}, r"^MatrixFactorization: a rating must be by two features and no"),
        ({"dim": 1}, r"^MatrixFactorization: vectors must have a bias and at least one factor"),
        ({"dropout": 1.0}, r"^MatrixFactorization: dropout must be at least 0 and below 1, got 1"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=message):
        build(**settings)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of rank 2 with noise of variance .04."""
    folder = tmp_path_factory.mktemp("ratings")
    generator = np.random.default_rng(1)
    user, movie = generator.integers(0, 60, 9000), generator.integers(0, 40, 9000)
    p, q = generator.normal(size=(60, 2)), generator.normal(size=(40, 2))
    rating = 3 + (p[user] * q[movie]).sum(1) + 0.2 * generator.normal(size=9000)
    rows = pl.DataFrame({"user": user, "movie": movie, "stars": rating})
    for name, start, end in (("train", 0, 7000), ("validation", 7000, 8000), ("test", 8000, 9000)):
        rows[start:end].write_parquet(folder / f"{name}.parquet")
    names = ("user", "movie")
    section = {
        "seed_everything": 1,
        "model": {
            "class_path": "recemb.models.matrix_factorization.MatrixFactorization",
            "init_args": {
                "tables": {name: {"kind": "full", "dim": 6} for name in names},
                "features": {name: {"table": name} for name in names},
                "offset": 3.0,
                "rows_optimizer": {"kind": "adam", "learning_rate": 0.02},
            },
        },
        "data": {
            "class_path": "recemb.data.tabular.Tabular",
            "init_args": {
                "folder": str(folder),
                "label": "stars",
                "label_type": "number",
                "categorical": {name: {} for name in names},
                "batch_size": 128,
            },
        },
        "trainer": {"max_epochs": 12, "enable_progress_bar": False},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(section, sort_keys=False))
    return path


def test_the_epoch_of_the_smallest_error_is_kept(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["fit", "--config", str(config), "--run", str(run)]) == 0
    results = json.loads((run / "results.json").read_text())
    assert set(results["metrics"]) == {"val/mse", "val/mae", "test/mse", "test/mae"}
    # The variance of ratings is 2, that of their noise .04.
    assert 0.03 < results["metrics"]["test/mse"] < 0.2
    (log,) = run.glob("csv*/metrics.csv")
    by_epoch = pl.read_csv(log)["val/mse"].drop_nulls()
    assert results["metrics"]["val/mse"] == pytest.approx(by_epoch.min(), rel=1e-4)
    checkpoint = str(run / "checkpoints/best.ckpt")
    options = ["--config", str(config), "--ckpt_path", checkpoint, "--run", str(tmp_path / "told")]
    assert main(["predict", *options]) == 0
    told = pl.read_parquet(tmp_path / "told/predictions.parquet")
    given = pl.read_parquet(config.parent / "test.parquet")
    error = float(((told["rating"] - given["stars"]) ** 2).mean())
    assert error == pytest.approx(results["metrics"]["test/mse"], rel=1e-3)


@pytest.mark.parametrize("method", ["dnis", "optembed"])
def test_a_search_goes_by_the_error(method: str, config: Path, tmp_path: Path) -> None:
    options = ["--share", "0.5", "--blocks", "2", "--block_ids", "10", "--rounds", "3"]
    options += ["--draws", "2"]
    where = ["--config", str(config), "--run", str(tmp_path / "run"), "--method", method]
    assert main(["search", *where, *options, "--baselines", "uniform", "random", "--plots"]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    # A rank of 2 and a bias need 3 of the 6 dimensions.
    assert results["forms"]["dense"]["metrics"]["test/mse"] < 0.4
    derived = results["derived"]["dense"]
    if method == "optembed":
        scores = json.loads((tmp_path / "run/evolution.json").read_text())["scores"]
        assert derived["held_out_mse"] == min(-score for _, score in scores)
    else:
        assert derived["supernet"]["held_out_mse"] <= derived["masked"]["held_out_mse"]
