"""The session transformer: what an item is, what is learned at which position, what is ranked."""

import math
from types import SimpleNamespace

import polars as pl
import pytest
import torch
from torch.nn import functional as F

from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Jagged, KeyedJagged
from recemb.models.session import SessionTransformer, last_of_each, next_of_each
from recemb.models.session_settings import Codebook, Evaluation, Network, Objective
from recemb.schema import Attribute, Column, Schema
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.vocabulary import VocabularyConfig, build_vocabulary

COUNTS = [9, 7, 6, 4, 3, 1, 0, 0]
"""Training clicks by index; the ninth index is the unknown item."""
TAGS = [[0], [1, 2], [2], [0, 3], [], [3], [1], [2, 3], []]
SHOP = [0, 1, 1, 0, 2, 2, 1, 0, 3]

BAGS = [[0, 1, 2], [], [3], [4, 0, 5, 1], [2, 2]]
ITEMS = [3, 1, 6, 2, 7]


def schema() -> Schema:
    def vocabulary(name, counts):
        frame = pl.DataFrame({"value": [10 * i for i in range(len(counts))], "count": counts,
                              "seen": [max(1, n) for n in counts]})  # fmt: skip
        return build_vocabulary(name, frame, VocabularyConfig())

    offsets = torch.tensor([0, *torch.tensor([len(bag) for bag in TAGS]).cumsum(0).tolist()])
    values = torch.tensor([tag for bag in TAGS for tag in bag])
    return Schema(
        columns={
            "item": Column(is_list=False, vocabulary="item"),
            "history": Column(is_list=True, vocabulary="item", mean_length=2.0),
        },
        vocabularies={
            "item": vocabulary("item", COUNTS),
            "tags": vocabulary("tags", [9, 8, 7, 6]),
            "shop": vocabulary("shop", [5, 4, 3]),
        },
        attributes={
            "tags": Attribute("item", "tags", True, values, offsets),
            "shop": Attribute("item", "shop", False, torch.tensor(SHOP), torch.arange(10)),
        },
    )


def model(mode: str = "ids", **settings) -> SessionTransformer:
    torch.manual_seed(0)
    tables = {"item": Full(dim=8, init_scale=1.0), "tags": Full(dim=8, init_scale=1.0),
              "shop": Full(dim=4, init_scale=1.0, project=8)}  # fmt: skip
    features = {"item": FeatureConfig(table="item"), "tags": FeatureConfig(table="tags"),
                "shop": FeatureConfig(table="shop")}  # fmt: skip
    names = {"ids": ["item"], "metadata": ["tags", "shop"], "both": ["item", "tags", "shop"]}[mode]
    chosen = {name: tables[name] for name in names}
    if settings.get("output"):
        chosen[settings["output"]] = Full(dim=8, init_scale=1.0)
    base = {"network": Network(num_layers=1, hidden=16, dropout=0.0, max_length=6)}
    own = {name: features[name] for name in names}
    return silent(SessionTransformer(schema(), chosen, own, **{**base, **settings}))


def silent(one: SessionTransformer) -> SessionTransformer:
    """Let a model log nothing: there is no trainer here."""
    one.log = lambda *_, **__: None
    return one


def history(bags=BAGS) -> Jagged:
    flat = [item for bag in bags for item in bag]
    return Jagged(torch.tensor(flat), torch.tensor([len(bag) for bag in bags]))


def batch(bags=BAGS, items=ITEMS) -> Batch:
    values, lengths = history(bags)
    ids = KeyedJagged(
        ("item", "history"),
        torch.cat([torch.tensor(items), values]),
        torch.stack([torch.ones(len(items), dtype=torch.int64), lengths]),
    )
    return Batch(ids, torch.empty(len(items), 0), torch.ones(len(items)), len(items))


def rows_of(one: SessionTransformer, table: str) -> torch.Tensor:
    return one.embeddings.rows.values(table)


