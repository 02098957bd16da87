"""The local store under the contract of every store, and against the reference store."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recemb.errors import RecembError
from recemb.rows.local import LocalRowsStore, sum_duplicates
from recemb.rows.optimizers import SGD
from recemb.rows.reference import ReferenceRowsStore
from tests.rows.contract import (
    OPTIMIZERS,
    MakeStore,
    RowsStoreContract,
    Step,
    assert_same,
    copies,
    drawn,
    gather,
    gradient,
    numbered,
    random_steps,
    train,
)

narrow = st.lists(
    st.one_of(
        st.tuples(st.just("a"), st.lists(st.integers(0, 6), max_size=8)),
        st.tuples(st.just("b"), st.lists(st.integers(0, 8), max_size=8)),
    ),
    min_size=1,
    max_size=4,
)
wide = st.tuples(st.just("wide"), st.lists(st.integers(0, 5), max_size=8)).map(lambda one: [one])
gathers = st.lists(st.one_of(narrow, wide), max_size=3)


class TestLocalRowsStore(RowsStoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        return LocalRowsStore


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
@settings(deadline=None, max_examples=40)
@given(asked_of_steps=st.lists(gathers, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_local_equals_reference(kind: str, asked_of_steps: list, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps: list[Step] = [
        [
            (asked, gradient(sum(len(rows) for _, rows in asked), width, generator))
            for asked in step
            for width in [6 if asked[0][0] == "wide" else 4]
        ]
        for step in asked_of_steps
    ]
    local = LocalRowsStore(drawn(), OPTIMIZERS[kind])
    reference = ReferenceRowsStore(drawn(), OPTIMIZERS[kind])
    train(local, steps)
    train(reference, steps)
    # Gradient sums are exact; a block of rows and a single row may round apart in the last bit of
    # each operation, because vector and scalar code fuse differently.
    for name, rows in reference.tables().items():
        torch.testing.assert_close(local.tables()[name], rows, rtol=0, atol=2e-6)
    for name, state in reference.optimizer_state().items():
        torch.testing.assert_close(local.optimizer_state()[name], state, rtol=2e-6, atol=1e-9)


def test_sum_duplicates_by_hand() -> None:
    rows, sums = sum_duplicates(
        torch.tensor([7, 2, 7, 7]), torch.tensor([[1.0, 2], [3, 4], [5, 6], [-1, 0.5]])
    )
    assert rows.tolist() == [2, 7]
    assert sums.tolist() == [[3, 4], [5, 8.5]]


def test_sum_duplicates_that_come_sorted() -> None:
    rows, sums = sum_duplicates(
        torch.tensor([0, 2, 2, 5]), torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    )
    assert rows.tolist() == [0, 2, 5]
    assert sums.tolist() == [[1.0], [6.0], [8.0]]


def test_a_dense_optimizer_leaves_the_rows_alone() -> None:
    store = LocalRowsStore(drawn(), SGD())
    before = copies(store.tables())
    dense = torch.optim.SGD(store.parameters(), lr=1.0, weight_decay=0.1)
    gather(store, [("a", [1, 2])]).sum().backward()
    dense.step()
    assert_same(store.tables(), before)


def test_evaluation_asks_for_no_gradient() -> None:
    store = LocalRowsStore(numbered(), SGD()).eval()
    assert not gather(store, [("a", [0])]).requires_grad


def test_state_dict_holds_whole_tables_by_name() -> None:
    state = LocalRowsStore(numbered(), SGD()).state_dict(prefix="rows.")
    assert list(state) == ["rows.a", "rows.wide", "rows.b"]
    assert state["rows.b"].tolist() == [[100 + 2 * r, 101 + 2 * r] for r in range(5)]


def test_state_dict_round_trip() -> None:
    store, other = LocalRowsStore(drawn(), SGD()), LocalRowsStore(drawn(), SGD())
    train(store, random_steps(seed=1, num_steps=1))
    assert not torch.equal(store.tables()["a"], other.tables()["a"])
    other.load_state_dict(store.state_dict())
    assert_same(other.tables(), store.tables())


def test_state_dict_of_another_configuration_is_refused() -> None:
    store, other = LocalRowsStore(drawn(), SGD()), LocalRowsStore(numbered(), SGD())
    with pytest.raises(RecembError, match=r"^rows: table 'a' must have shape \(4, 2\), got \(7, 4"):
        other.load_state_dict(store.state_dict())


def test_a_reference_store_loads_what_a_local_one_saved() -> None:
    local = LocalRowsStore(drawn(), OPTIMIZERS["adam"])
    reference = ReferenceRowsStore(drawn(), OPTIMIZERS["adam"])
    train(local, random_steps(seed=1, num_steps=2))
    reference.load_tables(local.tables())
    reference.load_optimizer_state(local.optimizer_state())
    assert_same(reference.tables(), local.tables())
    assert_same(reference.optimizer_state(), local.optimizer_state())


def test_moving_the_store_moves_its_state() -> None:
    store = LocalRowsStore(drawn(), OPTIMIZERS["adam"])
    train(store, random_steps(seed=1, num_steps=1))
    moved = copies(store.double().optimizer_state())
    assert {one.dtype for name, one in moved.items() if name != "step"} == {torch.float64}
    assert moved["a/mean"].any()
