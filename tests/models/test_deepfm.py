"""DeepFM against all pairs, one at a time: the shortcut over sums and squares must be exact."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.models.deepfm import DeepFM, Network, factorization_machine
from recemb.serving.export import export
from recemb.serving.parity import TOLERANCE
from tests.models import example

NETWORK = Network(hidden=[6, 3])


def build(dense: bool = True, **settings: object) -> DeepFM:
    torch.manual_seed(4)
    return example.enlarged(
        DeepFM(example.schema(dense), network=NETWORK, **(settings or example.equal_dims(4)))
    )


def machine(vectors: list[list[float]]) -> float:
    """Return first elements plus the dot product of the others of every pair."""
    first = sum(vector[0] for vector in vectors)
    pairs = 0.0
    for i in range(len(vectors)):
        for j in range(i + 1, len(vectors)):
            pairs += sum(x * y for x, y in zip(vectors[i][1:], vectors[j][1:], strict=True))
    return first + pairs


def expected(model: DeepFM) -> list[float]:
    found = []
    for sample, vectors in enumerate(example.vectors(model)):
        own = [vector.tolist() for vector in vectors]
        if model.schema.dense:
            learned = model.numbers.vector_KD.tolist()
            for number, vector in zip(example.numbers(sample), learned, strict=True):
                own.append([number * one for one in vector])
        factors = [one for vector in own for one in vector[1:]]
        found.append(machine(own) + example.perceptron(model.mlp, factors)[0])
    return found


@pytest.mark.parametrize("dense", [True, False])
def test_logits_follow_the_formula(dense: bool) -> None:
    model = build(dense)
    torch.testing.assert_close(
        example.logits(model), torch.tensor(expected(model)), rtol=1e-4, atol=1e-5
    )


def test_the_machine_by_hand() -> None:
    # Weights 1 + 2 + 4; factors (1, 2), (3, 0) and (0, 5): products 3 + 10 + 0.
    vectors = torch.tensor([[[1.0, 1.0, 2.0], [2.0, 3.0, 0.0], [4.0, 0.0, 5.0]]])
    assert factorization_machine(vectors).tolist() == [20.0]


@pytest.mark.parametrize("dense", [True, False])
def test_every_parameter_is_reached(dense: bool) -> None:
    unreached = example.without_gradient(build(dense))
    # Without dense columns their vectors are an empty tensor.
    assert unreached == ([] if dense else ["numbers.vector_KD"])


def test_it_learns_an_interaction() -> None:
    torch.manual_seed(4)
    network = Network(hidden=[16])
    model = DeepFM(example.schema(), network=network, learning_rate=0.01, **example.equal_dims(4))
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
        RecembError, match=r"^DeepFM: the vectors of all features .* got 5 for feature 'tags' and 3"
    ):
        build(**example.different_dims())


def test_a_vector_needs_a_factor() -> None:
    alone = {"tables": example.tables(user=1), "features": {"user": FeatureConfig(table="user")}}
    with pytest.raises(RecembError, match=r"^DeepFM: vectors must have .* got dim 1"):
        build(**alone)
