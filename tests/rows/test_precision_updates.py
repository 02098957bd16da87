"""Updates of rows in low precision: what they change, what they leave alone, and no numbers."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.physical import Precision, Step
from recemb.rows.optimizers import Adagrad, Adam
from tests.rows.contract import copies, gather
from tests.rows.decode import decoded
from tests.rows.low_precision import all_forms, drawn, held, move, store_of, unit

# What an update leaves alone


@all_forms
def test_duplicates_are_summed_before_they_are_rounded(precision: Precision, step: Step) -> None:
    store = store_of({"a": drawn(6, 4, 0.06)}, precision, step, Adagrad(learning_rate=0.01))
    before = held(store)
    grads = torch.tensor([[1.0, -2, 0.5, 0], [3, 2, 0.5, 0], [1, 1, 1, 1], [-2, 1, 0, 0]])
    move(store, [2, 2, 5, 2], grads)
    total = {2: grads[[0, 1, 3]].sum(0), 5: grads[2]}
    wanted = before.clone()
    for row, grad in total.items():
        # Adagrad's first step: rate times the gradient over its own root.
        wanted[row] -= 0.01 * grad / (grad.abs() + 1e-8)
        torch.testing.assert_close(store.optimizer_state()["a/sum"][row], grad**2)
    assert ((held(store) - wanted).abs() <= unit(store) * (1 + 1e-3) + 1e-7).all()


@all_forms
def test_other_rows_keep_every_bit(precision: Precision, step: Step) -> None:
    values = {"a": drawn(6, 3, 0.06), "b": drawn(5, 3, 0.03, seed=2)}
    store = store_of(values, precision, step, Adam(learning_rate=0.01))
    before, state = copies(store.tables()), copies(store.optimizer_state())
    # Towards zero: nothing outgrows a table's unit.
    gather(store, [("a", [1, 4, 1]), ("b", [])]).backward(torch.sign(held(store)[[1, 4, 1]]))
    store.step()
    rest = [0, 2, 3, 5]
    for name, one in store.tables().items():
        if name.startswith("b") or (name == "a.step" and step == "table"):
            assert torch.equal(one, before[name]), name
        else:
            assert torch.equal(one[rest], before[name][rest]), name
    for name in ("a/mean", "a/square"):
        assert torch.equal(store.optimizer_state()[name][rest], state[name][rest])
    assert not torch.equal(held(store)[[1, 4]], decoded(before, "a", store.physical["a"])[[1, 4]])


@all_forms
def test_an_update_by_nothing_changes_nothing(precision: Precision, step: Step) -> None:
    store = store_of({"a": drawn(60, 5, 0.06, center=0.02)}, precision, step)
    before = held(store)
    for _ in range(3):
        move(store, list(range(60)), torch.zeros(60, 5))
    # int16: 32767 * scale / scale misses the whole number by up to 0.004, so about one code in
    # 1,000 moves by one.
    changed = held(store) != before
    assert changed.float().mean() <= (0.01 if precision == "int16" else 0)


@pytest.mark.parametrize("precision", ["int16", "int8", "int4"])
@pytest.mark.parametrize("times", [1.5, 2.5, 9.0])
def test_a_tables_unit_grows_with_its_largest_value(precision: Precision, times: float) -> None:
    torch.manual_seed(5)
    values = drawn(2000, 4, 0.5)
    values[0] = 1.0
    store = store_of({"other": drawn(8, 4, 0.01), "a": values}, precision, "table")
    before, old, others = held(store), unit(store)[0, 0].item(), store.tables()["other"].clone()
    move(store, [0], torch.full((1, 4), 1.0 - times))
    new = unit(store)[0, 0].item()
    # Doubled as often as needed.
    doublings = {1.5: 2, 2.5: 4, 9.0: 16}[times]
    assert new == pytest.approx(doublings * old, rel=1e-6)
    assert ((held(store)[0] - times).abs() <= new * 1.001).all()
    # The others are where they were, on the coarser grid and without a drift.
    difference = held(store)[1:] - before[1:]
    assert (difference.abs() <= new * 1.001).all()
    assert difference.mean().abs() < 5 * 0.5 * new / (2000 * 4) ** 0.5
    assert torch.equal(store.tables()["other"], others)
    assert "other.step" in store.tables()
    assert unit(store, "other")[0, 0] < 0.01


def test_a_value_that_rounds_to_the_limit_does_not_grow_the_unit() -> None:
    store = store_of({"a": torch.tensor([[127.0], [3.0]])}, "int8", "table")
    assert float(store.tables()["a.step"]) == 1
    move(store, [0], torch.tensor([[-0.4]]))
    assert float(store.tables()["a.step"]) == 1
    assert held(store).flatten().tolist() == [127, 3]


def test_a_row_that_outgrows_its_scale_gets_another() -> None:
    store = store_of({"a": drawn(2, 4, 0.5)}, "int8", "row")
    before = unit(store).clone()
    change = torch.tensor([[0.0, 0.0, 0.0, -9.0]])
    wanted = held(store)[0] - change[0]
    move(store, [0], change)
    assert ((held(store)[0] - wanted).abs() <= unit(store)[0] * 1.001).all()
    assert unit(store)[0, 0] > 5 * before[0, 0]
    assert torch.equal(unit(store)[1], before[1])


def test_a_row_that_has_shrunk_gets_a_finer_scale() -> None:
    store = store_of({"a": drawn(1, 4, 0.5)}, "int8", "row")
    wanted = held(store)[0] / 100
    move(store, [0], held(store) - wanted)
    assert unit(store)[0, 0] < 0.02 / 255
    assert ((held(store)[0] - wanted).abs() <= unit(store)[0] * 1.001).all()


@pytest.mark.parametrize("dim", [1, 3, 5, 6])
def test_elements_that_share_a_byte_do_not_touch_each_other(dim: int) -> None:
    store = store_of({"a": drawn(5, dim)}, "int4", "table")
    for place in range(dim):
        before = held(store)
        change = torch.zeros(1, dim)
        # From one grid point to another: nothing to round but fp32's last bit.
        change[0, place] = held(store)[3, place] - 2 * unit(store)[0, 0]
        move(store, [3], change)
        wanted = before.clone()
        wanted[3, place] -= change[0, place]
        torch.testing.assert_close(held(store), wanted, rtol=0, atol=1e-5)


# What is no number


@all_forms
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_not_stored(
    precision: Precision, step: Step, bad: float
) -> None:
    store = store_of({"a": drawn(6, 4, 0.06)}, precision, step)
    before = copies(store.tables())
    change = torch.zeros(1, 4)
    change[0, 1] = -bad
    with pytest.raises(RecembError, match=r"^table 'a': step 1 was not made, .* row 2 is not fin"):
        move(store, [2], change)
    for name, one in store.tables().items():
        assert torch.equal(one, before[name]), name
