"""DCN against its formula, element by element."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.models.dcn import DCN, Network
from recemb.serving.export import export
from recemb.serving.parity import TOLERANCE
from tests.models import example

NETWORKS = {
    "stacked": Network(num_cross_layers=2, hidden=[6, 3]),
    "parallel": Network(num_cross_layers=2, hidden=[6, 3], structure="parallel"),
    "low rank": Network(num_cross_layers=3, rank=2, hidden=[4]),
    "low rank, parallel": Network(num_cross_layers=1, rank=1, hidden=[4], structure="parallel"),
    "no perceptron": Network(num_cross_layers=2, hidden=[]),
}


def build(network: Network, **settings: object) -> DCN:
    torch.manual_seed(7)
    return example.enlarged(
        DCN(example.schema(), network=network, **(settings or example.different_dims()))
    )


def crossed(model: DCN, first: list[float]) -> list[float]:
    """Return x_L: each element of x0 times that of W x + b, plus that of x."""
    own = first
    for layer in model.cross:
        if model.network.rank is None:
            inner = example.affine(layer.linear, own)
        else:
            projection, back = layer.linear
            assert projection.bias is None
            inner = example.affine(back, example.affine(projection, own))
        own = [first[i] * inner[i] + own[i] for i in range(len(first))]
    return own


def expected(model: DCN) -> list[float]:
    found = []
    for sample, vectors in enumerate(example.vectors(model)):
        first = [one for vector in vectors for one in vector.tolist()] + example.numbers(sample)
        if model.network.structure == "stacked":
            found += example.perceptron(model.mlp, crossed(model, first))
        else:
            both = crossed(model, first) + example.perceptron(model.deep, first)
            found += example.affine(model.output, both)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_follow_the_formula(name: str) -> None:
    model = build(NETWORKS[name])
    torch.testing.assert_close(
        example.logits(model), torch.tensor(expected(model)), rtol=1e-4, atol=1e-5
    )


def test_cross_layers_have_the_size_of_their_rank() -> None:
    width = 3 + 5 + 2 + 4 + 1 + 2
    full, low = build(NETWORKS["stacked"]), build(NETWORKS["low rank"])
    sizes = [
        sum(one.numel() for one in model.cross[0].parameters()) for model in (full, low)
    ]  # fmt: skip
    assert sizes == [width * width + width, 2 * width * 2 + width]


def test_any_table_kind_serves() -> None:
    assert example.logits(build(Network(hidden=[4]), **example.equal_dims(4))).shape == (7,)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_is_reached(name: str) -> None:
    assert example.without_gradient(build(NETWORKS[name])) == []


@pytest.mark.parametrize("name", ["stacked", "parallel"])
def test_it_learns_an_interaction(name: str) -> None:
    network = Network(num_cross_layers=2, hidden=[16], structure=name)
    torch.manual_seed(7)
    model = DCN(example.schema(), network=network, learning_rate=0.01, **example.equal_dims(4))
    assert example.fit_parity(model) < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_program_says_the_same(name: str, tmp_path) -> None:
    model = build(NETWORKS[name])
    wanted = torch.tensor(expected(model)).sigmoid()
    assert wanted.std() > 0.1
    parity = export(model, model.schema, tmp_path / "model.pt")["parity"]
    assert max(parity.values()) <= TOLERANCE
    program = example.served((tmp_path / "model.pt").read_bytes())
    torch.testing.assert_close(program, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "rule"),
    [
        (Network(num_cross_layers=0), "num_cross_layers must be at least 1, got 0"),
        (Network(rank=0), "rank must be at least 1, got 0"),
        (Network(structure="deep"), "structure must be 'stacked' or 'parallel', got 'deep'"),
        (Network(structure="parallel", hidden=[]), "hidden must hold a width where the structure"),
    ],
)
def test_settings_out_of_range_are_refused(network: Network, rule: str) -> None:
    with pytest.raises(RecembError, match=rf"^DCN: network\.{rule}"):
        build(network)
