"""Jagged ids against plain Python lists of lists."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recemb.jagged import (
    Jagged,
    KeyedJagged,
    bag_of_each,
    position_of_each,
    sizes_of,
    split_keyed,
    split_rows,
    to_padded,
)

bag_sizes = st.lists(st.integers(0, 5), max_size=12)


@pytest.fixture
def keyed() -> KeyedJagged:
    """Return the example of the module: a = [10, 11], []; b = [20], [21]."""
    return KeyedJagged(("a", "b"), torch.tensor([10, 11, 20, 21]), torch.tensor([[2, 0], [1, 1]]))


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def test_keyed_jagged_reads_like_a_keyed_jagged_tensor(keyed: KeyedJagged) -> None:
    assert list(keyed.keys()) == ["a", "b"]
    assert keyed.values().tolist() == [10, 11, 20, 21]
    assert keyed.lengths().tolist() == [2, 0, 1, 1]


def test_split_keyed_cuts_by_feature(keyed: KeyedJagged) -> None:
    split = {
        name: (j.values.tolist(), j.lengths.tolist()) for name, j in split_keyed(keyed).items()
    }
    assert split == {"a": ([10, 11], [2, 0]), "b": ([20, 21], [1, 1])}


def test_split_keyed_copies_nothing(keyed: KeyedJagged) -> None:
    storage = keyed.values_N.untyped_storage().data_ptr()
    assert all(
        one.values.untyped_storage().data_ptr() == storage for one in split_keyed(keyed).values()
    )


def test_split_keyed_of_only_empty_bags_keeps_every_feature() -> None:
    keyed = KeyedJagged(("a", "b"), _ints([]), torch.zeros(2, 3, dtype=torch.int64))
    split = {
        name: (j.values.tolist(), j.lengths.tolist()) for name, j in split_keyed(keyed).items()
    }
    assert split == {"a": ([], [0, 0, 0]), "b": ([], [0, 0, 0])}


def test_split_keyed_reads_torchrecs_tensor(keyed: KeyedJagged) -> None:
    jagged_tensor = pytest.importorskip("torchrec.sparse.jagged_tensor")
    theirs = jagged_tensor.KeyedJaggedTensor(
        keys=["a", "b"], values=keyed.values(), lengths=keyed.lengths()
    )
    split = {
        name: (j.values.tolist(), j.lengths.tolist()) for name, j in split_keyed(theirs).items()
    }
    assert split == {"a": ([10, 11], [2, 0]), "b": ([20, 21], [1, 1])}


def test_sizes_of_are_first_sizes() -> None:
    assert sizes_of([torch.zeros(3, 2), torch.zeros(0, 2), torch.zeros(1)]).tolist() == [3, 0, 1]


def test_split_rows_gives_consecutive_blocks() -> None:
    blocks = split_rows(torch.arange(12).reshape(6, 2), _ints([2, 0, 4]))
    assert [block.tolist() for block in blocks] == [
        [[0, 1], [2, 3]],
        [],
        [[4, 5], [6, 7], [8, 9], [10, 11]],
    ]


# torch deprecates TorchScript; the export still has to serve it.
@pytest.mark.filterwarnings("ignore")
def test_traced_split_reads_sizes_at_run_time() -> None:
    def second_block(values: Tensor, first: Tensor) -> Tensor:
        rest = values[first.shape[0] :]
        return split_rows(values, sizes_of([first, rest]))[1]

    program = torch.jit.trace(second_block, (torch.arange(5), torch.zeros(2)))
    assert program(torch.arange(9), torch.zeros(6)).tolist() == [6, 7, 8]


@settings(deadline=None)
@given(bag_sizes)
def test_bag_of_each_equals_a_loop(sizes: list[int]) -> None:
    wanted = [bag for bag, size in enumerate(sizes) for _ in range(size)]
    assert bag_of_each(_ints(sizes)).tolist() == wanted


@settings(deadline=None)
@given(bag_sizes)
def test_position_of_each_equals_a_loop(sizes: list[int]) -> None:
    assert position_of_each(_ints(sizes)).tolist() == [n for size in sizes for n in range(size)]


@settings(deadline=None)
@given(bag_sizes)
def test_to_padded_equals_a_loop(sizes: list[int]) -> None:
    values = torch.arange(1.0, 2 * sum(sizes) + 1).reshape(-1, 2)
    longest = max([1, *sizes])
    rows, padded, mask = iter(values.tolist()), [], []
    for size in sizes:
        padded.append([next(rows) if n < size else [-1.0, -1.0] for n in range(longest)])
        mask.append([n < size for n in range(longest)])
    got, got_mask = to_padded(Jagged(values, _ints(sizes)), fill=-1.0)
    assert got.shape == (len(sizes), longest, 2)
    assert got.tolist() == padded
    assert got_mask.tolist() == mask


def test_to_padded_fills_with_zero_unless_told() -> None:
    padded, _ = to_padded(Jagged(_ints([7, 8, 9]), _ints([1, 0, 2])))
    assert padded.tolist() == [[7, 0], [0, 0], [8, 9]]


def test_to_padded_sends_each_gradient_to_its_value() -> None:
    values = torch.ones(3, 1, requires_grad=True)
    padded, _ = to_padded(Jagged(values, _ints([1, 0, 2])))
    (padded.squeeze(2) * torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0], [5.0], [6.0]]
