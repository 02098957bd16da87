"""MF, LightGCN and NGCF against dense matrices; steps, rankings, what is served, and fit."""

import json
import math
from pathlib import Path

import polars as pl
import pytest
import torch
import yaml
from torch.nn import functional as F

from recemb.command_line.main import main
from recemb.errors import RecembError
from recemb.models.catalogue_ranking import best_items, metric_names, set_metrics
from recemb.models.collaborative_filtering import Training
from recemb.models.graph_filtering import Propagation
from recemb.models.ngcf import _Mix, kept_elements
from recemb.models.pair_ranking import Evaluation
from recemb.rows.optimizers import SGD
from recemb.serving.export import export
from tests.command_line.launch import torchrun
from tests.models.pairs import MODELS, NUM_ITEMS, NUM_USERS, SEEN, adjacency, batch, build, rows


def layers_of(model: object, dense: torch.Tensor, x_ND: torch.Tensor) -> torch.Tensor:
    """What NGCF's formula makes of vectors, by dense products."""
    found = [x_ND]
    for add, multiply in zip(model.sums, model.products, strict=True):
        m = dense @ x_ND
        x_ND = (x_ND + m) @ add.weight.T + add.bias + (x_ND * m) @ multiply.weight.T + multiply.bias
        x_ND = torch.where(x_ND > 0, x_ND, 0.2 * x_ND)
        found.append(x_ND / x_ND.norm(dim=1, keepdim=True))
    return torch.cat(found, 1)


def wanted_vectors(kind: str, model: object, x_ND: torch.Tensor) -> torch.Tensor:
    """Vectors of all nodes by the formulas in the modules."""
    dense = adjacency()
    if kind == "mf":
        return x_ND
    if kind == "ngcf":
        return layers_of(model, dense, x_ND)
    return sum(torch.matrix_power(dense, k) @ x_ND for k in range(4)) / 4


@pytest.mark.parametrize("kind", MODELS)
def test_vectors_are_those_of_the_formula(kind: str) -> None:
    model = build(kind).eval()
    x_ND = torch.cat(rows(model))
    wanted = wanted_vectors(kind, model, x_ND).detach()
    user_UD, item_VD = (one.detach() for one in model.all_vectors())
    torch.testing.assert_close(user_UD[:5], wanted[:5])
    torch.testing.assert_close(item_VD, wanted[7 : 7 + NUM_ITEMS])
    # Users without items, known or not, are the mean of the others.
    torch.testing.assert_close(user_UD[5:], wanted[:5].mean(0).expand(2, -1))


