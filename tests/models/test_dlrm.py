"""DLRM against all pairs, one at a time."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.models.dlrm import DLRM, DotInteraction, Network
from recemb.serving.export import export
from recemb.serving.parity import TOLERANCE
from tests.models import example

NETWORK = Network(bottom=[5], top=[16, 8])


def build(dense: bool = True, **settings: object) -> DLRM:
    torch.manual_seed(4)
    return example.enlarged(
        DLRM(example.schema(dense), network=NETWORK, **(settings or example.equal_dims(4)))
    )


def expected(model: DLRM) -> list[float]:
    found = []
    for sample, vectors in enumerate(example.vectors(model)):
        own = [vector.tolist() for vector in vectors]
        bottom: list[float] = []
        if model.schema.dense:
            bottom = example.perceptron(model.bottom, example.numbers(sample))
            own = [bottom, *own]
        pairs = [
            sum(x * y for x, y in zip(own[i], own[j], strict=True))
            for i in range(len(own))
            for j in range(i + 1, len(own))
        ]
        found += example.perceptron(model.top, bottom + pairs)
    return found


@pytest.mark.parametrize("dense", [True, False])
def test_logits_follow_the_formula(dense: bool) -> None:
    model = build(dense)
    torch.testing.assert_close(
        example.logits(model), torch.tensor(expected(model)), rtol=1e-4, atol=1e-5
    )


def test_each_pair_occurs_once_and_no_vector_meets_itself() -> None:
    # Powers of ten: the digit of a product says which two vectors it is of.
    vectors = torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]])
    assert DotInteraction(4)(vectors).tolist() == [[10, 100, 1000, 1000, 10_000, 100_000]]


def test_the_bottom_ends_in_a_vector_like_the_others() -> None:
    model = build()
    widths = [layer.out_features for layer in model.bottom if isinstance(layer, torch.nn.Linear)]
    assert widths == [5, 4]
    assert isinstance(model.bottom[-1], torch.nn.ReLU)
    assert build(dense=False).bottom is None


@pytest.mark.parametrize("dense", [True, False])
def test_every_parameter_is_reached(dense: bool) -> None:
    assert example.without_gradient(build(dense)) == []


def test_it_learns_an_interaction() -> None:
    torch.manual_seed(4)
    network = Network(top=[16])
    model = DLRM(example.schema(), network=network, learning_rate=0.01, **example.equal_dims(4))
    assert example.fit_parity(model) < 0.1


def test_the_program_says_the_same(tmp_path) -> None:
    model = build()
    wanted = torch.tensor(expected(model)).sigmoid()
    assert wanted.std() > 0.1
    parity = export(model, model.schema, tmp_path / "model.pt")["parity"]
    assert max(parity.values()) <= TOLERANCE
    program = example.served((tmp_path / "model.pt").read_bytes())
    torch.testing.assert_close(program, wanted, rtol=1e-4, atol=1e-5)


def test_a_program_without_numbers_is_written_too(tmp_path) -> None:
    model = build(dense=False)
    parity = export(model, model.schema, tmp_path / "model.pt")["parity"]
    assert max(parity.values()) <= TOLERANCE


def test_different_widths_are_refused_by_name() -> None:
    with pytest.raises(
        RecembError, match=r"^DLRM: the vectors of all features .* got 5 for feature 'tags' and 3"
    ):
        build(**example.different_dims())


def test_a_lone_feature_has_no_pair() -> None:
    alone = {"tables": example.tables(user=4), "features": {"user": FeatureConfig(table="user")}}
    assert example.logits(build(**alone)).shape == (7,)  # with the numbers' vector there is one
    with pytest.raises(RecembError, match=r"^DLRM: there must be two features"):
        build(dense=False, **alone)
