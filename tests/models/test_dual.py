"""Dual embeddings: the step, the noise law, the rankings and their coverage, serving, and fit."""

import json
import math
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from torch.nn import functional as F

from recemb.command_line.main import main
from recemb.command_line.recommend import best
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.models.dual import Dual
from recemb.models.pair_ranking import Evaluation
from recemb.models.skip_gram import Noise, SkipGram, skip_gram_losses
from recemb.rows.optimizers import SGD
from recemb.schema import Attribute, Column, Schema
from recemb.serving.export import export
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.vocabulary import VocabularyConfig, build_vocabulary
from tests.models.pairs import batch as pairs_batch

NUM_ITEMS = 6
CONTEXTS = [[1, 2], [0, 2], [0, 1], [], [], []]  # by item
LENT = [[], [], [], [], [0], []]
COUNTS = [6, 4, 2, 1, 1, 0]


def attribute(lists: list[list[int]]) -> Attribute:
    lengths = [len(one) for one in lists] + [0]
    values = torch.tensor([value for one in lists for value in one], dtype=torch.int64)
    return Attribute("item", "item", True, values, torch.tensor([0, *lengths]).cumsum(0))


def schema() -> Schema:
    """Raw ids are ten times the indices."""
    counts = pl.DataFrame(
        {"value": [10 * n for n in range(NUM_ITEMS)], "count": COUNTS, "seen": [9] * NUM_ITEMS}
    )
    vocabulary = build_vocabulary("item", counts, VocabularyConfig())
    columns = {name: Column(is_list=False, vocabulary="item") for name in ("item", "context")}
    seen = [[item, *own] for item, own in enumerate(CONTEXTS)]
    attributes = {"seen": attribute(seen), "synthetic": attribute(LENT)}
    return Schema(columns=columns, vocabularies={"item": vocabulary}, attributes=attributes)


def build(**settings: object) -> Dual:
    torch.manual_seed(3)
    tables = {name: Full(dim=3, init_scale=1.0) for name in ("in", "out")}
    features = {"item": FeatureConfig(table="in"), "context": FeatureConfig(table="out")}
    model = Dual(schema(), settings.pop("tables", tables), features, **settings)
    model.log = lambda *_, **__: None
    return model


def rows(model: Dual) -> list[torch.Tensor]:
    return [model.embeddings.content(name).values["rows"].clone() for name in ("in", "out")]


def batch(pairs: list[tuple[int, int]]):
    made = pairs_batch(pairs)
    return made._replace(ids=replace(made.ids, names=("item", "context")))


def test_a_step_is_that_of_plain_python() -> None:
    settings = SkipGram(num_negatives=2, l2=0.3)
    model = build(skip_gram=settings, rows_optimizer=SGD(learning_rate=1.0)).train()
    pairs = [(0, 1), (2, 1), (0, 5)]
    drawn = torch.tensor([[3, 1], [4, 4], [0, 3]])  # the first pair's second is its own context
    model.noise.negatives = lambda size, count: drawn
    before = [one.requires_grad_() for one in rows(model)]
    wanted = 0.0
    for (item, context), others in zip(pairs, drawn.tolist(), strict=True):
        own = before[0][item]
        wanted = wanted - F.logsigmoid(own @ before[1][context]) / 3
        for other in others:
            if other != context:
                wanted = wanted - F.logsigmoid(-(own @ before[1][other])) / 3
        read = before[1][[context, *others]]
        wanted = wanted + 0.3 / 2 * (own.square().sum() + read.square().sum()) / 3
    gradients = torch.autograd.grad(wanted, before)
    loss = model.training_step(batch(pairs))
    torch.testing.assert_close(loss.detach(), wanted.detach())
    loss.backward()
    model.embeddings.step()
    for old, gradient, new in zip(before, gradients, rows(model), strict=True):
        torch.testing.assert_close(new, (old - gradient).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.75, 1.0, 40.0])
def test_negatives_follow_the_law(exponent: float) -> None:
    noise = Noise(torch.tensor(COUNTS), SkipGram(exponent=exponent))
    torch.manual_seed(1)
    drawn = noise.negatives(50_000, 4)
    assert drawn.shape == (50_000, 4)
    weights = [max(count, 1) ** exponent for count in COUNTS]
    wanted = torch.tensor([weight / sum(weights) for weight in weights])
    got = torch.bincount(drawn.flatten(), minlength=NUM_ITEMS) / 200_000
    torch.testing.assert_close(got, wanted, atol=0.005, rtol=0)


def test_frequent_items_are_met_less_often() -> None:
    noise = Noise(torch.tensor(COUNTS), SkipGram(subsample=0.1))
    torch.manual_seed(1)
    item_B = torch.tensor([0, 0, 3]).repeat_interleave(20_000)
    context_B = torch.tensor([0, 3, 4]).repeat_interleave(20_000)
    kept = noise.kept(item_B, context_B).float().view(3, -1).mean(1)
    # Of all 14 counts item 0 has 6; items 3 and 4 have 1, below the share of 0.1.
    one = math.sqrt(0.1 / (6 / 14))
    torch.testing.assert_close(kept, torch.tensor([one**2, one, 1.0]), atol=0.02, rtol=0)
    assert Noise(torch.tensor(COUNTS), SkipGram()).kept(item_B, context_B).all()


