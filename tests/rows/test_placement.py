"""How tables may lie, and how they are cut."""

from typing import Any

import pytest
import torch

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, zeros
from recemb.rows.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad
from recemb.rows.placement import SHARDINGS, Piece, Placement, part_of, shardings


def table(**settings: Any) -> PhysicalTable:
    return PhysicalTable(**{"num_rows": 10, "dim": 8, "initializer": zeros, **settings})


def test_a_plain_table_may_lie_in_every_way():
    assert shardings("user", table(), Adam(), 4) == list(SHARDINGS)


@pytest.mark.parametrize("how", SHARDINGS)
def test_what_a_table_says_is_all_that_is_left(how):
    assert shardings("user", table(sharding=how), Adam(), 4) == [how]


@pytest.mark.parametrize("precision", ["int16", "int8", "int4"])
def test_rows_with_one_step_together_stay_whole(precision):
    one_step = {"precision": precision, "step": "table"}
    assert shardings("user", table(**one_step), Adam(), 4) == ["data_parallel", "table_wise"]
    message = (
        "table 'user': its rows have one quantisation step together, so they cannot be sharded "
        "row_wise; set step to row, or sharding to table_wise or data_parallel$"
    )
    with pytest.raises(RecembError, match=message):
        shardings("user", table(**one_step, sharding="row_wise"), Adam(), 4)


@pytest.mark.parametrize("step", ["row", "learned"])
def test_rows_with_steps_of_their_own_may_be_cut(step):
    found = shardings("user", table(precision="int8", step=step), Adam(), 4)
    assert found == ["data_parallel", "row_wise", "table_wise"]


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_columns_of_integers_are_not_cut(precision):
    message = (
        "table 'user': column_wise sharding needs rows in floating point, got "
        f"{precision}; use row_wise or table_wise$"
    )
    own = table(precision=precision, step="row", sharding="column_wise")
    with pytest.raises(RecembError, match=message):
        shardings("user", own, SGD(), 4)


def test_columns_are_cut_into_equal_blocks_only():
    message = (
        "table 'user': column_wise sharding over 3 processes needs a dim that they divide, got 8; "
        "use row_wise$"
    )
    with pytest.raises(RecembError, match=message):
        shardings("user", table(sharding="column_wise"), SGD(), 3)
    assert "column_wise" not in shardings("user", table(), SGD(), 3)
    assert "column_wise" in shardings("user", table(), SGD(), 2)


def test_columns_cannot_share_one_number_per_row():
    message = (
        "table 'user': rows_optimizer keeps one number per row, which blocks of columns cannot "
        "share; use adagrad or adam, or row_wise sharding$"
    )
    with pytest.raises(RecembError, match=message):
        shardings("user", table(sharding="column_wise"), RowWiseAdagrad(), 2)
    assert "column_wise" not in shardings("user", table(), RowWiseAdagrad(), 2)
    for optimizer in (SGD(), Adagrad(), Adam()):
        assert "column_wise" in shardings("user", table(), optimizer, 2)
    # One process shares nothing.
    assert "column_wise" in shardings("user", table(), RowWiseAdagrad(), 1)


def test_rows_are_cut_into_equal_blocks_but_for_the_last_ones():
    pieces = Placement("row_wise", (0, 1, 2, 3)).pieces(table())
    assert [(piece.first_row, piece.num_rows) for piece in pieces] == [
        (0, 3),
        (3, 3),
        (6, 3),
        (9, 1),
    ]
    few = Placement("row_wise", (0, 1, 2, 3)).pieces(table(num_rows=2))
    assert [piece.num_rows for piece in few] == [1, 1, 0, 0]


def test_columns_and_whole_tables():
    narrow = Placement("column_wise", (0, 1)).pieces(table())
    assert narrow == [Piece(0, 0, 10, 0, 4, True), Piece(1, 0, 10, 4, 4, True)]
    assert Placement("table_wise", (3,)).pieces(table()) == [Piece(3, 0, 10, 0, 8, False)]


def test_the_parts_of_all_pieces_are_the_table():
    whole = torch.arange(80).view(10, 8)
    for how in ("row_wise", "column_wise"):
        pieces = Placement(how, (0, 1)).pieces(table())
        joined = torch.cat([part_of(whole, one) for one in pieces], int(how == "column_wise"))
        assert torch.equal(joined, whole)
    step = torch.ones(1)
    assert part_of(step, pieces[0]) is step