@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("fanout", [None, 9])
@pytest.mark.parametrize("kind", MODELS)
def test_a_step_is_that_of_the_dense_formula(kind: str, fanout: int | None, negatives: str) -> None:
    settings = {} if kind == "mf" else {"propagation": Propagation(fanout=fanout)}
    model = build(
        kind,
        training=Training(num_negatives=2, negatives=negatives, l2=0.3),
        rows_optimizer=SGD(learning_rate=1.0),
        **settings,
    ).train()
    model.log = lambda *_, **__: None
    taken = [(0, 1), (1, 2), (0, 5)]
    drawn = torch.tensor([[6, 7], [3, 6], [7, 7]])
    model.sampler.negatives = lambda user_B, count: drawn
    before = [one.requires_grad_() for one in rows(model)]
    x_ND = torch.cat(before)
    final = wanted_vectors(kind, model, x_ND)
    # NGCF's authors regularise all layers; those of unit length have no gradient of it.
    regular = final if kind != "lightgcn" else x_ND
    wanted = shown = 0.0
    for (user, item), drawn_items in zip(taken, drawn.tolist(), strict=True):
        items = [7 + item, *(7 + other for other in drawn_items)]
        own = final[items] @ final[user]
        others = own[1:].max() if negatives == "hardest" else own[1:]
        ranking = -F.logsigmoid(own[0] - others).mean() / 3
        nodes = [user, *items]
        wanted = wanted + ranking + 0.3 / 2 * regular[nodes].square().sum() / 3
        shown = shown + ranking + 0.3 / 2 * x_ND[nodes].square().sum() / 3
    layers = [*model.sums, *model.products] if kind == "ngcf" else []
    weights = [one for layer in layers for one in layer.parameters()]
    gradients = torch.autograd.grad(wanted, before + weights)
    loss = model.training_step(batch(taken))
    torch.testing.assert_close(loss.detach(), shown.detach())
    loss.backward()
    model.embeddings.step()
    for old, gradient, new in zip(before, gradients[:2], rows(model), strict=True):
        torch.testing.assert_close(new, (old - gradient).detach(), atol=1e-5, rtol=1e-4)
        assert gradient.abs().max() > 0.01
    for weight, gradient in zip(weights, gradients[2:], strict=True):
        torch.testing.assert_close(weight.grad, gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_a_process_may_have_no_part_of_a_batch(kind: str, negatives: str) -> None:
    settings = Training(num_negatives=2, negatives=negatives)
    model = build(kind, training=settings, rows_optimizer=SGD(learning_rate=1.0)).train()
    model.log = lambda *_, **__: None
    before = rows(model)
    loss = model.training_step(batch([]))
    assert loss.item() == 0
    loss.backward()
    model.embeddings.step()
    for old, new in zip(before, rows(model), strict=True):
        assert torch.equal(old, new)


def test_dropped_nodes_send_nothing_and_the_others_more() -> None:
    model = build("lightgcn", propagation=Propagation(num_layers=1, node_dropout=0.5)).train()
    x_ND = torch.cat(rows(model))
    torch.manual_seed(5)
    found, _ = model.propagate(x_ND, model.graph.whole(1).layers)
    torch.manual_seed(5)
    sends_N1 = (torch.rand(len(x_ND), 1) >= 0.5).float() * 2
    assert 0 < (sends_N1 == 0).sum() < len(x_ND)
    torch.testing.assert_close(found, (x_ND + adjacency() @ (x_ND * sends_N1)) / 2)
    model.eval()
    found, _ = model.propagate(x_ND, model.graph.whole(1).layers)
    torch.testing.assert_close(found, (x_ND + adjacency() @ x_ND) / 2)


def test_dropped_messages_are_elements_of_what_a_layer_makes() -> None:
    model = build("ngcf", propagation=Propagation(num_layers=1, message_dropout=0.5)).train()
    x_ND = torch.cat(rows(model))
    found, _ = model.propagate(x_ND, model.graph.whole(1).layers)
    share = (found[:, 4:] == 0).float().mean()
    assert 0.2 < share < 0.8
    assert (found[:, :4] == x_ND).all()


@pytest.mark.parametrize("is_dropped", [True, False])
def test_what_ngcf_makes_and_its_gradients_are_those_of_the_formula(is_dropped: bool) -> None:
    torch.manual_seed(1)
    shapes = [(6, 3), (6, 3), (3, 3), (3,), (3, 3), (3,)]
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    kept = (torch.rand(6, 3) < 0.6).double() if is_dropped else None
    scale = 2.5 if is_dropped else 1.0
    x, message, add, add_bias, multiply, multiply_bias = inputs
    wanted = (x + message) @ add.T + add_bias + (x * message) @ multiply.T + multiply_bias
    wanted = F.leaky_relu(wanted, 0.2) * scale * (1 if kept is None else kept)
    torch.testing.assert_close(_Mix.apply(*inputs, kept, scale), wanted)
    assert torch.autograd.gradcheck(lambda *given: _Mix.apply(*given, kept, scale), inputs)


def test_dropout_of_messages_keeps_each_element_with_its_probability() -> None:
    torch.manual_seed(1)
    # Five elements need two draws of four, of which three are left over.
    kept = torch.stack([kept_elements(torch.empty(1, 5), 0.3)[0] for _ in range(4000)])
    assert (kept.mean(0) - 0.7).abs().max() < 0.04
    together = (kept.T @ kept) / 4000
    assert (together.fill_diagonal_(0.49) - 0.49).abs().max() < 0.05
    assert kept_elements(torch.empty(100_003), 0.1).mean().item() == pytest.approx(0.9, abs=0.005)
    assert kept_elements(torch.empty(0, 4), 0.1).shape == (0, 4)


def ranking(scores: list[float], taken: list[int]) -> list[int]:
    free = [item for item in range(NUM_ITEMS) if item not in taken]
    return sorted(free, key=lambda item: -scores[item])


def test_a_ranking_is_that_of_plain_python(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tiles of three items and two users.
    monkeypatch.setattr("recemb.models.catalogue_ranking.TILE_ITEMS", 3)
    monkeypatch.setattr("recemb.models.pair_ranking.TILE_ITEMS", 3)
    monkeypatch.setattr("recemb.models.pair_ranking.TILE_SCORES", 6)
    evaluation = Evaluation(cutoffs=[1, 3], monitor="recall@3", popularity=[0.5])
    model = build("mf", evaluation=evaluation).eval()
    user_UD, item_VD = model.all_vectors()
    right = {1: [3, 6], 0: [7], 4: [0, 1, 5, NUM_ITEMS], 5: [2]}  # one item is not known
    pairs = [(user, item) for user, items in right.items() for item in items]
    pairs = [pairs[k] for k in torch.randperm(len(pairs)).tolist()]
    got = model.measure(user_UD, item_VD, *torch.tensor(pairs).T)
    wanted = dict.fromkeys(metric_names([1, 3]), 0.0)
    hits, answers = [0, 0], [0, 0]
    for user, items in right.items():
        order = ranking((item_VD @ user_UD[user]).tolist(), [*SEEN, []][user])
        for k in (1, 3):
            ranks = [n + 1 for n, item in enumerate(order[:k]) if item in items]
            ideal = sum(1 / math.log2(1 + n) for n in range(1, min(k, len(items)) + 1))
            wanted[f"hr@{k}"] += bool(ranks) / 4
            wanted[f"recall@{k}"] += len(ranks) / len(items) / 4
            wanted[f"ndcg@{k}"] += sum(1 / math.log2(1 + n) for n in ranks) / ideal / 4
            wanted[f"mrr@{k}"] += (1 / ranks[0] if ranks else 0) / 4
        for item in items:
            if item < NUM_ITEMS:
                answers[item >= 4] += 1
                hits[item >= 4] += item in order[:3]
    assert 0 < wanted["recall@3"] < 1
    assert got == pytest.approx(
        {
            **wanted,
            "recall@3_of_0%_to_50%": hits[0] / answers[0],
            "recall@3_of_50%_to_100%": hits[1] / answers[1],
        }
    )


def test_scores_that_are_no_numbers_find_nothing() -> None:
    model = build("mf").eval()
    user_UD, item_VD = model.all_vectors()
    found = model.measure(user_UD * torch.nan, item_VD, torch.tensor([1]), torch.tensor([3]))
    assert found["recall@20"] == 0.0


def test_best_items_leave_out_what_is_excluded() -> None:
    query_BD, item_VD = torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [1.0], [2.0], [0.0]])
    excluded = (torch.tensor([0, 1, 1, 1]), torch.tensor([0, 3, 1, 2]))
    items, scores = best_items(query_BD, lambda q, t: q @ item_VD[t].T, 4, 3, excluded)
    assert items[0].tolist() == [2, 1, 3]
    assert items[1].tolist() == [0, -1, -1]
    assert scores[1].tolist() == [-3.0, -math.inf, -math.inf]


