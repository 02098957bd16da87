"""Embedding layers of a plain module as tables: torch's own layers say what is right."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from recemb import RecembError, compress_module, served_module
from recemb.embedding_layer import TableEmbedding, TableEmbeddingBag
from recemb.optim import SGD, RowsOptimizer, dense_parameters
from recemb.rows.parameter import RowsParameter


class Shop(nn.Module):
    """Layers of several sizes, one of them within another module."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.ModuleDict({"item": nn.Embedding(300, 8, padding_idx=0)})
        self.words = nn.EmbeddingBag(200, 4, mode="mean")
        self.out = nn.Linear(12, 1)

    def forward(self, item: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.tower["item"](item), self.words(words)], 1))


ITEM, WORDS = torch.tensor([0, 7, 299]), torch.tensor([[1, 5], [5, 5], [0, 199]])
PLAIN = 300 * 8 * 4 + 200 * 4 * 4


def shop() -> Shop:
    torch.manual_seed(1)
    return Shop()


def few_vectors(layer: nn.Module, count: int = 4) -> None:
    """Let the layer have few distinct vectors, which 4 codes can hold without loss."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight[torch.arange(len(layer.weight)) % count])


@pytest.mark.parametrize("method", ["pq", "int4", "int8", "fp16", "svd", "prune", "dedup"])
def test_the_copy_is_within_the_budget_and_its_error_is_that_of_its_vectors(method):
    given = shop()
    before = copy.deepcopy(given.state_dict())
    small, costs = compress_module(given, 0.55, method=method)
    assert costs.bytes_before == PLAIN
    stored = sum(one.nbytes for one in small.state_dict().values())
    dense = sum(one.nbytes for one in small.out.state_dict().values())
    assert costs.bytes_after <= PLAIN * 0.55
    assert stored - dense <= costs.bytes_after  # a map's bits are counted as they are served
    weight = given.tower["item"].weight.detach().numpy()
    found = small.tower["item"](torch.arange(300)).detach().numpy()
    away = np.linalg.norm(found - weight) / np.linalg.norm(weight)
    assert costs.layers[0].error == pytest.approx(away, rel=1e-4, abs=1e-6)
    assert 0 < away < 1
    assert all(torch.equal(one, before[name]) for name, one in given.state_dict().items())
    assert f"{costs.bytes_after:,}" in str(costs)


def test_codes_that_suffice_give_torchs_own_result():
    given = shop()
    few_vectors(given.tower["item"]), few_vectors(given.words)
    small, costs = compress_module(given, "2 kB")
    assert [one.kind for one in costs.layers] == ["codes", "codes"]
    torch.testing.assert_close(small(ITEM, WORDS), given(ITEM, WORDS))
    assert small.tower["item"](ITEM.view(1, 3, 1)).shape == (1, 3, 1, 8)
    assert small.tower["item"](torch.empty(0, 2, dtype=torch.int64)).shape == (0, 2, 8)


def nearly(layer: nn.Module) -> nn.Module:
    """Return the layer's table in fp16, and round the layer so that they are equal."""
    with torch.no_grad():
        layer.weight.copy_(layer.weight.half().float())
    return compress_module(layer, method="fp16").module


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_are_those_of_torch(mode, padding):
    torch.manual_seed(2)
    own = nn.EmbeddingBag(10, 4, mode=mode, padding_idx=padding)
    made = nearly(own)
    assert isinstance(made, TableEmbeddingBag)
    ids, offsets = torch.tensor([1, 3, 3, 9, 3, 0]), torch.tensor([0, 2, 2, 5])
    torch.testing.assert_close(made(ids, offsets), own(ids, offsets))
    torch.testing.assert_close(made(ids.view(2, 3).int()), own(ids.view(2, 3)))
    if mode == "sum":
        weights = torch.randn(6)
        wanted = own(ids, offsets, weights)
        torch.testing.assert_close(made(ids, offsets, per_sample_weights=weights), wanted)


def test_offsets_may_end_with_the_number_of_ids():
    own = nn.EmbeddingBag(10, 4, include_last_offset=True)
    ids, offsets = torch.tensor([1, 3, 9]), torch.tensor([0, 1, 3])
    torch.testing.assert_close(nearly(own)(ids, offsets), own(ids, offsets))


def test_a_padding_vector_stays_and_learns_nothing():
    own = nn.Embedding(10, 4, padding_idx=2)
    nn.init.constant_(own.weight[2].data, 0.3)  # pretrained weights may have one that is not zero
    made, _ = compress_module(own, method="int8")
    assert torch.equal(made(torch.tensor(2)), torch.full((4,), 0.3))
    made(torch.tensor([2, 5])).sum().backward()
    (rows,) = [one for one in made.parameters() if isinstance(one, RowsParameter)]
    grads = dict(zip(rows.rows_U.tolist(), rows.grad.tolist(), strict=True))
    assert grads.pop(5) == [1.0] * 4
    assert all(grad == [0.0] * 4 for grad in grads.values())


@pytest.mark.parametrize("kind", ["hashed", "full", "dpq", "robe", "compositional", "pruned"])
def test_a_kind_trains_anew_within_the_budget(kind):
    torch.manual_seed(3)
    small, costs = compress_module(shop(), 0.4, kind=kind, optimizer=SGD(learning_rate=0.5))
    assert costs.bytes_after <= PLAIN * 0.4
    assert {one.error for one in costs.layers} <= {None, 0.0}
    optimizer = RowsOptimizer(small, dense=torch.optim.SGD(dense_parameters(small), lr=0.05))
    label = torch.tensor([[1.0], [-1.0], [0.5]])
    losses = []
    for _ in range(40):
        loss = (small(ITEM, WORDS) - label).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    small.eval()
    torch.testing.assert_close(served_module(small)(ITEM, WORDS), small(ITEM, WORDS))
    other, _ = compress_module(shop(), 0.4, kind=kind)
    other.load_state_dict(small.state_dict())
    assert torch.equal(other.eval()(ITEM, WORDS), small(ITEM, WORDS))
    assert torch.equal(copy.deepcopy(small)(ITEM, WORDS), small(ITEM, WORDS))