def test_a_batch_of_which_nothing_is_kept_changes_nothing() -> None:
    model = build(skip_gram=SkipGram(subsample=1e-12)).train()
    before = rows(model)
    loss = model.training_step(batch([(0, 1), (1, 2)]))
    loss.backward()
    model.embeddings.step()
    assert loss == 0
    assert all(torch.equal(old, new) for old, new in zip(before, rows(model), strict=True))


def test_losses_by_hand() -> None:
    got = skip_gram_losses(
        torch.tensor([0.0, 2.0]),
        torch.tensor([[1.0, 3.0], [0.0, 0.0]]),
        torch.tensor([[True, False], [True, True]]),
    )
    wanted = [math.log(2) + math.log(1 + math.e), math.log(1 + math.exp(-2)) + 2 * math.log(2)]
    torch.testing.assert_close(got, torch.tensor(wanted))


def ranking(query: torch.Tensor, answers: torch.Tensor, item: int) -> list[int]:
    scores = (answers @ query).tolist()
    free = [one for one in range(NUM_ITEMS) if one not in (item, *CONTEXTS[item])]
    return sorted(free, key=lambda one: -scores[one])


def test_rankings_are_those_of_plain_python() -> None:
    model = build(evaluation=Evaluation(cutoffs=[2], monitor="recall@2", popularity=[0.5])).eval()
    in_VD, out_VD = (one.detach() for one in model.all_vectors())
    pairs = [(0, 3, 1), (0, 4, 1), (4, 1, 1), (1, 5, 1), (1, 4, 0), (2, 3, 0)]
    item_P, context_P, label_P = torch.tensor(pairs).T
    got = model.compare(in_VD, out_VD, item_P, context_P, label_P > 0)

    def recall(label: int, answers: torch.Tensor, only: tuple[int, ...] = (0, 1, 2, 4)) -> float:
        right: dict[int, list[int]] = {}
        for item, context, own in pairs:
            if own == label and item in only:
                right.setdefault(item, []).append(context)
        shares = [
            sum(one in ranking(in_VD[item], answers, item)[:2] for one in found) / len(found)
            for item, found in right.items()
        ]
        return sum(shares) / len(shares)

    like = in_VD[:NUM_ITEMS]
    wanted = {
        "recall@2": recall(1, out_VD),
        "complements_in_in/recall@2": recall(1, like),
        "substitutes_in_in/recall@2": recall(0, like),
        "substitutes_in_out/recall@2": recall(0, out_VD),
        "covered/recall@2": recall(1, out_VD, (0, 1)),
        "uncovered/recall@2": recall(1, out_VD, (4,)),
        # Items 0, 1, 2 have pairs, item 4 has a synthetic one.
        "coverage": 4 / 6,
    }
    wanted["both/recall@2"] = (recall(1, out_VD) + recall(0, like)) / 2
    assert {name: got[name] for name in wanted} == pytest.approx(wanted)
    alone = model.compare(
        in_VD, out_VD, *(one[label_P > 0] for one in (item_P, context_P, label_P > 0))
    )
    assert alone["both/recall@2"] == pytest.approx(wanted["recall@2"])
    assert not any(name.startswith("substitutes") for name in alone)
    assert len(set(wanted.values())) > 3


def test_items_without_any_pair_are_the_mean_of_the_others() -> None:
    model = build().eval()
    in_ND, out_ND = rows(model)
    got_ND, answers_VD = model.all_vectors()
    known = [0, 1, 2, 4]
    torch.testing.assert_close(got_ND[known], in_ND[known])
    torch.testing.assert_close(got_ND[[3, 5, 6]], in_ND[known].mean(0).expand(3, -1))
    torch.testing.assert_close(answers_VD, out_ND[:NUM_ITEMS])


@pytest.mark.parametrize("kind", ["full", "hashed"])
def test_what_is_exported_gives_complements_and_vectors(kind: str, tmp_path: Path) -> None:
    tables = {name: Full(dim=3, init_scale=1.0) for name in ("in", "out")}
    if kind == "hashed":
        tables["in"] = Hashed(num_rows=4, dim=3, num_hashes=2)
    model = build(tables=tables).eval()
    results = export(model, model.schema, tmp_path / "model.pt")
    assert max(results["parity"].values()) <= 1e-5
    program = torch.jit.load(tmp_path / "model.pt")
    items, scores, vectors = program({"item": torch.tensor([10, 777])})
    in_VD, out_VD = model.all_vectors()
    order = ranking(in_VD[1], out_VD, 1)
    assert items[0, : len(order)].tolist() == [10 * item for item in order]
    torch.testing.assert_close(vectors, in_VD[[1, 6]])
    torch.testing.assert_close(scores[0, 0], (out_VD @ in_VD[1])[order[0]])


