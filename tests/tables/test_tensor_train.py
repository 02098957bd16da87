"""The tensor-train kind: a product of three small matrices."""

from collections.abc import Mapping
from itertools import product

import pytest
import torch
from torch import Tensor

from recemb.tables.tensor_train import TensorTrain, factor_dim, factor_rows
from tests.tables.contract import TableContract, embeddings, feature
from tests.tables.helpers import Stored, stored


class TensorTrainContract(TableContract):
    """The contract with the oracle of the kind: 70 ids are 5 * 4 * 4 or fewer."""

    num_rows = 5 + 4 + 4
    dims: tuple[int, int, int]
    is_fine = False
    """A rank more is 3 to 30 % more."""
    bad = [
        ({"rank": 0}, "rank must be in 1..1024, got 0"),
        ({"rank": 1025}, "rank must be in 1..1024, got 1025"),
        (
            {"dim": 31},
            "kind tensor_train needs a dim with three factors above 1, got 31; the nearest that "
            "work: 30 and 32",
        ),
        ({"dim": 2}, "kind tensor_train needs a dim with three factors above 1, got 2; the nea"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        rest, third = divmod(self.number(space, key), 4)
        first, second = divmod(rest, 4)
        return {"core1": [first], "core2": [second], "core3": [third]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        rank, (d1, d2, d3) = self.settings["rank"], self.dims
        (one,), (two,), (three,) = rows["core1"], rows["core2"], rows["core3"]
        # Element (a, b, c) is a sum over the two inner indices.
        elements = [
            sum(
                one[a * rank + s] * two[s * d2 * rank + b * rank + t] * three[t * d3 + c]
                for s, t in product(range(rank), repeat=2)
            )
            for a, b, c in product(range(d1), range(d2), range(d3))
        ]
        return torch.stack(elements)  # type: ignore[arg-type]


class TestPowersOfTwo(TensorTrainContract):
    settings = {"kind": "tensor_train", "dim": 8, "rank": 2}
    dims = (2, 2, 2)
    served_bytes = (5 * 2 * 2 + 4 * 2 * 2 * 2 + 4 * 2 * 2) * 4


class TestOtherFactors(TensorTrainContract):
    settings = {"kind": "tensor_train", "dim": 12, "rank": 3}
    dims = (2, 2, 3)
    served_bytes = (5 * 2 * 3 + 4 * 3 * 2 * 3 + 4 * 3 * 3) * 4


class TestInt8(TensorTrainContract):
    settings = {"kind": "tensor_train", "dim": 8, "rank": 2, "precision": "int8"}
    dims = (2, 2, 2)
    served_bytes = (5 * 2 * 2 + 4) + (4 * 2 * 2 * 2 + 4) + (4 * 2 * 2 + 4)
    rate = 0.02


@pytest.mark.parametrize(
    ("dim", "factors"),
    # As published, powers of two double the last factor first.
    [(8, (2, 2, 2)), (16, (2, 2, 4)), (32, (2, 4, 4)), (64, (4, 4, 4)), (128, (4, 4, 8))],
)
def test_powers_of_two_are_cut_as_published(dim: int, factors: tuple[int, int, int]) -> None:
    assert factor_dim(dim) == factors


def test_dims_have_three_factors_or_none() -> None:
    for dim in range(1, 400):
        found = factor_dim(dim)
        possible = [
            (a, b, dim // a // b)
            for a in range(2, dim)
            if dim % a == 0
            for b in range(a, dim // a)
            if dim // a % b == 0 and dim // a // b >= b
        ]
        assert (found in possible) if possible else found is None, dim


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 70, 999, 1000, 1001, 13_177, 10**6, 10**9])
def test_rows_are_enough_and_not_many_more(count: int) -> None:
    first, second, third = factor_rows(count)
    assert first * second * third >= count
    # One row less of the last core is too few, and all are about the cube root.
    assert first * second * (third - 1) < count
    assert max(first, second, third) <= count ** (1 / 3) + 2


def test_vectors_start_with_the_wanted_variance() -> None:
    config = TensorTrain(dim=32, rank=8, init_scale=0.05)
    features = [feature("one", "ads", space="items"), feature("who", "ads", space="users")]
    cores = stored(embeddings({"ads": config}, features)).rows
    one = cores["core1"].reshape(-1, 2, 8)
    two = cores["core2"].reshape(-1, 8, 4, 8)
    three = cores["core3"].reshape(-1, 8, 4)
    vectors = torch.einsum("iar,jrbs,ksc->ijkabc", one, two, three)
    # 20^3 vectors of 60 random rows: about 3 % of the deviation.
    assert float(vectors.std()) == pytest.approx(0.05 / 3**0.5, rel=0.15)
    # Near-zero values are rejected, so that products do not vanish.
    for core in cores.values():
        assert float((core.abs() < 0.3 * core.std()).float().mean()) < 0.01
