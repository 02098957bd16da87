"""Rows in low precision: what is stored, how it is rounded, and what an update leaves alone."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Precision, Step, StoredPrecision
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, Adam
from recemb.rows.reference import ReferenceRowsStore
from tests.rows.contract import Drawn, assert_same, copies, gather
from tests.rows.low_precision import (
    FORMS,
    LIMIT,
    all_forms,
    drawn,
    held,
    integer_forms,
    move,
    store_of,
    unit,
)

# What is stored


@pytest.mark.parametrize(
    ("precision", "step", "per_row", "per_table"),
    # Seven elements; a scale and a bias of two bytes each, or one of four.
    [
        ("fp32", "table", 28, 0),
        ("fp16", "table", 14, 0),
        ("bf16", "table", 14, 0),
        ("int16", "table", 14, 4),
        ("int16", "row", 14 + 4, 0),
        ("int16", "learned", 14 + 4, 0),
        ("int8", "table", 7, 4),
        ("int8", "row", 7 + 4, 0),
        ("int8", "learned", 7 + 4, 0),
        ("int4", "table", 4, 4),
        ("int4", "row", 4 + 4, 0),
        ("int4", "learned", 4 + 4, 0),
        ("uint8", "table", 7, 0),
    ],
)
def test_bytes_are_those_of_what_is_stored(
    precision: StoredPrecision, step: Step, per_row: int, per_table: int
) -> None:
    store = store_of({"a": torch.zeros(9, 7), "b": torch.zeros(3, 7)}, precision, step)
    for name, rows in (("a", 9), ("b", 3)):
        assert store.physical[name].num_bytes == rows * per_row + per_table
        stored = [one for key, one in store.tables().items() if key.split(".")[0] == name]
        assert sum(one.numel() * one.element_size() for one in stored) == rows * per_row + per_table


@all_forms
def test_values_are_those_that_the_entries_stand_for(precision: Precision, step: Step) -> None:
    values = {"a": drawn(6, 5, 0.06), "b": drawn(4, 5, 0.03, seed=2), "c": drawn(3, 4, 0.05)}
    store = store_of(values, precision, step)
    for name in values:
        torch.testing.assert_close(store.values(name), held(store, name), rtol=1e-6, atol=1e-9)
    asked = [("b", [3, 0, 3]), ("a", [5])]
    wanted = torch.cat([held(store, "b")[[3, 0, 3]], held(store, "a")[[5]]])
    torch.testing.assert_close(gather(store, asked), wanted, rtol=1e-6, atol=1e-9)
    assert gather(store, asked).dtype == torch.float32


CASES = {
    "small": drawn(40, 5, 0.05),
    "around one": drawn(40, 5, 0.1, center=1.0),
    "of many sizes": drawn(40, 5) * torch.logspace(-6, 0.5, 40).unsqueeze(1),
    "tiny": drawn(40, 5, 1e-6),
    "equal": torch.full((40, 5), 0.3),
    "zero": torch.zeros(40, 5),
    "one large": torch.cat([drawn(39, 5, 0.01), torch.full((1, 5), 3.0)]),
}


@all_forms
@pytest.mark.parametrize("case", list(CASES))
def test_values_are_rounded_to_the_nearest(precision: Precision, step: Step, case: str) -> None:
    values = CASES[case]
    store = store_of({"a": values, "b": drawn(3, 5, 7.0)}, precision, step)
    own = unit(store)
    # Half a unit, and what fp32 loses in dividing and multiplying.
    assert ((held(store) - values).abs() <= 0.5 * own * (1 + 1e-3) + 1e-6 * values.abs()).all()
    if precision not in LIMIT:
        return
    limit = LIMIT[precision]
    largest = values.abs().amax(1, keepdim=True)
    # The unit itself is no coarser than it has to be.
    if step == "table":
        assert own[0, 0] <= largest.max() / limit * (1 + 1e-6) + 1e-12
    elif step == "learned":
        assert (own <= (largest / limit).clamp(min=0.01) * (1 + 1e-6)).all()
    else:
        span = values.amax(1, keepdim=True) - values.amin(1, keepdim=True)
        # fp16 rounds the scale by 2^-11, at least by 2^-24, and the bias by 2^-11 of itself.
        assert (own <= span / (2 * limit + 1) * 1.002 + 2**-23 + largest * 2**-11 / limit).all()


@integer_forms
@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8])
def test_every_code_of_every_width_comes_back(precision: Precision, step: Step, dim: int) -> None:
    limit = LIMIT[precision]
    generator = torch.Generator().manual_seed(dim)
    codes = torch.randint(-limit - 1, limit + 1, (50, dim), generator=generator)
    # Rows that reach both ends, so that any scale must be the one it was.
    codes[:, 0] = limit
    codes[:, -1] = -limit - 1 if step == "row" and dim > 1 else -limit
    if step == "table":
        codes.clamp_(min=-limit)
    scale = 2.0**-6
    store = store_of({"a": codes * scale}, precision, step)
    if step == "learned":
        tables = copies(store.tables())
        tables["a.step"].fill_(scale)
        store.load_tables(tables)
        # An update by nothing rounds to what is there.
        before = copies(store.tables())
        move(store, list(range(50)), torch.zeros(50, dim))
        assert_same(store.tables(), before)
        return
    if dim > 1 or step == "table":
        torch.testing.assert_close(held(store), codes * scale, rtol=1e-3, atol=1e-6)


# How it is rounded


@all_forms
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-6])
def test_stochastic_rounding_is_unbiased_and_between_neighbours(
    precision: Precision, step: Step, size: float
) -> None:
    torch.manual_seed(3)
    rows = 4000
    wanted = size * torch.tensor([0.3, -0.7, 0.001, 0.9, -1.0, 0.0123, 0.5])
    start = size * torch.tensor([1.0, -1.0, 0.0, 0.7, -0.9, 0.3, 0.5])
    store = store_of({"a": start.expand(rows, 7)}, precision, step)
    if step == "learned":
        tables = copies(store.tables())
        tables["a.step"].fill_(size / LIMIT[precision])
        store.load_tables(tables)
    move(store, list(range(rows)), held(store) - wanted)
    found, own = held(store), unit(store)
    assert ((found - wanted).abs() <= own * (1 + 1e-3) + 1e-6 * size).all()
    # A value between two neighbours has a deviation of at most half their distance.
    error = (found.double().mean(0) - wanted).abs()
    assert (error <= 5 * 0.5 * own.mean(0) / rows**0.5 + 2e-7 * size).all(), error / own.mean(0)


@all_forms
def test_updates_far_below_a_unit_add_up(precision: Precision, step: Step) -> None:
    """Rounded to the nearest, each of them would be lost."""
    torch.manual_seed(4)
    # One element per row stays large, so that units stay what they are.
    values = torch.full((400, 4), 0.05)
    values[:, 0], values[:, 1] = 1.0, -1.0
    store = store_of({"a": values}, precision, step)
    small = 0.02 * unit(store)[0, 3]
    change = torch.zeros(400, 4)
    change[:, 3] = small
    before = held(store)[:, 3].mean()
    for _ in range(100):
        move(store, list(range(400)), change)
    # Two units in all; a walk of 100 steps, each of deviation sqrt(.02) units, over 400 rows.
    moved = (before - held(store)[:, 3].mean()) / (100 * small)
    assert 0.7 < moved < 1.3


def test_fp16_and_bf16_keep_what_they_can_hold() -> None:
    values = torch.tensor([[1.5, -0.25, 1024.0, 2.0**-14]])
    for precision in ("fp16", "bf16"):
        store = store_of({"a": values}, precision, "table")
        move(store, [0], torch.zeros(1, 4))
        assert torch.equal(held(store), values)


# Saving


@all_forms
def test_a_loaded_store_continues_bit_for_bit(precision: Precision, step: Step) -> None:
    rule = Adam(learning_rate=0.01)
    first, second = (
        store_of({"a": drawn(6, 3, 0.06, seed=n), "b": drawn(4, 3, 0.05)}, precision, step, rule)
        for n in (1, 2)
    )

    def train(store: LocalRowsStore, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(3):
            grads = torch.randn(5, 3)
            gather(store, [("a", [0, 5, 0]), ("b", [1, 3])]).backward(grads)
            store.step()

    train(first, 1)
    second.load_tables(copies(first.tables()))
    second.load_optimizer_state(copies(first.optimizer_state()))
    train(first, 2)
    train(second, 2)
    assert_same(second.tables(), first.tables())
    assert_same(second.optimizer_state(), first.optimizer_state())
    third = store_of({"a": drawn(6, 3), "b": drawn(4, 3)}, precision, step, rule)
    third.load_state_dict(first.state_dict())
    assert_same(third.tables(), first.tables())


@integer_forms
def test_entries_are_named(precision: Precision, step: Step) -> None:
    store = store_of({"a": drawn(6, 3)}, precision, step)
    scale = {"table": ("a.step", (1,)), "row": ("a.scale", (6, 2)), "learned": ("a.step", (6, 1))}
    name, shape = scale[step]
    assert set(store.tables()) == {"a", name} == set(store.state_dict())
    assert tuple(store.tables()[name].shape) == shape
    assert store.tables()["a"].shape == (6, 2 if precision == "int4" else 3)
    dtypes = {"int16": torch.int16, "int8": torch.int8, "int4": torch.uint8}
    assert store.tables()["a"].dtype == dtypes[precision]


def test_a_table_of_another_precision_is_refused() -> None:
    store = store_of({"a": drawn(6, 3)}, "int8", "table")
    with pytest.raises(
        RecembError, match=r"^rows: table 'a' must be torch.int8, got torch.float32"
    ):
        store.load_tables({"a": torch.zeros(6, 3), "a.step": torch.ones(1)})
    with pytest.raises(RecembError, match=r"^rows: table 'a.step' is missing, got \['a'\]"):
        store.load_tables({"a": torch.zeros(6, 3, dtype=torch.int8)})


def test_tables_of_several_precisions_in_one_store() -> None:
    physical = {
        f"{precision}_{step}": PhysicalTable(
            num_rows=5, dim=4, initializer=Drawn(n), precision=precision, step=step
        )
        for n, (precision, step) in enumerate([("fp32", "table"), *FORMS])  # type: ignore[list-item]
    }
    store = LocalRowsStore(physical, SGD(learning_rate=0.01))
    before = {name: held(store, name) for name in physical}
    for name in physical:
        gather(store, [(name, [1, 3])]).backward(torch.ones(2, 4))
    store.step()
    for name, rows in before.items():
        moved = rows.clone()
        moved[[1, 3]] -= 0.01
        # Learned steps start at 0.01, in which a row of ones needs more.
        assert ((held(store, name) - moved).abs() <= unit(store, name) * 1.001 + 1e-7).all(), name


@all_forms
def test_the_reference_store_keeps_full_precision_only(precision: Precision, step: Step) -> None:
    physical = {
        "a": PhysicalTable(num_rows=5, dim=4, initializer=Drawn(1), precision=precision, step=step)
    }
    message = f"^table 'a': the reference store keeps fp32, got {precision}; use the local store$"
    with pytest.raises(RecembError, match=message):
        ReferenceRowsStore(physical, SGD())


@all_forms
def test_rows_that_begin_anew_hold_their_values(precision: Precision, step: Step) -> None:
    store = store_of({"a": drawn(6, 5, 0.06), "b": drawn(4, 5, 0.03, seed=2)}, precision, step)
    before = held(store, "b")
    values = drawn(2, 5, 0.05, seed=3)
    store.reset("a", torch.tensor([5, 2]), values)
    # Rounded to the nearest; a scale and a bias of fp16 are themselves rounded.
    allowed = 0.51 * unit(store)[[5, 2]] + (2e-5 if step == "row" else 1e-7)
    assert ((held(store)[[5, 2]] - values).abs() <= allowed).all()
    assert torch.equal(held(store, "b"), before)


@integer_forms
def test_a_row_may_begin_anew_beyond_the_limits(precision: Precision, step: Step) -> None:
    store = store_of({"a": drawn(6, 5, 0.06), "b": drawn(4, 5, 0.03, seed=2)}, precision, step)
    rows, others = held(store), held(store, "b")
    values = drawn(1, 5, 1.0, seed=3)
    store.reset("a", torch.tensor([3]), values)
    allowed = 0.51 * unit(store)[3] + (1e-3 if step == "row" else 1e-7)
    assert ((held(store)[3] - values[0]).abs() <= allowed).all()
    # The others keep what they held, as far as the unit allows where all share it.
    keep = [0, 1, 2, 4, 5]
    assert ((held(store)[keep] - rows[keep]).abs() <= unit(store)[keep] * (step == "table")).all()
    assert torch.equal(held(store, "b"), others)