def item_by_loop(one: SessionTransformer, mode: str, item: int) -> torch.Tensor:
    """Return the vector of an item: the sum of its features' vectors."""
    found = torch.zeros(8)
    if mode != "metadata":
        found = found + rows_of(one, "item")[item]
    if mode != "ids":
        if TAGS[item]:
            found = found + rows_of(one, "tags")[TAGS[item]].mean(0)
        matrix = one.embeddings._projection_of("shop")
        found = found + matrix @ rows_of(one, "shop")[SHOP[item]]
    return found


@pytest.mark.parametrize("mode", ["ids", "metadata", "both"])
@pytest.mark.parametrize("temperature", [None, 0.2])
def test_an_item_is_the_sum_of_its_features(mode, temperature):
    one = model(mode, objective=Objective(temperature=temperature)).eval()
    wanted = torch.stack([item_by_loop(one, mode, item) for item in range(8)])
    if temperature is not None:
        wanted = wanted / wanted.norm(dim=1, keepdim=True)
    torch.testing.assert_close(one.outputs(torch.arange(8)), wanted)


def logits_by_loop(one: SessionTransformer, mode: str, bag: list[int]) -> torch.Tensor:
    """Return the scores of all items after a sequence, which is encoded alone."""
    items = torch.stack([item_by_loop(one, mode, item) for item in range(9)])
    temperature = one.objective.temperature
    if temperature is not None:
        items = items / items.norm(dim=1, keepdim=True)
    hidden = one.encoder(items[bag], torch.tensor([len(bag)]))[-1]
    if temperature is not None:
        hidden = hidden / hidden.norm() / temperature
    return items[:8] @ hidden


