"""Pooling against a Python loop over bags, and its gradients against finite differences."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recemb.jagged import Jagged
from recemb.pooling import Pooling, pool

LOOPS: dict[Pooling, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda column: sum(column) / len(column),
    "max": max,
}
poolings = pytest.mark.parametrize("pooling", list(LOOPS))


def _lengths(sizes: list[int]) -> Tensor:
    return torch.tensor(sizes, dtype=torch.int64)


def _loop(vectors: Tensor, sizes: list[int], pooling: Pooling) -> list[list[float]]:
    rows, pooled = iter(vectors.tolist()), []
    for size in sizes:
        bag = [next(rows) for _ in range(size)]
        columns = zip(*bag, strict=True) if bag else [[0.0]] * vectors.shape[1]
        pooled.append([LOOPS[pooling](list(column)) for column in columns])
    return pooled


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.sampled_from(list(LOOPS)),
    st.integers(0, 2**31),
)
def test_pool_equals_a_loop_over_bags(sizes: list[int], pooling: Pooling, seed: int) -> None:
    # Quarters below 16: sums of four are exact, and so are their halves; thirds round once.
    drawn = torch.randint(-64, 64, (sum(sizes), 3), generator=torch.Generator().manual_seed(seed))
    vectors = drawn.double() / 4
    assert pool(Jagged(vectors, _lengths(sizes)), pooling).tolist() == _loop(
        vectors, sizes, pooling
    )


@poolings
def test_empty_bags_are_zeros(pooling: Pooling) -> None:
    vectors = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    pooled = pool(Jagged(vectors, _lengths([0, 2, 0])), pooling)
    assert pooled[[0, 2]].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert (pooled[1] < 0).all()


@poolings
def test_no_vectors_at_all_give_zeros(pooling: Pooling) -> None:
    assert pool(Jagged(torch.zeros(0, 2), _lengths([0, 0])), pooling).tolist() == [[0, 0], [0, 0]]


@poolings
def test_bags_of_one_are_the_vectors(pooling: Pooling) -> None:
    vectors = torch.tensor([[-1.5, 2.0], [3.0, -4.0]])
    assert torch.equal(pool(Jagged(vectors, _lengths([1, 1])), pooling), vectors)


@poolings
def test_gradients_equal_finite_differences(pooling: Pooling) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    lengths = _lengths([3, 0, 1, 2, 1])
    assert torch.autograd.gradcheck(lambda v: pool(Jagged(v, lengths), pooling), vectors)


@poolings
def test_lengths_may_be_int32(pooling: Pooling) -> None:
    # KeyedJaggedTensor gives them so.
    vectors = torch.tensor([[1.0], [3.0], [5.0]])
    pooled = pool(Jagged(vectors, torch.tensor([2, 1], dtype=torch.int32)), pooling)
    assert pooled.tolist() == {"sum": [[4], [5]], "mean": [[2], [5]], "max": [[3], [5]]}[pooling]


def test_none_has_no_pooled_form() -> None:
    with pytest.raises(ValueError, match=r"^pooling 'none' keeps the sequence"):
        pool(Jagged(torch.zeros(1, 2), _lengths([1])), "none")