def test_set_metrics_by_hand() -> None:
    hits = torch.tensor([[True, False, True], [False, False, False]])
    got = set_metrics(hits, torch.tensor([4, 1]), [1, 3])
    second = 1 + 1 / math.log2(3) + 1 / 2
    wanted = [1, 1 / 4, 1, 1, 1, 2 / 4, (1 + 1 / 2) / second, 1]
    torch.testing.assert_close(got, torch.tensor([wanted, [0.0] * 8], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["mf", "lightgcn"])
def test_what_is_exported_recommends(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    results = export(model, model.schema, tmp_path / "model.pt")
    assert max(results["parity"].values()) <= 1e-5
    program = torch.jit.load(tmp_path / "model.pt")
    items, scores, vectors = program({"user": torch.tensor([10, 777])})
    user_UD, item_VD = model.all_vectors()
    torch.testing.assert_close(vectors, user_UD[[1, NUM_USERS]])
    order = ranking((item_VD @ user_UD[1]).tolist(), SEEN[1])
    assert items[0, : len(order)].tolist() == [10 * item for item in order]
    assert scores[0, len(order) :].tolist() == [-math.inf] * 3
    unknown = ranking((item_VD @ user_UD[:5].mean(0)).tolist(), [])
    assert items[1].tolist() == [10 * item for item in unknown]
    names = {name for name, _ in program.named_buffers()}
    assert ("user_UD" in names) == (kind == "lightgcn")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": Training(num_negatives=0)}, r"^training: num_negatives must be at least 1"),
        (
            {"training": Training(negatives="hardest")},
            r"^training: negatives 'hardest' chooses among num_negatives, which must be at least 2",
        ),
        ({"training": Training(l2=-1.0)}, r"^training: l2 must be at least 0, got -1"),
        ({"evaluation": Evaluation(cutoffs=[5])}, r"^evaluation: monitor must be one of \['hr@5'"),
        ({"evaluation": Evaluation(popularity=[0.5, 0.1])}, r"popularity must be rising shares"),
        ({"propagation": Propagation(num_layers=0)}, r"^propagation: num_layers must be at least"),
        ({"propagation": Propagation(node_dropout=1.0)}, r"^propagation: node_dropout must be at"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=message):
        build("lightgcn", **settings)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users and items of four tastes; nine pairs of ten are of the user's own."""
    folder = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(1)
    user = torch.randint(80, (2400,), generator=generator)
    own = torch.rand(2400, generator=generator) < 0.9
    item = torch.randint(15, (2400,), generator=generator) * 4
    item += torch.where(own, user % 4, torch.randint(4, (2400,), generator=generator))
    pl.DataFrame({"user": user.numpy(), "item": item.numpy()}).write_parquet(folder / "log.parquet")
    section = {
        "seed_everything": 1,
        "model": {
            "class_path": "recemb.models.lightgcn.LightGCN",
            "init_args": {
                "tables": {name: {"kind": "full", "dim": 8} for name in ("user", "item")},
                "features": {name: {"table": name} for name in ("user", "item")},
                "propagation": {"num_layers": 2},
                "evaluation": {"cutoffs": [10], "monitor": "recall@10"},
                "rows_optimizer": {"kind": "adam", "learning_rate": 0.02},
            },
        },
        "data": {
            "class_path": "recemb.data.interactions.Interactions",
            "init_args": {"source": str(folder / "log.parquet"), "batch_size": 256},
        },
        "trainer": {
            "max_epochs": 4,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                    "init_args": {
                        "monitor": "val/recall@10",
                        "mode": "max",
                        "check_on_train_epoch_end": False,
                    },
                }
            ],
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(section, sort_keys=False))
    return path


def fit(config: Path, run: Path, *options: str) -> dict:
    assert main(["fit", "--config", str(config), "--run", str(run), *options]) == 0
    return json.loads((run / "results.json").read_text())


def test_tastes_are_found_and_the_best_epoch_is_kept(config: Path, tmp_path: Path) -> None:
    results = fit(config, tmp_path / "run")
    metrics = results["metrics"]
    # Chance finds 10 of about 45 items that are left, a fifth of the answers.
    assert metrics["test/recall@10"] > 0.5
    assert {"val/recall@10", "test/ndcg@10", "test/mrr@10", "test/hr@10"} <= set(metrics)
    (log,) = (tmp_path / "run").glob("csv*/metrics.csv")
    by_epoch = pl.read_csv(log)["val/recall@10"].drop_nulls()
    assert metrics["val/recall@10"] == pytest.approx(by_epoch.max(), rel=1e-4)
    checkpoint = str(tmp_path / "run/checkpoints/best.ckpt")
    assert main(["export", checkpoint, "--run", str(tmp_path / "exported")]) == 0
    # From the command line, users get what the program says, by all items or by an index.
    asked = ["recommend", checkpoint, "--users", "3", "70", "999", "--count", "5"]
    assert main([*asked, "--run", str(tmp_path / "all")]) == 0
    rows = pl.read_parquet(tmp_path / "all/recommendations.parquet")
    program = torch.jit.load(tmp_path / "exported/model.pt")
    items, _, _ = program({"user": torch.tensor([3, 70, 999])})
    assert rows["user"].to_list() == [user for user in (3, 70, 999) for _ in range(5)]
    assert rows["item"].to_list() == items[:, :5].flatten().tolist()
    pytest.importorskip("faiss")
    index = ["index", checkpoint, "--kind", "hnsw", "--output", str(tmp_path / "index")]
    assert main([*index, "--count", "10", "--run", str(tmp_path / "indexed")]) == 0
    recall = json.loads((tmp_path / "indexed/results.json").read_text())["recall"]
    assert [one["selectivity"] for one in recall] == [1.0, 0.3, 0.1, 0.03, 0.01]
    assert min(one["recall"] for one in recall) > 0.9
    by_index = ["--index", str(tmp_path / "index"), "--run", str(tmp_path / "found")]
    assert main([*asked, *by_index]) == 0
    again = pl.read_parquet(tmp_path / "found/recommendations.parquet")
    assert again["item"].to_list() == rows["item"].to_list()


def test_training_on_all_keeps_its_last_epoch(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.init_args.train_on", "all", "--trainer.check_val_every_n_epoch", "3"]
    results = fit(config, tmp_path / "run", *options)
    assert not any(name.startswith("val/") for name in results["metrics"])
    checkpoint = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 3
    assert results["epochs"] == 4
    # There is no validation to measure smaller tables by, which is said; the test is there.
    smaller = tmp_path / "small"
    best = str(tmp_path / "run/checkpoints/best.ckpt")
    assert main(["compress", best, "--method", "int8", "--run", str(smaller)]) == 0
    assert "quality was not measured: the data has no validation" in capsys.readouterr().out
    assert json.loads((smaller / "results.json").read_text())["metrics"] == {}
    asked = ["--config", str(smaller / "compressed.yaml")]
    asked += ["--ckpt_path", str(smaller / "compressed.ckpt"), "--run", str(tmp_path / "test")]
    assert main(["test", *asked]) == 0
    found = json.loads((tmp_path / "test/results.json").read_text())["metrics"]
    wanted = results["metrics"]["test/recall@10"]
    assert found["test/recall@10"] == pytest.approx(wanted, rel=0.02)


@pytest.mark.parametrize(
    "options",
    [
        ["--model.init_args.propagation.fanout", "3"],
        ["--model.class_path", "recemb.models.mf_bpr.MatrixFactorizationBPR"],
    ],
)
def test_other_models_learn_too(options: list[str], config: Path, tmp_path: Path) -> None:
    if "mf_bpr" in options[1]:
        section = yaml.safe_load(config.read_text())
        section["model"]["class_path"] = options[1]
        del section["model"]["init_args"]["propagation"]
        section["model"]["init_args"]["training"] = {"positives": "users"}
        section["trainer"]["max_epochs"] = 12
        config, options = tmp_path / "config.yaml", []
        config.write_text(yaml.safe_dump(section, sort_keys=False))
    assert fit(config, tmp_path / "run", *options)["metrics"]["test/recall@10"] > 0.4


def test_sharded_tables_train_on_samples_of_the_graph(config: Path, tmp_path: Path) -> None:
    section = yaml.safe_load(config.read_text())
    section["model"]["init_args"] |= {
        "propagation": {"num_layers": 2, "fanout": 5},
        "rows_optimizer": {"kind": "rowwise_adagrad", "learning_rate": 0.1},
    }
    section["trainer"] |= {"max_epochs": 8, "strategy": "torchrec"}
    section["trainer"]["callbacks"] = []
    config.write_text(yaml.safe_dump(section, sort_keys=False))
    torchrun(2, "fit", "--config", str(config), "--run", str(tmp_path / "two"))
    metrics = json.loads((tmp_path / "two/results.json").read_text())["metrics"]
    assert metrics["test/recall@10"] > 0.4
    # What two processes measured of their shards is what one measures of the whole tables.
    checkpoint = ["--ckpt_path", str(tmp_path / "two/checkpoints/best.ckpt")]
    section["trainer"]["strategy"] = "auto"
    config.write_text(yaml.safe_dump(section, sort_keys=False))
    asked = ["test", "--config", str(config), *checkpoint, "--run", str(tmp_path / "one")]
    assert main(asked) == 0
    alone = json.loads((tmp_path / "one/results.json").read_text())["metrics"]
    for name in ("test/recall@10", "test/ndcg@10"):
        assert alone[name] == pytest.approx(metrics[name], rel=1e-4)
