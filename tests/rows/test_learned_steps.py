"""Learned quantisation steps (ALPT): their gradient, their update and the second pass."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recemb.physical import Precision
from recemb.rows.flat import FIRST_STEP, LearnedStepFlat
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, Adam, UpdateRule
from tests.rows.contract import assert_same, copies, gather
from tests.rows.low_precision import LIMIT, drawn, held, store_of

RATE, STEP_RATE = 0.1, 0.003


def learned_store(
    values: Tensor, precision: Precision = "int8", optimizer: UpdateRule | None = None
) -> LocalRowsStore:
    """Return a store of one table whose steps are learned at a rate that shows."""
    rule = optimizer or SGD(learning_rate=RATE, step_learning_rate=STEP_RATE)
    return store_of({"a": values}, precision, "learned", rule)


def steps(store: LocalRowsStore) -> Tensor:
    """Return the steps, copied."""
    return store.tables()["a.step"].clone()


def again(store: LocalRowsStore, rows: list[int], grads: Tensor) -> Callable[[], None]:
    """Return the second pass over a batch."""
    return lambda: gather(store, [("a", rows)]).backward(grads)


def quantised(values: Tensor, step: Tensor, limit: int) -> Tensor:
    """Return step * round(values / step), with gradients as if rounding were nothing (LSQ)."""
    scaled = (values / step).clamp(-limit - 1, limit)
    return step * (scaled + (scaled.round() - scaled).detach())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_gradient_of_steps_is_that_of_autograd(precision: Precision) -> None:
    limit = LIMIT[precision]
    store = learned_store(torch.zeros(30, 5), precision)
    flat = next(iter(store.flats.values()))
    assert isinstance(flat, LearnedStepFlat)
    chosen = torch.rand(30, 1, generator=torch.Generator().manual_seed(1)) * 0.02 + 0.001
    flat.step_R1.copy_(chosen)
    # Inside the range, below it and above it.
    values = drawn(30, 5, 2 * limit * 0.02, seed=2)
    grads = drawn(30, 5, seed=3)
    step = chosen.clone().requires_grad_()
    quantised(values, step, limit).backward(grads)
    got = flat.step_gradient(torch.arange(30), values, grads)
    torch.testing.assert_close(got, step.grad, rtol=1e-4, atol=1e-4)
    scaled = values / chosen
    assert (scaled < -limit - 1).any()
    assert (scaled > limit).any()
    assert (scaled.abs() < limit).any()


def test_gradient_of_a_step_by_hand() -> None:
    store = learned_store(torch.zeros(1, 4))
    flat = next(iter(store.flats.values()))
    assert isinstance(flat, LearnedStepFlat)
    # In units of 0.01: 3.25 (rounds down by .25), 7.5 + .2, above 127, below -128.
    values = torch.tensor([[0.0325, 0.077, 2.0, -3.0]])
    grads = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    got = float(flat.step_gradient(torch.tensor([0]), values, grads))
    assert got == pytest.approx(-0.25 + 10 * 0.3 + 100 * 127 - 1000 * 128, rel=1e-5)


def test_a_step_by_hand() -> None:
    """Update in fp32, second pass on rounded rows, step, and a stochastic rounding."""
    torch.manual_seed(1)
    store = learned_store(drawn(6, 3, 0.5))
    before, old_steps = held(store), steps(store)
    rows = [4, 1, 4]
    first, second = drawn(3, 3, seed=2), drawn(3, 3, seed=3)
    seen = []

    def reevaluate() -> None:
        block = gather(store, [("a", rows)])
        seen.append(block.detach().clone())
        block.backward(second)

    gather(store, [("a", rows)]).backward(first)
    store.step(reevaluate)

    new = before.clone()
    new[4] -= RATE * (first[0] + first[2])
    new[1] -= RATE * first[1]
    scaled = new / old_steps
    # The second pass has read the new rows, rounded to the nearest.
    nearest = scaled.round().clamp(-128, 127) * old_steps
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], nearest[rows], rtol=1e-6, atol=1e-7)
    # Three reads of three elements: 1 / sqrt(B D (2^7 - 1)).
    rate = STEP_RATE / math.sqrt(3 * 3 * 127)
    wanted = old_steps.clone()
    for row, grad in ((4, second[0] + second[2]), (1, second[1])):
        slope = [
            127.0 if x >= 127 else -128.0 if x <= -128 else round(x) - x
            for x in scaled[row].tolist()
        ]
        wanted[row] -= rate * sum(g * s for g, s in zip(grad.tolist(), slope, strict=True))
    torch.testing.assert_close(steps(store), wanted, rtol=1e-5, atol=1e-8)
    assert (steps(store) != old_steps).flatten().tolist() == [
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    # Rows are the new ones to within a unit; the others keep every bit.
    assert ((held(store) - new).abs()[[1, 4]] <= steps(store)[[1, 4]] * 1.001).all()
    rest = [0, 2, 3, 5]
    assert torch.equal(held(store)[rest], before[rest])


def test_rows_move_by_the_first_pass_and_not_by_the_second() -> None:
    torch.manual_seed(2)
    # Steps so fine that rounding does not blur what moved.
    store = learned_store(drawn(4, 3, 0.5), "int16")
    tables = copies(store.tables())
    tables["a.step"].fill_(1e-4)
    tables["a"] = (held(store) / 1e-4).round().to(torch.int16)
    store.load_tables(tables)
    before = held(store)
    gather(store, [("a", [2])]).backward(torch.ones(1, 3))
    store.step(again(store, [2], torch.full((1, 3), 50.0)))
    wanted = before.clone()
    wanted[2] -= RATE
    assert ((held(store) - wanted).abs() <= 2e-4).all()


def test_without_a_second_pass_the_first_ones_gradient_serves() -> None:
    store, other = learned_store(drawn(6, 3, 0.5)), learned_store(drawn(6, 3, 0.5))
    grads = drawn(2, 3, seed=5)
    for one, reevaluate in ((store, None), (other, again(other, [1, 4], grads))):
        gather(one, [("a", [1, 4])]).backward(grads)
        one.step(reevaluate)
    # The same gradient in both passes: the same steps.
    torch.testing.assert_close(steps(store), steps(other))
    assert not torch.equal(steps(store), learned_store(drawn(6, 3, 0.5)).tables()["a.step"])


def test_second_pass_is_asked_for_once_and_only_where_steps_are_learned() -> None:
    calls = []
    values = {"a": drawn(6, 3, 0.05)}
    for precision, step in (("fp32", "table"), ("int8", "table"), ("int8", "row")):
        store = store_of(values, precision, step)  # type: ignore[arg-type]
        gather(store, [("a", [1])]).backward(torch.ones(1, 3))
        store.step(lambda: calls.append("never"))
    assert not calls
    store = learned_store(drawn(6, 3, 0.5))
    # Nothing was read.
    store.step(lambda: calls.append("never"))
    assert not calls
    gather(store, [("a", [1])]).backward(torch.ones(1, 3))

    def reevaluate() -> None:
        calls.append("once")
        again(store, [1], torch.ones(1, 3))()

    store.step(reevaluate)
    assert calls == ["once"]


def test_tables_without_learned_steps_are_updated_once() -> None:
    plain = store_of({"b": drawn(5, 2, 0.5)}, "fp32", "table").physical["b"]
    both = {"a": learned_store(drawn(6, 3, 0.5)).physical["a"], "b": plain}
    store = LocalRowsStore(both, Adam(learning_rate=0.1))
    before = held(store, "b")

    def batch() -> None:
        gather(store, [("a", [1, 1])]).backward(torch.ones(2, 3))
        gather(store, [("b", [3])]).backward(torch.ones(1, 2))

    batch()
    store.step(batch)
    wanted = before.clone()
    # Adam's first step is its rate.
    wanted[3] -= 0.1
    torch.testing.assert_close(held(store, "b"), wanted)
    torch.testing.assert_close(store.optimizer_state()["b/mean"][3], torch.full((2,), 0.1))
    assert int(store.optimizer_state()["step"]) == 1
    # Nothing of the second pass is left.
    after = copies(store.tables())
    store.step()
    assert_same(store.tables(), after)


def test_accumulated_batches_learn_steps_from_the_last() -> None:
    """A trainer that accumulates gradients can repeat only the last batch."""
    store = learned_store(drawn(6, 3, 0.5))
    before = steps(store)
    rows = held(store)
    gather(store, [("a", [0, 4])]).backward(torch.full((2, 3), 0.73))
    gather(store, [("a", [4, 2])]).backward(torch.full((2, 3), 0.73))
    store.step(again(store, [4, 2], torch.ones(2, 3)))
    assert (steps(store) != before).flatten().tolist() == [False, False, True, False, True, False]
    # All rows of both batches have moved.
    moved = rows - held(store)
    wanted = 0.73 * RATE * torch.tensor([1, 0, 1, 0, 2, 0]).unsqueeze(1)
    assert ((moved - wanted).abs() <= steps(store) * 1.001).all()


def test_a_second_pass_that_reads_nothing_moves_no_step() -> None:
    store = learned_store(drawn(6, 3, 0.5))
    before = steps(store)
    gather(store, [("a", [0, 4])]).backward(torch.full((2, 3), 0.73))
    store.step(lambda: None)
    assert torch.equal(steps(store), before)


def test_a_second_pass_may_read_other_rows() -> None:
    """As a model does that draws negatives in its forward pass."""
    store = learned_store(drawn(6, 3, 0.5))
    before, rows = steps(store), held(store)
    gather(store, [("a", [0, 4])]).backward(torch.full((2, 3), 0.73))
    store.step(again(store, [5, 4, 1], torch.ones(3, 3)))
    assert (steps(store) != before).flatten().tolist() == [False] * 4 + [True, False]
    assert torch.equal(held(store)[[1, 5]], rows[[1, 5]])


@pytest.mark.parametrize("with_second", [True, False])
def test_a_batch_that_reads_no_row_changes_nothing(with_second: bool) -> None:
    store = learned_store(drawn(6, 3, 0.5))
    before = copies(store.tables())
    gather(store, [("a", [])]).backward(torch.ones(0, 3))
    store.step(again(store, [], torch.ones(0, 3)) if with_second else None)
    assert_same(store.tables(), before)


def test_steps_stay_above_zero() -> None:
    store = learned_store(drawn(2, 3, 0.5))
    gather(store, [("a", [0, 1])]).backward(torch.tensor([[0.73], [0.73]]).expand(2, 3))
    # Gradients that carry one step far up and the other far below.
    store.step(again(store, [0, 1], torch.tensor([[1e6], [-1e6]]).expand(2, 3)))
    assert steps(store).max() > 1
    assert 0 < steps(store).min() < 0.001
    assert held(store).isfinite().all()


def test_steps_start_as_published_where_values_fit() -> None:
    store = learned_store(torch.cat([drawn(3, 4, 0.05), torch.full((1, 4), 2.54)]))
    assert FIRST_STEP == 0.01
    assert steps(store).flatten().tolist() == pytest.approx([0.01, 0.01, 0.01, 0.02])
    assert SGD().step_learning_rate == 2e-5


def test_learned_steps_fit_better_than_fixed_ones() -> None:
    """Values near 0.004 lie between codes 0 and 1 of the first step."""
    torch.manual_seed(3)
    target = drawn(40, 8, 0.004, seed=7)
    errors = []
    for step_rate in (1e-12, 0.5):
        store = learned_store(
            torch.zeros(40, 8), "int4", SGD(learning_rate=0.2, step_learning_rate=step_rate)
        )
        rows = list(range(40))

        def batch(store: LocalRowsStore = store, rows: list[int] = rows) -> None:
            block = gather(store, [("a", rows)])
            (block - target).square().sum().backward()

        for _ in range(150):
            batch()
            store.step(batch)
        errors.append(float((held(store) - target).square().mean()))
    assert errors[1] < 0.5 * errors[0]