def test_a_step_moves_rows_by_their_gradient():
    own = nn.Embedding(10, 2)
    made, _ = compress_module(own, method="fp16", optimizer=SGD(learning_rate=0.5))
    with torch.no_grad():
        before = made(torch.arange(10))
    made(torch.tensor([4, 4])).sum().backward()
    RowsOptimizer(made).step()
    with torch.no_grad():
        moved = before - made(torch.arange(10))
    wanted = torch.zeros(10, 2)
    wanted[4] = 1.0  # two reads at a rate of a half
    torch.testing.assert_close(moved, wanted, atol=2e-3, rtol=0)


def test_shared_layers_frozen_ones_modes_and_settings_go_over():
    given = shop()
    given.again = given.tower["item"]
    given.tower["item"].weight.requires_grad_(False)
    made, _ = compress_module(given.eval(), 0.5, layers=["tower.item"])
    assert made.again is made.tower["item"]
    assert isinstance(made.again, TableEmbedding)
    assert isinstance(made.words, nn.EmbeddingBag)
    assert not any(one.requires_grad for one in made.again.parameters())
    assert not any(one.training for one in made.modules())
    hashed, costs = compress_module(
        given, kind={"kind": "hashed", "num_rows": 20, "num_hashes": 2}, layers=["words"]
    )
    assert costs.bytes_after == 20 * 4 * 4
    assert hashed.words.num_embeddings == 200


def with_weight(dtype):
    return nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 1)).to(dtype)


def tied():
    module = nn.ModuleDict({"a": nn.Embedding(50, 4), "b": nn.Linear(4, 50)})
    module["b"].weight = module["a"].weight
    return module


class Scaled(nn.Embedding):
    def forward(self, input):
        return 2 * super().forward(input)


def holding_nan():
    layer = nn.Embedding(50, 4)
    layer.weight.data[7, 1] = torch.nan
    return layer


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (nn.Linear(2, 2), {}, "module: Linear has no nn.Embedding"),
        (3, {}, "module: it must be a torch.nn.Module, got int"),
        (with_weight(torch.float16), {}, "layer '0': its weight .* got torch.float16"),
        (with_weight(torch.bfloat16), {}, "layer '0': its weight must be float32"),
        (tied(), {}, "layer 'a': its weight is that of 'b.weight' too"),
        (nn.Embedding(50, 4, max_norm=1.0), {}, "layer 'embedding': it has max_norm=1.0"),
        (nn.Embedding(50, 4, scale_grad_by_freq=True), {}, "it has scale_grad_by_freq"),
        (Scaled(50, 4), {}, "layer 'embedding': it is a Scaled with a forward"),
        (holding_nan(), {}, "table 'embedding': its rows must be finite"),
        (nn.Embedding(50, 4, device="meta"), {}, "layer 'embedding': its weight is on the meta"),
        (nn.Embedding(50, 4), {"budget": 10}, r"a budget of 10 bytes is too small for pq, .* 82;"),
        (nn.Embedding(50, 4), {"budget": 0.0}, "budget: a share must be above 0"),
        (nn.Embedding(50, 4), {"budget": "much"}, "budget: a budget must be a number of bytes"),
        (nn.Embedding(50, 4), {"budget": None}, "method pq makes tables as small as it is asked"),
        (nn.Embedding(50, 4), {"method": "zip"}, "method must be one of"),
        (nn.Embedding(50, 4), {"kind": "zip"}, "kind must be one of"),
        (nn.Embedding(50, 4), {"kind": {"kind": "hashed", "rows": 2}}, "has no setting 'rows'"),
        (nn.Embedding(50, 4), {"layers": ["word"]}, "layers: 'word' is no embedding layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_line(module, options, said):
    with pytest.raises(RecembError, match=said) as caught:
        compress_module(module, **{"budget": 0.5, **options})
    assert "\n" not in str(caught.value)


def test_sparse_gradients_are_no_hindrance():
    assert isinstance(compress_module(nn.Embedding(50, 4, sparse=True), 0.5).module, TableEmbedding)


@pytest.mark.parametrize(
    ("ids", "options", "said"),
    [
        (torch.tensor([[1, 10]]), {}, "feature 'embedding'.* 10"),
        (torch.tensor([0.5]), {}, "layer 'embedding': ids must be a tensor of whole numbers"),
        (torch.tensor([1]), {}, "two dimensions, or one and offsets with them, got 1 and no"),
        (torch.tensor([1]), {"offsets": torch.tensor([1])}, "offsets must rise from 0"),
        (torch.tensor([1, 2]), {"offsets": torch.tensor([0, 2, 1])}, "offsets must rise from 0"),
        (
            torch.tensor([[1, 2]]),
            {"per_sample_weights": torch.ones(1, 2)},
            "per_sample_weights are for mode 'sum'",
        ),
    ],
)
def test_calls_that_cannot_be_are_refused_in_a_line(ids, options, said):
    made, _ = compress_module(nn.EmbeddingBag(10, 4), method="fp16")
    with pytest.raises(RecembError, match=said):
        made(ids, **options)