@pytest.mark.parametrize("mode", ["ids", "metadata", "both"])
@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("unseen", [True, False])
def test_loss_is_of_every_position(mode, temperature, unseen):
    one = model(mode, objective=Objective(temperature=temperature, unseen=unseen))
    items = [3, 1, 4, 2, 5]  # training has no unseen targets
    losses = []
    for bag, item in zip(BAGS, items, strict=True):
        whole = [*bag, item]
        for place in range(1, len(whole)):
            logits = logits_by_loop(one, mode, whole[:place])[: 8 if unseen else 6]
            losses.append(logits.logsumexp(0) - logits[whole[place]])
    found = one.training_step(batch(items=items))
    assert found["samples"] == len(losses) == 10
    torch.testing.assert_close(found["loss"], torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


def test_heads_add_the_loss_of_attributes_of_the_next_item():
    heads = {"tags": 0.5, "shop": 2.0}
    one = model("metadata", objective=Objective(heads=heads))
    plain = model("metadata")
    plain.load_state_dict(one.state_dict(), strict=False)
    extra = []
    for bag, item in zip(BAGS, ITEMS, strict=True):
        whole = [*bag, item]
        for place in range(1, len(whole)):
            items = torch.stack([item_by_loop(one, "metadata", i) for i in whole[:place]])
            hidden = one.encoder(items, torch.tensor([place]))[-1]
            tags, shop = TAGS[whole[place]], SHOP[whole[place]]
            total = 2.0 * F.cross_entropy(one.heads["head_shop"](hidden), torch.tensor(shop))
            for tag in tags:
                loss = F.cross_entropy(one.heads["head_tags"](hidden), torch.tensor(tag))
                total = total + 0.5 * loss / len(tags)
            extra.append(total)
    difference = one.training_step(batch())["loss"] - plain.training_step(batch())["loss"]
    torch.testing.assert_close(difference, torch.stack(extra).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [
    {}, {"objective": Objective(num_sampled=3)}, {"output": "own"},
    {"output": "own", "objective": Objective(num_sampled=3, temperature=0.3)},
], ids=["full", "sampled", "own output", "own output, sampled"])  # fmt: skip
@pytest.mark.parametrize("mode", ["ids", "metadata", "both"])
def test_all_parts_learn(mode, settings):
    one = model(mode, **settings)
    before = {name: rows.clone() for name, rows in one.embeddings.rows.tables().items()}
    one.training_step(batch())["loss"].backward()
    one.embeddings.step()
    for name, rows in one.embeddings.rows.tables().items():
        assert not torch.equal(rows, before[name])
    for name, parameter in one.named_parameters():
        if name.startswith("encoder"):
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_sampling_so_many_that_all_are_drawn_is_the_full_loss():
    sampled, full = model(objective=Objective(num_sampled=2000)), model()
    sampled.load_state_dict(full.state_dict())
    torch.testing.assert_close(
        sampled.training_step(batch())["loss"], full.training_step(batch())["loss"]
    )


def test_an_own_output_table_is_what_scores_are_made_with():
    one = model(output="own").eval()
    assert torch.equal(one.outputs(torch.arange(8)), rows_of(one, "own")[:8])
    hidden = one(history([[1, 2]]))
    items = torch.stack([item_by_loop(one, "ids", item) for item in (1, 2)])
    torch.testing.assert_close(hidden[0], one.encoder(items, torch.tensor([2]))[-1])


@pytest.mark.parametrize("mode", ["ids", "metadata"])
@pytest.mark.parametrize("exclude", [True, False])
def test_ranks_and_best_items_are_those_of_sorted_scores(mode, exclude):
    one = model(mode, evaluation=Evaluation(cutoffs=[3], monitor="hr@3", exclude_history=exclude))
    one.eval()
    ranked, best = one.rank(history(), torch.tensor(ITEMS)), one.best(history(), 4)
    for b, (bag, item) in enumerate(zip(BAGS, ITEMS, strict=True)):
        scores = logits_by_loop(one, mode, bag) if bag else torch.zeros(8)
        had = set(bag) if exclude else set()
        order = sorted(range(8), key=lambda i: (-round(float(scores[i].detach()), 4), i))
        kept = [i for i in order if i == item or i not in had]
        assert ranked[b] == 1 + kept.index(item)
        if bag:
            assert best[0][b].tolist() == [i for i in order if i not in had][:4]
            torch.testing.assert_close(best[1][b], scores[best[0][b]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["ids", "metadata", "both"])
def test_a_mean_of_items_lies_among_them(mode):
    network = Network(num_layers=1, hidden=16, dropout=0.0, max_length=6, readout="items")
    one = model(mode, network=network).eval()
    # Of one item it is that item; of equal items too, wherever they stand.
    query = one(history([[3], [5, 5, 5]]))
    torch.testing.assert_close(query, torch.stack([item_by_loop(one, mode, i) for i in (3, 5)]))


def test_only_the_last_items_of_a_long_history_are_read():
    one = model().eval()
    long = [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert torch.equal(one(history([long])), one(history([long[-6:]])))
    assert last_of_each(history(), 2).values.tolist() == [1, 2, 3, 5, 1, 2, 2]


def test_what_follows_each_item_of_a_history():
    found = next_of_each(history(), torch.tensor(ITEMS))
    assert found.tolist() == [1, 2, 3, 6, 0, 5, 1, 2, 2, 7]


def logged(one: SessionTransformer, monkeypatch, batches) -> dict[str, float]:
    found: dict[str, float] = {}
    monkeypatch.setattr(one, "log", lambda name, value, **_: found.update({name: float(value)}))
    one.eval()
    with torch.no_grad():
        one.on_validation_epoch_start()
        for own in batches:
            one.validation_step(own)
        one.on_validation_epoch_end()
    return found


def test_metrics_are_means_over_all_batches_and_over_cold_items(monkeypatch):
    settings = Evaluation(cutoffs=[2, 3], monitor="ndcg@3", exclude_history=False, cold=4)
    one = model(evaluation=settings)
    with torch.no_grad():
        rank = one.eval().rank(history(), torch.tensor(ITEMS)).tolist()
    batches = [batch(BAGS[:2], ITEMS[:2]), batch(BAGS[2:], ITEMS[2:])]
    found = logged(one, monkeypatch, batches)
    assert found["val/hr@3"] == pytest.approx(sum(r <= 3 for r in rank) / 5)
    assert found["val/ndcg@3"] == pytest.approx(
        sum(1 / math.log2(1 + r) for r in rank if r <= 3) / 5
    )
    assert found["val/mrr@2"] == pytest.approx(sum(1 / r for r in rank if r <= 2) / 5)
    cold = [r for r, item in zip(rank, ITEMS, strict=True) if COUNTS[item] < 4]
    unseen = [r for r, item in zip(rank, ITEMS, strict=True) if COUNTS[item] == 0]
    assert (found["val/cold_targets"], found["val/unseen_targets"]) == (len(cold), len(unseen))
    assert found["val/cold_hr@3"] == pytest.approx(sum(r <= 3 for r in cold) / len(cold))
    assert found["val/unseen_hr@3"] == pytest.approx(sum(r <= 3 for r in unseen) / len(unseen))


# Codebook


def coded(rerank: bool, **settings) -> SessionTransformer:
    one = model(codebook=Codebook(num_codes=3, num_probes=3, rerank=rerank, start_epoch=0),
                evaluation=Evaluation(cutoffs=[3], monitor="hr@3", exclude_history=True),
                **settings)  # fmt: skip
    one.training_step(batch())
    assert one.codebook is not None
    with torch.no_grad():
        one.codebook.bias_V.normal_()
    return one.eval()


def test_codes_wait_for_their_epoch():
    one = model(codebook=Codebook(num_codes=3, num_probes=1, start_epoch=1))
    one.training_step(batch())
    assert not one.is_final()
    plain = model()
    plain.load_state_dict(one.state_dict(), strict=False)
    assert torch.equal(one.training_step(batch())["loss"], plain.training_step(batch())["loss"])


def test_codebook_loss_is_the_softmax_over_all_items():
    one = coded(rerank=False)
    codebook = one.codebook
    losses = []
    for bag, item in zip(BAGS, ITEMS, strict=True):
        whole = [*bag, item]
        for place in range(1, len(whole)):
            items = rows_of(one, "item")[whole[:place]]
            hidden = one.encoder(items, torch.tensor([place]))[-1]
            scores = codebook.code_KD[codebook.code_V.long()] @ hidden + codebook.bias_V
            losses.append(scores.logsumexp(0) - scores[whole[place]])
    found = one.training_step(batch())["loss"]
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rerank", [True, False])
def test_with_all_codes_probed_best_items_are_those_of_all_scores(rerank):
    one = coded(rerank)
    codebook = one.codebook
    items_BK, scores_BK = one.best(history(), 4)
    ranked = one.rank(history(), torch.tensor(ITEMS))
    for b, bag in enumerate(BAGS):
        if not bag:
            continue
        scores = logits_by_loop(one, "ids", bag).detach()
        if not rerank:
            hidden = one(history([bag]))[0].detach()
            scores = codebook.code_KD[codebook.code_V.long()] @ hidden + codebook.bias_V
        order = sorted(range(8), key=lambda i: -float(scores[i].detach()))
        wanted = [i for i in order if i not in bag]
        assert items_BK[b].tolist() == wanted[:4]
        torch.testing.assert_close(scores_BK[b], scores[wanted[:4]], atol=1e-5, rtol=1e-5)
        place = wanted.index(ITEMS[b]) + 1
        assert ranked[b] == (place if place <= 3 else 9)


def test_only_items_of_probed_codes_are_answers():
    one = model(codebook=Codebook(num_codes=4, num_probes=1, rerank=True, start_epoch=0))
    one.training_step(batch())
    one.eval()
    codebook = one.codebook
    items_BK, scores_BK = one.best(history(), 8)
    for b in range(len(BAGS)):
        codes = {int(codebook.code_V[i]) for i in items_BK[b][scores_BK[b] > -torch.inf]}
        assert len(codes) <= 1
    assert int((scores_BK == -torch.inf).sum()) > 0


def test_codes_lie_in_lists_by_code():
    codebook = coded(rerank=True).codebook
    for code in range(3):
        own = codebook.item_V[codebook.start_K[code] : codebook.start_K[code + 1]].tolist()
        assert own == [i for i in range(8) if int(codebook.code_V[i]) == code]


def test_codes_reload_with_the_weights():
    one = coded(rerank=True)
    other = model(codebook=Codebook(num_codes=3, num_probes=3, start_epoch=0))
    other.load_state_dict(one.state_dict())
    for own, wanted in zip(other.eval().best(history(), 4), one.best(history(), 4), strict=True):
        assert torch.equal(own, wanted)


# Mistakes


@pytest.mark.parametrize(("settings", "message"), [
    ({"network": Network(num_heads=3)}, "num_heads must divide the width of the tables, got 3"),
    ({"network": Network(dropout=1.0)}, "dropout must be at least 0 and below 1"),
    ({"objective": Objective(temperature=0.0)}, "temperature must be above 0"),
    ({"objective": Objective(heads={"brand": 1.0})}, "head 'brand' must be an attribute"),
    ({"objective": Objective(num_sampled=0)}, "num_sampled must be at least 1"),
    ({"evaluation": Evaluation(monitor="auc")}, "monitor must be one of"),
    ({"codebook": Codebook(num_codes=9)}, r"num_codes must be in 1\.\.8, got 9"),
    ({"codebook": Codebook(num_codes=3, num_probes=4)}, r"num_probes must be in 1\.\.3, got 4"),
    ({"codebook": Codebook(num_codes=3, num_probes=1), "output": "own"}, "drop either"),
])  # fmt: skip
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(RecembError, match=message):
        model(**settings)


def test_wrong_features_are_named():
    tables = {"item": Full(dim=8)}
    with pytest.raises(RecembError, match="feature 'history': must be 'item' or an attribute"):
        SessionTransformer(schema(), tables, {"history": FeatureConfig(table="item")})
    with pytest.raises(RecembError, match="output: must be one of the tables"):
        SessionTransformer(schema(), tables, {"item": FeatureConfig(table="item")}, output="own")
    tables = {"item": Full(dim=8), "tags": Full(dim=4)}
    features = {"item": FeatureConfig(table="item"), "tags": FeatureConfig(table="tags")}
    with pytest.raises(RecembError, match="vectors of all features must be equally wide"):
        SessionTransformer(schema(), tables, features)


def test_any_kind_of_table_holds_items():
    tables = {"item": Hashed(dim=8, num_rows=5, num_hashes=2)}
    one = silent(
        SessionTransformer(
            schema(),
            tables,
            {"item": FeatureConfig(table="item")},
            network=Network(num_layers=1, max_length=6),
        )
    )
    before = rows_of(one, "item").clone()
    one.training_step(batch())["loss"].backward()
    one.embeddings.step()
    assert not torch.equal(rows_of(one, "item"), before)


def test_predictions_that_are_no_numbers_are_refused(monkeypatch):
    one = model()
    # Of no training: that is what a trainer tells by its state.
    one._trainer = SimpleNamespace(state=SimpleNamespace(fn=None))

    own = batch(BAGS, ITEMS)
    assert logged(one, monkeypatch, [own])
    one.embeddings.rows.assign("item", one.embeddings.content("item").values["rows"] * math.nan)
    with pytest.raises(RecembError, match=r"^\d+ of \d+ item vectors of the catalogue are not fin"):
        logged(one, monkeypatch, [own])
