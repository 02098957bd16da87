"""Costs against numbers that are worked out by hand."""

from typing import Any

import pytest

from recemb.physical import PhysicalTable, zeros
from recemb.rows.costs import cost_of, total_cost
from recemb.rows.optimizers import SGD, Adam, RowWiseAdagrad
from recemb.rows.world import Rates, World

# One byte per second: seconds are bytes.
UNIT = Rates(memory=1, local=1, network=1, message_s=0)


def table(**settings: Any) -> PhysicalTable:
    return PhysicalTable(**{"num_rows": 10, "dim": 8, "initializer": zeros, **settings})


def world(size: int, **settings: Any) -> World:
    return World(**{"size": size, "local_size": size, "batch_size": 8, "rates": UNIT, **settings})


@pytest.mark.parametrize(
    ("precision", "step", "row_bytes"),
    [("fp32", "table", 32), ("bf16", "table", 16), ("int8", "row", 12), ("int4", "learned", 8)],
)
def test_rows_and_state_of_blocks_of_rows(precision, step, row_bytes):
    # 10 rows over 4 processes: 3, 3, 3, 1. Adam: two moments of 8 elements of 4 bytes.
    cost = cost_of(table(precision=precision, step=step), "row_wise", Adam(), world(4))
    assert cost.each[0].tolist() == [rows * row_bytes for rows in (3, 3, 3, 1)]
    assert cost.each[1].tolist() == [rows * 64 for rows in (3, 3, 3, 1)]
    assert not cost.owner.any()


def test_a_whole_table_is_its_owner_s_with_its_one_step():
    physical = {"user": table(precision="int4", step="table", dim=3)}
    loads = total_cost(physical, {"user": ("table_wise", 1)}, RowWiseAdagrad(), world(3))
    assert loads[0].tolist() == [0, 10 * 2 + 4, 0]  # three codes of 4 bits are 2 bytes
    assert loads[1].tolist() == [0, 40, 0]


def test_columns_and_copies():
    cost = cost_of(table(), "column_wise", Adam(), world(4))
    assert (cost.each[0].tolist(), cost.each[1].tolist()) == ([80], [160])
    cost = cost_of(table(), "data_parallel", Adam(), world(4))
    assert (cost.each[0].tolist(), cost.each[1].tolist()) == ([320], [640])


def test_codes_are_not_trained():
    codes = table(precision="uint8")
    for how in ("row_wise", "data_parallel"):
        cost = cost_of(codes, how, Adam(), world(2))
        assert not cost.each[1].any()
        assert not cost.each[5].any()
    # A row number there, eight bytes back, half of both over the wire, for 4 samples.
    assert cost_of(codes, "row_wise", Adam(), world(2)).each[4].tolist() == [4 * 16 / 2] * 2
    assert cost_of(codes, "data_parallel", Adam(), world(2)).each[4].tolist() == [0]


def test_an_exchange_is_row_numbers_vectors_and_gradients():
    # 2 of 8 samples each, 3 reads: 6 x (8 + 32 + 32) bytes, three quarters of them to others.
    even = table(num_rows=8, reads=3.0)
    assert cost_of(even, "row_wise", SGD(), world(4)).each[4].tolist() == [6 * 72 * 3 / 4] * 4
    # Its owner answers all 24.
    cost = cost_of(even, "table_wise", SGD(), world(4))
    assert cost.each[4].tolist() == [6 * 72 * 3 / 4]
    assert (cost.each + cost.owner)[4].tolist() == [24 * 72 * 3 / 4]
    # A copy sends (row number, gradient) of 6 distinct rows to all four.
    cost = cost_of(even, "data_parallel", SGD(), world(4))
    assert cost.each[4].tolist() == [4 * 6 * 40 * 3 / 4]
    # All numbers to all, a quarter of each vector and gradient to and from all.
    cost = cost_of(even, "column_wise", SGD(), world(4))
    assert cost.each[4].tolist() == [(24 * 8 + 6 * 64) * 3 / 4]


def test_a_copy_sends_no_row_twice():
    few = table(num_rows=2, reads=3.0)
    assert cost_of(few, "data_parallel", SGD(), world(4)).each[4].tolist() == [4 * 2 * 40 * 3 / 4]


def test_the_network_is_slower_than_the_machine():
    # 8 processes, 2 on a machine: one neighbour, six others, over 100 and 10 bytes per second.
    rates = Rates(memory=1, local=100, network=10, message_s=0)
    two = world(8, local_size=2, rates=rates)
    assert two.exchange_s(800) == pytest.approx(100 / 100 + 600 / 10)
    assert world(1, rates=rates).exchange_s(800) == 0


def test_messages_are_counted_by_form_and_sharding():
    rates = Rates(memory=1e30, local=1e30, network=1e30, message_s=1)
    physical = {"a": table(), "b": table(), "c": table(dim=4), "d": table()}
    placed = {"a": ("row_wise", 0), "b": ("row_wise", 0), "c": ("row_wise", 0)}
    loads = total_cost(
        physical, {**placed, "d": ("data_parallel", 0)}, SGD(), world(2, rates=rates)
    )
    assert loads[4].tolist() == pytest.approx([5 + 5 + 2] * 2)


def test_gather_and_update_touch_what_a_batch_reads():
    # fp32: 8 samples read a row each; a row number, the row and its copy: 8 + 32 + 32 bytes.
    one = cost_of(table(num_rows=100), "row_wise", SGD(), world(1))
    assert one.each[3].tolist() == [8 * 72]
    # State makes an update slower by 6 passes over its bytes, in each of 8 distinct rows.
    more = cost_of(table(num_rows=100), "row_wise", Adam(), world(1))
    assert float(more.each[5] - one.each[5]) == 8 * 6 * 64
    # Of 4 rows, only 4 are updated however many are read.
    few = [cost_of(table(num_rows=4), "row_wise", rule, world(1)) for rule in (SGD(), Adam())]
    assert float(few[1].each[5] - few[0].each[5]) == 4 * 6 * 64
