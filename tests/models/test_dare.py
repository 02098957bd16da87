"""DARE, TWIN and DIN over long histories: against plain loops, and the faults not to repeat."""

import time

import pytest
import torch
from torch import nn

from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Jagged, KeyedJagged, split_keyed
from recemb.models.attention import TargetAttention
from recemb.models.dare import DARE, TWIN
from recemb.models.layers import Dice
from recemb.models.long_din import LongDIN
from recemb.models.long_history import AGES, Network, search_histories
from recemb.schema import Column
from recemb.tables.full import Full
from recemb.tables.unified import Unified
from tests.models.long_example import (
    HISTORY,
    ITEM,
    KINDS,
    LABEL,
    PRICE,
    USER,
    build,
    described,
    keyed,
    logits,
    schema,
    time_of,
    wanted,
)


@pytest.mark.parametrize("kind", ["dare", "twin", "projected"])
@pytest.mark.parametrize("seconds", [False, True])
def test_logits_are_those_of_loops(kind, seconds):
    model = KINDS[kind](seconds=seconds)
    found = logits(model, seconds)
    for sample in range(4):
        assert found[sample].item() == pytest.approx(
            wanted(model, sample, seconds=seconds), abs=1e-5
        )


def test_training_and_evaluation_read_the_same():
    model = build()
    assert torch.allclose(logits(model.train()), logits(model.eval()), atol=1e-6)


def test_padding_is_masked_before_the_search():
    # All logits are negative: padding of zeros would win.
    logit_N = torch.tensor([-5.0, -3.0, -4.0, -9.0, -1e30])
    kept = search_histories(Jagged(logit_N, torch.tensor([3, 0, 2])), keep=2)
    assert kept.position_Bk[0].tolist() == [1, 2]
    assert kept.position_Bk[2].tolist() == [0, 1]
    assert kept.is_real_Bk.tolist() == [[True, True], [False, False], [True, True]]
    torch.testing.assert_close(kept.logit_Bk[0], torch.tensor([-3.0, -4.0]))


def test_a_history_shorter_than_the_search_has_fewer():
    kept = search_histories(Jagged(torch.tensor([0.5, 2.0, 1.0]), torch.tensor([1, 2])), keep=5)
    assert kept.is_real_Bk.tolist() == [[True, False], [True, True]]
    assert kept.position_Bk[1].tolist() == [0, 1]


def test_what_else_is_in_a_batch_changes_nothing():
    # Sample 0 has seven behaviours, sample 2 one: alone, its row has no padding.
    model = build()
    alone = KeyedJagged(
        ("user", "item", "seen"),
        torch.tensor([USER[2], ITEM[2], *HISTORY[2]]),
        torch.tensor([[1], [1], [1]]),
    )
    found = model(alone, torch.tensor([[PRICE[2]]]))
    assert found.item() == pytest.approx(logits(model)[2].item(), abs=1e-6)


def batch():
    return Batch(keyed(), torch.tensor(PRICE).unsqueeze(1), torch.tensor(LABEL), 4)


@pytest.mark.parametrize("auxiliary", [0.0, 0.3])
def test_auxiliary_loss_is_of_the_whole_history(auxiliary):
    model = build(network={"auxiliary": auxiliary}).train()
    model.log = lambda *arguments, **options: None
    model._is_logged = lambda: False
    found = model.training_step(batch())

    def loss(keep):
        own = torch.tensor([wanted(model, sample, keep=keep) for sample in range(4)])
        return nn.functional.binary_cross_entropy_with_logits(own, torch.tensor(LABEL))

    whole = loss(None)
    assert found.item() == pytest.approx((loss(3) + auxiliary * whole).item(), abs=1e-5)
    assert abs(loss(3) - whole) > 1e-3  # or the test could not tell them apart


def test_averages_that_are_served_are_those_of_the_search():
    found = []
    for auxiliary in (0.0, 1.0):
        model = build(network={"auxiliary": auxiliary, "activation": "dice"}).train()
        for _ in range(3):
            logits(model)
        norm = next(one for one in model.mlp if isinstance(one, Dice)).normalize
        assert norm.momentum == 0.01
        found.append(norm.running_mean)
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1])