def test_complements_and_substitutes_of_items() -> None:
    model = build().eval()
    in_VD, out_VD = model.all_vectors()
    for alike, answers in ((False, out_VD), (True, in_VD[:NUM_ITEMS])):
        items, scores = best(model, torch.tensor([0, 4]), 3, alike=alike)
        for place, item in enumerate((0, 4)):
            found = scores[place] > -torch.inf
            # By scores: items 3 and 5, of which nothing is known, are the same.
            order = ranking(in_VD[item], answers, item)[:3]
            assert set(items[place][found].tolist()).isdisjoint((item, *CONTEXTS[item]))
            torch.testing.assert_close(
                scores[place][found], (answers @ in_VD[item])[order].detach()
            )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_negatives": 0}, r"^skip_gram: num_negatives must be at least 1, got 0"),
        ({"exponent": math.nan}, r"^skip_gram: exponent must be a finite number, got nan"),
        ({"subsample": 0.0}, r"^skip_gram: subsample must be above 0, got 0"),
        ({"l2": -1.0}, r"^skip_gram: l2 must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=message):
        build(skip_gram=SkipGram(**settings))


def test_features_must_be_item_and_context() -> None:
    features = {"item": FeatureConfig(table="in")}
    with pytest.raises(RecembError, match=r"^Dual: features must be 'item' and 'context'"):
        Dual(schema(), {"in": Full(dim=3)}, features)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items of two halves in six groups: what goes with an item is the other half of its group.

    Items of one half and group share all complements: those are substitutes.
    """
    folder = tmp_path_factory.mktemp("relations")
    groups = {item: (item % 6, item // 6 % 2) for item in range(120)}

    def others(item: int, half: int) -> list[int]:
        group = groups[item][0]
        return [one for one, own in groups.items() if own == (group, half) and one != item]

    pl.DataFrame(
        {
            "item": list(groups),
            # The last three items have no complements.
            "goes": [[o for o in others(i, 1 - groups[i][1]) if max(i, o) < 117] for i in groups],
            "like": [others(item, groups[item][1]) for item in groups],
            "group": [f"{group}-{half}" for group, half in groups.values()],
        }
    ).write_parquet(folder / "items.parquet")
    section = {
        "seed_everything": 1,
        "model": {
            "class_path": "recemb.models.dual.Dual",
            "init_args": {
                "tables": {name: {"kind": "full", "dim": 16} for name in ("in", "out")},
                "features": {"item": {"table": "in"}, "context": {"table": "out"}},
                "rows_optimizer": {"kind": "adam", "learning_rate": 0.05},
            },
        },
        "data": {
            "class_path": "recemb.data.complements.Complements",
            "init_args": {
                "relations": {
                    "path": str(folder / "items.parquet"),
                    "complements": "goes",
                    "substitutes": "like",
                },
                "synthetic": {"columns": ["group"]},
                "batch_size": 64,
            },
        },
        "trainer": {"max_epochs": 12, "enable_progress_bar": False, "log_every_n_steps": 1},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(section, sort_keys=False))
    return path


def test_what_goes_together_and_what_is_alike_are_told_apart(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["fit", "--config", str(config), "--run", str(run)]) == 0
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert metrics["test/recall@10"] > 0.9
    assert metrics["test/recall@10"] > metrics["test/complements_in_in/recall@10"] + 0.5
    found = metrics["test/substitutes_in_in/recall@10"]
    assert found > metrics["test/substitutes_in_out/recall@10"] + 0.5
    assert metrics["test/coverage"] == 1.0
    checkpoint = str(run / "checkpoints/best.ckpt")
    assert main(["export", checkpoint, "--run", str(tmp_path / "exported")]) == 0
    program = torch.jit.load(tmp_path / "exported/model.pt")
    items, _, _ = program({"item": torch.tensor([3, 119])})
    asked = ["recommend", checkpoint, "--count", "5", "--run"]
    assert main([*asked, str(tmp_path / "goes"), "--complements_of", "3", "119"]) == 0
    rows = pl.read_parquet(tmp_path / "goes/recommendations.parquet")
    assert rows["query"].to_list() == [3] * 5 + [119] * 5
    assert rows["item"].to_list() == items[:, :5].flatten().tolist()
    # An item without a pair of its own: the other half of its group, by synthetic pairs.
    of_last = rows.filter(pl.col("query") == 119)["item"].to_list()
    assert {(item % 6, item // 6 % 2) for item in of_last} == {(119 % 6, 1 - 119 // 6 % 2)}
    assert main([*asked, str(tmp_path / "like"), "--substitutes_of", "3"]) == 0
    like = pl.read_parquet(tmp_path / "like/recommendations.parquet")["item"].to_list()
    assert [(item % 6, item // 6 % 2) for item in like].count((3, 0)) >= 4
    assert main([*asked, str(tmp_path / "none"), "--users", "3"]) == 2
