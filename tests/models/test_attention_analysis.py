"""Analyses of attention: against counting by hand, scikit-free formulas and planted answers."""

import json
import math

import pytest
import torch

from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.models import attention_report
from recemb.models.attention_analysis import (
    LearnedAttention,
    Truth,
    discriminability,
    gradient_conflict,
    information_of,
    rank_correlation,
    read,
    search_ndcg,
)
from recemb.models.attention_report import Report, analyse, gains_of, markdown, write
from tests.models.long_example import CATEGORY, HISTORY, ITEM, KINDS, LABEL, PRICE, build, keyed


def batch():
    return Batch(keyed(), torch.tensor(PRICE).unsqueeze(1), torch.tensor(LABEL), 4)


def test_information_of_a_perfect_and_of_no_event():
    # 50 of 100 rows have the event, exactly those with label 1: one bit, ln 2, less 1 / 200.
    count = torch.tensor([[0, 50], [25, 25], [0, 0]])
    found = information_of(count, torch.tensor([[50, 50], [50, 50], [50, 50]]))
    assert found.tolist() == pytest.approx([math.log(2) - 0.005, 0.0, 0.0], abs=1e-12)


def test_information_is_that_of_the_formula():
    # Event in 30 of 70 rows with label 0 and 5 of 30 with label 1.
    joint = {(1, 0): 0.3, (1, 1): 0.05, (0, 0): 0.4, (0, 1): 0.25}
    event, label = {1: 0.35, 0: 0.65}, {0: 0.7, 1: 0.3}
    wanted = sum(p * math.log(p / (event[e] * label[y])) for (e, y), p in joint.items())
    found = information_of(torch.tensor([30, 5]), torch.tensor([70, 30]))
    assert found.item() == pytest.approx(wanted - 1 / 200, abs=1e-12)


def test_what_independent_rows_show_is_taken_off():
    torch.manual_seed(0)
    rows = 500
    event = torch.rand(2_000, rows) < 0.3
    label = torch.rand(2_000, rows) < 0.4
    count = torch.stack([(event & ~label).sum(1), (event & label).sum(1)], 1)
    total = torch.stack([(~label).sum(1), label.sum(1)], 1)
    raw = information_of(count * 1000, total * 1000)  # as if of so many rows: nothing taken off
    assert raw.mean().item() == pytest.approx(1 / (2 * rows), rel=0.1)
    assert (information_of(count, total) == 0).double().mean() > 0.6  # chi-square below its mean


def test_truth_counts_categories_by_time():
    model = build()
    truth = Truth(4, 6)
    with torch.no_grad():
        truth.add(read(model, batch(), "category"))
    count, total = {}, {}
    for sample, history in enumerate(HISTORY):
        target, label = CATEGORY[ITEM[sample]], int(LABEL[sample])
        for position, item in enumerate(history):
            time = min(len(history) - position, 5)
            cell = (target, CATEGORY[item], time, label)
            count[cell] = count.get(cell, 0) + 1
            total[target, time, label] = total.get((target, time, label), 0) + 1
    assert {
        tuple(at): truth.count_CCP2[tuple(at)].item() for at in truth.count_CCP2.nonzero().tolist()
    } == count
    assert {
        tuple(at): truth.total_CP2[tuple(at)].item() for at in truth.total_CP2.nonzero().tolist()
    } == total


def test_categories_beyond_the_first_count_nowhere():
    model = build()
    truth, learned = Truth(2, 6), LearnedAttention(2, 6)
    with torch.no_grad():
        own = read(model, batch(), "category")
        truth.add(own)
        learned.add(own, torch.ones(len(own.behaviour_N)))
    # Targets 4 and 0 have categories 1 and 0; samples 2 and 3 have others.
    behaviours = [CATEGORY[item] for item in HISTORY[0]]
    assert truth.count_CCP2.sum() == learned.count_CCP.sum() == sum(one < 2 for one in behaviours)
    assert truth.total_CP2.sum() == len(behaviours)
    gain = gains_of(own, torch.ones(2, 2, 6, dtype=torch.float64))
    wanted = [float(one < 2) for one in behaviours] + [0.0] * (len(own.behaviour_N) - 7)
    assert gain.tolist() == wanted


def test_learned_attention_is_a_mean_of_shares(monkeypatch):
    monkeypatch.setattr("recemb.models.attention_analysis.FEWEST", 1)
    model = build()
    learned = LearnedAttention(4, 6)
    with torch.no_grad():
        own = read(model, batch(), "category")
    weight = torch.arange(len(own.behaviour_N)).double()
    learned.add(own, weight)
    # Sample 0, target of category 1: behaviours 0, 1, 2 and 4, 5 back share the last time.
    shares = {}
    for position, item in enumerate(HISTORY[0]):
        cell = (CATEGORY[item], min(7 - position, 5))
        shares.setdefault(cell, []).append(position * 7.0)
    for (category, time), own_shares in shares.items():
        mean = learned.mean()[1, category, time].item()
        assert mean == pytest.approx(sum(own_shares) / len(own_shares))
    assert learned.mean()[0].isnan().all()  # the sample with target 0 has no history