def attention_gradient(model):
    """Return by table the largest gradient of the attention's logits."""
    items, _ = model.read(
        {
            name: bags if model.schema.columns[name].is_list else bags.values
            for name, bags in split_keyed(keyed()).items()
        }
    )
    gradients = torch.autograd.grad(
        model.logits_of(items).square().sum(),
        [items[0].representation_UD, items[0].key_Ud],
        allow_unused=True,
    )
    return [0.0 if one is None else float(one.abs().max()) for one in gradients]


def test_attention_pulls_at_its_own_tables_only():
    representation, own = attention_gradient(build(DARE).train())
    assert representation == 0.0
    assert own > 0.1
    assert attention_gradient(build(TWIN).train())[0] > 0.1


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_loss_reaches_every_parameter(kind):
    model = KINDS[kind]().train()
    logits(model).square().sum().backward()
    rows = {id(one) for one in model.embeddings.rows.parameters()}
    dense = [(name, one) for name, one in model.named_parameters() if id(one) not in rows]
    assert not [name for name, one in dense if one.grad is None or not one.grad.any()]


def test_attention_is_half_as_wide_unless_its_table_is_given():
    model = build()
    assert model.embeddings.dims["attention_item"] == 2
    assert model.embeddings.dims["attention_category"] == 1
    assert model.attention_time.weight.shape == (6, 2)
    tables = {
        "item": Unified(dim=4, num_rows=50), "attention_item": Full(dim=7), "user": Full(dim=3),
    }  # fmt: skip
    features = {"item": FeatureConfig(table="item", lookups=2), "user": FeatureConfig(table="user")}
    with pytest.raises(RecembError, match="lookups=2 needs a table of kind unified"):
        DARE(schema(), tables, features, {"item": "seen"})
    del tables["attention_item"]
    model = DARE(schema(), tables, features, {"item": "seen"})
    assert model.embeddings.dims == {"item": 8, "user": 3, "attention_item": 4}


def test_only_tables_begin_small():
    torch.manual_seed(0)
    model = DARE(
        schema(),
        {"item": Full(dim=16)},
        {"item": FeatureConfig(table="item")},
        {"item": "seen"},
        network=Network(hidden=[200, 80], activation="dice"),
    )
    assert model.embeddings.content("attention_item").values["rows"].abs().max() <= 0.05
    linear = [one for one in model.mlp if isinstance(one, nn.Linear)]
    for layer in linear:
        # torch's own start: uniform within 1 / sqrt(inputs).
        bound = layer.in_features**-0.5
        assert 0.85 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)
    slopes = [one.slope_D for one in model.mlp if isinstance(one, Dice)]
    assert len(slopes) == 2
    assert all(not one.any() for one in slopes)
    prelu = Network(hidden=[8], activation="prelu")
    model = DARE(
        schema(), {"item": Full(dim=16)}, {"item": FeatureConfig(table="item")},
        {"item": "seen"}, network=prelu,
    )  # fmt: skip
    assert model.mlp[1].weight.tolist() == pytest.approx([0.1] * 8)


def test_din_sums_the_whole_history_by_its_perceptron():
    model = KINDS["din"](attention_hidden=[6])
    perceptron = TargetAttention(10, [6], "concatenation", "relu")
    perceptron.load_state_dict(model.attention.state_dict())
    found = logits(model)
    for sample in range(4):
        target = torch.tensor(described(model, ITEM[sample]) + model.time.weight[0].tolist())
        keys = [
            described(model, item) + model.time.weight[time_of(sample, place, False)].tolist()
            for place, item in enumerate(HISTORY[sample])
        ]
        own = torch.zeros(10)
        if keys:
            mask = torch.ones(1, len(keys), dtype=torch.bool)
            own = perceptron(target.unsqueeze(0), torch.tensor([keys]), mask)[0]
        context = torch.tensor(
            model.embeddings.content("user").values["rows"][USER[sample]].tolist()
        )
        price = torch.tensor([(PRICE[sample] - 0.5) / 2.0])
        logit = model.mlp(torch.cat([context, price, target, own]).unsqueeze(0))
        assert found[sample].item() == pytest.approx(logit.item(), abs=1e-5)


