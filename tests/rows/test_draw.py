"""What rows begin with depends on the seed and the table's name, not on who draws which part."""

from dataclasses import replace

import pytest
import torch

from recemb.physical import PhysicalTable, Uniform
from recemb.rows import draw
from recemb.rows.draw import drawn
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD

TABLE = PhysicalTable(num_rows=23, dim=3, initializer=Uniform(1.0))


@pytest.fixture(autouse=True)
def _few_at_a_time(monkeypatch):
    monkeypatch.setattr(draw, "DRAWN_ELEMENTS", 13)  # four rows


def rows(first: int, end: int, name: str = "ads", seed: int = 5) -> torch.Tensor:
    """The rows in one piece, checked to follow each other."""
    found = torch.full((end - first, 3), torch.nan)
    for start, chunk in drawn(name, TABLE, seed, first, end):
        found[start - first : start - first + len(chunk)] = chunk
    return found


@pytest.mark.parametrize(("first", "end"), [(0, 23), (4, 8), (3, 9), (5, 6), (20, 23), (0, 1)])
def test_a_part_is_that_of_the_whole(first, end):
    whole = rows(0, 23)
    assert not whole.isnan().any()
    assert torch.equal(rows(first, end), whole[first:end])


def test_tables_seeds_and_chunks_differ():
    whole = rows(0, 23)
    assert not torch.equal(whole, rows(0, 23, name="users"))
    assert not torch.equal(whole, rows(0, 23, seed=6))
    assert len(whole.unique(dim=0)) == 23


def test_torchs_generator_is_left_alone():
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    rows(0, 23)
    assert torch.equal(torch.rand(3), wanted)


def test_a_store_draws_from_the_generator_or_from_its_seed():
    torch.manual_seed(1)
    first = LocalRowsStore({"ads": TABLE}, SGD()).values("ads")
    second = LocalRowsStore({"ads": TABLE}, SGD()).values("ads")
    torch.manual_seed(1)
    assert torch.equal(LocalRowsStore({"ads": TABLE}, SGD()).values("ads"), first)
    assert not torch.equal(first, second)
    assert torch.equal(LocalRowsStore({"ads": TABLE}, SGD(), seed=5).values("ads"), rows(0, 23))


def test_a_table_may_have_no_rows():
    # More processes than rows: some hold nothing.
    empty = replace(TABLE, num_rows=0)
    assert LocalRowsStore({"ads": empty}, SGD()).values("ads").shape == (0, 3)
