"""The local store under the contract of every store, and against the reference store."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Precision, zeros
from recemb.physical import Step as QuantisationStep
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, Adam
from recemb.rows.pending import sum_duplicates
from recemb.rows.reference import ReferenceRowsStore
from recemb.rows.store import RowsStore
from tests.rows.contract import (
    OPTIMIZERS,
    Drawn,
    MakeStore,
    RowsStoreContract,
    Step,
    assert_same,
    backward,
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


def test_a_dense_optimizer_is_refused_the_rows() -> None:
    store = LocalRowsStore(drawn(), SGD(learning_rate=0.5))
    before = copies(store.tables())
    other = torch.nn.Parameter(torch.ones(1))
    dense = torch.optim.SGD([other, *store.parameters()], lr=1.0, weight_decay=0.1)
    (gather(store, [("a", [1, 2])]).sum() + other.sum()).backward()
    with pytest.raises(
        RecembError, match=r"^SGD: it was given the rows of table 'a', which it can"
    ):
        dense.step()
    assert_same(store.tables(), before)
    assert other.item() == 1
    store.step()
    assert torch.equal(store.tables()["a"][1], before["a"][1] - 0.5)


@pytest.mark.parametrize("no_gradient", [torch.no_grad, torch.inference_mode])
def test_reading_without_gradients_asks_for_none(no_gradient: Callable[[], Any]) -> None:
    store = LocalRowsStore(numbered(), SGD())
    with no_gradient():
        assert not gather(store, [("a", [0])]).requires_grad


# What cannot be stored


@pytest.mark.parametrize(
    ("precision", "step", "value", "fits"),
    [
        ("fp32", "table", 3e38, True),
        ("fp16", "table", 65_000.0, True),
        ("fp16", "table", 66_000.0, False),
        ("bf16", "table", 1e38, True),
        ("int8", "row", 60_000.0, True),
        ("int8", "row", 66_000.0, False),
        ("int8", "table", 1e20, True),
    ],
)
def test_rows_that_outgrow_their_precision_are_refused(
    precision: Precision, step: QuantisationStep, value: float, fits: bool
) -> None:
    physical = {
        "first": PhysicalTable(num_rows=3, dim=2, initializer=zeros, precision=precision),
        "a": PhysicalTable(num_rows=4, dim=2, initializer=zeros, precision=precision, step=step),
    }
    store = LocalRowsStore(physical, SGD(learning_rate=1.0))
    backward(store, [([("a", [2])], torch.full((1, 2), -value))])
    if fits:
        store.step()
        assert store.values("a")[2].tolist() == pytest.approx([value, value], rel=0.02)
        assert store.num_steps == 1
        return
    message = rf"^table 'a': step 1 was not made, for row 2 would outgrow what {precision} rows ho"
    with pytest.raises(RecembError, match=message):
        store.step()
    assert not store.values("a").any()
    assert store.num_steps == 0


def test_learned_steps_stay_finite() -> None:
    """The pass that is run again may find what the first has not."""
    physical = {
        "a": PhysicalTable(
            num_rows=4, dim=2, initializer=Drawn(1), precision="int8", step="learned"
        )
    }
    store = LocalRowsStore(physical, SGD(learning_rate=0.1))
    backward(store, [([("a", [2])], torch.ones(1, 2))])

    def again() -> None:
        backward(store, [([("a", [2])], torch.tensor([[1.0, float("nan")]]))])

    with pytest.raises(RecembError, match=r"^table 'a': .* the gradient of row 2 is not finite"):
        store.step(again)
    assert all(one.isfinite().all() for one in store.tables().values())


# Steps that are forgotten


ONES: Step = [([("a", [1])], torch.ones(1, 4))]


def test_zero_grad_before_a_step_drops_gradients_and_says_so() -> None:
    """As it drops those of all other parameters."""
    store = LocalRowsStore(drawn(), SGD(learning_rate=0.5))
    before = copies(store.tables())
    optimizer = torch.optim.SGD(store.parameters(), lr=1.0)
    backward(store, [*ONES, *ONES])
    optimizer.zero_grad()
    with pytest.warns(UserWarning, match=r"^rows: the gradients of 2 backward passes were dropped"):
        backward(store, ONES)
    store.step()
    assert torch.equal(store.tables()["a"][1], before["a"][1] - 0.5)


def test_zero_grad_right_before_a_step_says_so_too() -> None:
    store = LocalRowsStore(drawn(), SGD(learning_rate=0.5))
    before = copies(store.tables())
    backward(store, ONES)
    store.zero_grad()
    with pytest.warns(UserWarning, match=r"^rows: the gradients of 1 backward passes were dropped"):
        store.step()
    assert_same(store.tables(), before)


def test_gradients_that_were_set_to_zero_touch_no_row() -> None:
    store = LocalRowsStore(drawn(), Adam(learning_rate=0.5))
    train(store, [ONES])
    before = copies(store.tables())
    backward(store, ONES)
    store.zero_grad(set_to_none=False)
    backward(store, [([("a", [2])], torch.ones(1, 4))])
    store.step()
    assert torch.equal(store.tables()["a"][1], before["a"][1])
    assert not torch.equal(store.tables()["a"][2], before["a"][2])


@pytest.mark.parametrize("order", ["zero, step", "step, zero"])
def test_zero_grad_in_its_place_says_nothing(order: str, recwarn: pytest.WarningsRecorder) -> None:
    store = LocalRowsStore(drawn(), SGD(learning_rate=0.5))
    before = copies(store.tables())
    for _ in range(3):
        if order == "zero, step":
            store.zero_grad()
        backward(store, [*ONES, *ONES])
        store.step()
        if order == "step, zero":
            store.zero_grad()
    assert torch.equal(store.tables()["a"][1], before["a"][1] - 3.0)
    assert not recwarn.list


def test_a_hundred_passes_without_a_step_are_said_once() -> None:
    store = LocalRowsStore(drawn(), SGD())
    backward(store, ONES * 98)
    store.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Two gathers of one pass are one pass.
        for _ in range(99):
            (gather(store, [("a", [1])]).sum() + gather(store, [("b", [1])]).sum()).backward()
    with pytest.warns(UserWarning, match=r"^rows: the gradients of 100 backward passes wait for "):
        backward(store, ONES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backward(store, ONES * 200)


def test_saving_without_the_gradients_that_wait_is_said() -> None:
    store = LocalRowsStore(drawn(), SGD())
    backward(store, ONES)
    with pytest.warns(UserWarning, match=r"^rows: rows were saved while gradients wait"):
        store.state_dict()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (SGD(learning_rate=-0.1), r"^rows optimizer: learning_rate must be above 0, got -0.1$"),
        (Adam(learning_rate=float("nan")), r"^rows optimizer: learning_rate must be above 0, got"),
        (
            torch.optim.SGD([torch.zeros(1)], lr=0.1),
            r"^rows optimizer: .* got SGD; torch's are for",
        ),
        (SGD, r"^rows optimizer: rows need an optimizer of recemb\.rows\.optimizers"),
        (None, r"^rows optimizer: .* got NoneType"),
    ],
)
@pytest.mark.parametrize("store", [LocalRowsStore, ReferenceRowsStore])
def test_a_bad_optimizer_is_refused(store: type[RowsStore], optimizer: Any, message: str) -> None:
    with pytest.raises(RecembError, match=message):
        store(drawn(), optimizer)  # type: ignore[call-arg]


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