def test_a_request_may_say_the_ages_of_what_was_found():
    model = build()
    ids = {
        "user": torch.tensor([USER[0]]),
        "item": torch.tensor([ITEM[0]]),
        "seen": Jagged(torch.tensor(HISTORY[0]), torch.tensor([7])),
    }
    dense = model.standardize(torch.tensor([[PRICE[0]]]))
    items, _ = model.read(ids)
    kept = search_histories(Jagged(model.logits_of(items), torch.tensor([7])), 3).position_Bk[0]
    ids["seen"] = Jagged(torch.tensor(HISTORY[0])[kept], torch.tensor([3]))
    without = model.score(ids, dense).item()
    ids[AGES] = Jagged(6 - kept, torch.tensor([3]))
    assert model.score(ids, dense).item() == pytest.approx(wanted(model, 0), abs=1e-5)
    assert abs(without - wanted(model, 0)) > 1e-4


@pytest.mark.parametrize("kind", ["dare", "twin"])
def test_ten_thousand_behaviours_are_trained_on(kind):
    model = KINDS[kind](network={"num_times": 10_000, "keep": 20}).train()
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([10_000, 3, 0, 9_000])
    seen = torch.randint(9, (int(lengths.sum()),), generator=generator)
    ones = torch.ones(4, dtype=torch.int64)
    ids = torch.cat([torch.tensor(USER), torch.tensor(ITEM), seen])
    request = KeyedJagged(("user", "item", "seen"), ids, torch.stack([ones, ones, lengths]))
    started = time.perf_counter()
    model(request, torch.tensor(PRICE).unsqueeze(1)).square().sum().backward()
    assert time.perf_counter() - started < 5
    model.embeddings.step()


def test_mistakes_are_named():
    tables = {"item": Full(dim=4)}
    features = {"item": FeatureConfig(table="item")}
    with pytest.raises(RecembError, match=r"history must name a target .* got none"):
        DARE(schema(), tables, features, {})
    with pytest.raises(RecembError, match="network: keep must be at least 1, got 0"):
        DARE(schema(), tables, features, {"item": "seen"}, network=Network(keep=0))
    with pytest.raises(RecembError, match="auxiliary must be at least 0, got -1"):
        TWIN(schema(), tables, features, {"item": "seen"}, network=Network(auxiliary=-1))
    with pytest.raises(RecembError, match=r"seconds must be a list column, of \['seen'\]"):
        DARE(schema(), tables, features, {"item": "seen"}, seconds="user")
    with pytest.raises(RecembError, match="column 'seen' must hold numbers; set raw"):
        DARE(schema(), tables, features, {"item": "seen"}, seconds="seen")
    taken = schema()
    taken.columns["attention_item"] = Column(is_list=False, vocabulary="user")
    with pytest.raises(RecembError, match="'attention_item': the model reads 'item' a second"):
        DARE(taken, tables, features, {"item": "seen"})
    with pytest.raises(RecembError, match="reads table 'no'"):
        DARE(schema(), tables, {"item": FeatureConfig(table="no")}, {"item": "seen"})


def test_lists_that_are_not_parallel_are_refused():
    model = build(LongDIN, seconds=True)
    ids = {
        "user": torch.tensor([0]),
        "item": torch.tensor([0]),
        "seen": Jagged(torch.tensor([1, 2]), torch.tensor([2])),
        "ago": Jagged(torch.tensor([1]), torch.tensor([1])),
    }
    with pytest.raises(RecembError, match=r"columns \['seen', 'ago'\]: parallel histories"):
        model.score(ids, torch.zeros(1, 1))