def test_rank_correlation_of_orders():
    one = torch.tensor([1.0, 2.0, 3.0, 4.0, math.nan, 9.0])
    assert rank_correlation(one, torch.exp(one)) == pytest.approx(1.0)
    assert rank_correlation(one, -one) == pytest.approx(-1.0)
    # Ranks 0, 1, 2, 3 against 1.5, 1.5, 0, 3: centred, 1.5 of squares 5 and 4.5.
    other = torch.tensor([5.0, 5.0, 1.0, 7.0, 2.0, math.nan])
    assert rank_correlation(one, other) == pytest.approx(1.5 / math.sqrt(5 * 4.5))
    assert math.isnan(rank_correlation(one[:1], one[:1]))


def test_ndcg_is_that_of_the_formula():
    score = torch.tensor([0.1, 0.9, 0.5, 0.3, -2.0, -1.0])
    gain = torch.tensor([3.0, 1.0, 0.0, 2.0, 5.0, 0.0])
    found = search_ndcg(score, gain, torch.tensor([4, 2, 0]), keep=2)
    log3 = math.log2(3)
    assert found[0].item() == pytest.approx((1 + 0 / log3) / (3 + 2 / log3))
    assert found[1].item() == pytest.approx((0 + 5 / log3) / (5 + 0 / log3))
    assert found[2].isnan()  # nothing to be found


def test_gradients_of_both_uses_add_up_to_the_tables_own():
    model = KINDS["twin"](network={"auxiliary": 0.5})
    seen = {}
    honest = torch.autograd.grad

    def spy(loss, leaves):
        seen["both"] = honest(loss, leaves)
        return seen["both"]

    torch.autograd.grad, restore = spy, honest
    try:
        found = gradient_conflict(model, [batch()], "category")
    finally:
        torch.autograd.grad = restore
    model.train()
    own = read(model, batch(), "category")
    loss = model.mean_loss(model.score_items(own.items, own.context_BC), batch())
    loss = loss + model.penalty(batch())
    (whole,) = torch.autograd.grad(loss, own.items[0].representation_UD)
    torch.testing.assert_close(seen["both"][0] + seen["both"][1], whole)
    dots = (seen["both"][0] * seen["both"][1]).sum(1)
    met = (seen["both"][0].norm(dim=1) > 0) & (seen["both"][1].norm(dim=1) > 0)
    assert found.conflicting == pytest.approx((dots[met] < 0).double().mean().item())


def test_analysing_gradients_leaves_the_model_as_it_was():
    model = KINDS["projected"](network={"activation": "dice"})
    before = {name: one.clone() for name, one in model.state_dict().items()}
    gradient_conflict(model, [batch(), batch()], "category")
    assert not model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_discriminability_of_planted_clusters():
    torch.manual_seed(0)
    place = torch.randint(4, (4_000,))
    centers = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    vectors = centers[place] + 0.1 * torch.randn(4_000, 2)
    label = (place % 2).float()
    found = discriminability(vectors, label, [4])
    assert found[0] == pytest.approx(math.log(2), abs=0.005)
    noise = discriminability(vectors, torch.randint(2, (4_000,)).float(), [2, 4])
    assert max(map(abs, noise)) < 0.002


class Data:
    """Batches of all stages; in training, each history has targets of every category."""

    def train_dataloader(self):
        batches = []
        for turn in range(4):
            ids = keyed()
            ids.values_N[4:8] = ids.values_N[4:8].roll(turn)
            batches.append(batch()._replace(ids=ids))
        return batches * 10

    def val_dataloader(self):
        return [batch()]

    test_dataloader = val_dataloader


def test_report_holds_all_models(tmp_path, monkeypatch):
    monkeypatch.setattr(attention_report, "CLUSTERS", (2, 4))
    monkeypatch.setattr("recemb.models.attention_analysis.FEWEST", 1)
    models = {name: KINDS[name]() for name in ("dare", "twin", "din")}
    report = analyse(models, Data(), "category", categories=4, batches=2)
    write(report, tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found["models"]) == ["dare", "twin", "din"]
    assert [one["conflict"] is not None for one in found["models"].values()] == [False, True, False]
    assert found["rows"] == 8
    assert all(0 < one["ndcg"] <= 1 for one in found["models"].values())
    assert "| newest first | " in (tmp_path / "report.md").read_text()
    for name in ("attention.png", "discriminability.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    assert isinstance(report, Report)
    assert markdown(report) == (tmp_path / "report.md").read_text()


def test_an_order_that_knows_the_truth_has_the_best_ndcg():
    model = build()
    truth = Truth(4, 6)
    with torch.no_grad():
        own = read(model, batch(), "category")
    for label in (0.0, 1.0):
        truth.add(own._replace(label_B=torch.full((4,), label)))
    gain = gains_of(own, torch.rand(4, 4, 6, dtype=torch.float64))
    found = search_ndcg(gain, gain, own.lengths, 3)
    assert found[own.lengths > 0].tolist() == pytest.approx([1.0] * 3)
    assert not truth.information().any()  # labels that depend on nothing


def test_mistakes_are_named(tmp_path, capsys):
    with pytest.raises(RecembError, match=r"category must be an attribute .*'category'.*'genre'"):
        analyse({"dare": build()}, Data(), "genre", 4, 1)
    assert attention_report.main(["oops", "--output", str(tmp_path)]) == 2
    assert "are given as NAME=CHECKPOINT, got 'oops'" in capsys.readouterr().err
