"""Budgets of several tables, and what is refused."""

import math
import re

import numpy as np
import pytest
import torch

from recemb.accounting import table_report
from recemb.compress.methods import METHODS
from recemb.compress.plan import plain_bytes, share_in_bytes
from recemb.compress.tables import compress
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.tables.unified import Unified
from tests.compress.small import embeddings, plain, random_rows, reading, vectors

SIZES = {"large": 3000, "middle": 750, "small": 30, "tiny": 2}


@pytest.fixture
def four() -> Embeddings:
    return plain({name: random_rows(count, 8, count) for name, count in SIZES.items()})


def bytes_of(made: Embeddings) -> dict[str, int]:
    return {name: int(str(one["bytes"])) for name, one in table_report(made).items()}


@pytest.mark.parametrize("method", ["pq", "svd", "prune", "dedup"])
@pytest.mark.parametrize("budget", [110_000, 80_000, 50_000, 35_000])
def test_budgets_are_met_and_used(method, budget, four):
    before, after = bytes_of(four), bytes_of(compress(four, METHODS[method], budget).embeddings)
    assert sum(after.values()) <= budget
    assert all(after[name] <= before[name] for name in before)
    # What the next size would take: a column, a code more of a byte, an element, ten rows (which
    # merge as they please).
    step = {"svd": 3000 * 4 + 32, "pq": 3000 + 2**8 * 32, "prune": 5, "dedup": 10 * 8 * 4}[method]
    if method == "pq" and budget > 60_000:
        return  # 8 codes of 8 bits each are its largest size
    assert sum(after.values()) > budget - step


def test_parts_are_as_the_square_root_of_what_tables_take(four):
    # One element is 5 bytes, fine enough to see the law; the small tables are within their parts.
    found = compress(four, METHODS["prune"], 60_000)
    assert set(found.kept) == {"small", "tiny"}
    assert set(found.kept.values()) == {"its part of the budget is enough"}
    before, after = bytes_of(four), bytes_of(found.embeddings)
    parts = {name: after[name] / math.sqrt(before[name]) for name in before}
    assert parts["large"] == pytest.approx(parts["middle"], rel=0.001)
    assert max(parts["small"], parts["tiny"]) <= parts["large"]


def test_a_table_that_cannot_get_so_small_takes_from_the_others(four):
    # A column for each id of "large" takes 12,032 bytes, of 16,100; its part would be 9,600.
    after = bytes_of(compress(four, METHODS["svd"], 16_100).embeddings)
    assert after["large"] == 3000 * 4 + 8 * 4
    assert after["middle"] == 750 * 4 + 8 * 4
    assert sum(after.values()) <= 16_100


def test_the_smallest_budget_is_named_and_works(four):
    with pytest.raises(RecembError) as error:
        compress(four, METHODS["svd"], 1_000)
    # A column of each, and its eight numbers; two rows take 64 bytes as they are.
    least = sum(count * 4 + 32 for count in SIZES.values())
    assert least == 2 * 4 + 32 + 30 * 4 + 32 + 750 * 4 + 32 + 3000 * 4 + 32
    assert f"a budget of 1,000 bytes is too small for svd, which needs {least:,};" in str(
        error.value
    )
    assert sum(bytes_of(compress(four, METHODS["svd"], least).embeddings).values()) == least
    with pytest.raises(RecembError, match=f"needs {least:,}"):
        compress(four, METHODS["svd"], least - 1)


def test_tables_that_stay_count(four):
    others = (3000 + 30 + 2) * 32
    with pytest.raises(RecembError) as error:
        compress(four, METHODS["svd"], 50_000, ["middle"])
    least = others + 750 * 4 + 32
    assert f"needs {least:,}, {others:,} of it in tables that stay: 'large', 'small'" in str(
        error.value
    )
    found = compress(four, METHODS["svd"], least, ["middle"])
    assert sum(bytes_of(found.embeddings).values()) == least
    assert found.kept == dict.fromkeys(["large", "small", "tiny"], "it was not asked for")
    np.testing.assert_array_equal(vectors(found, "large"), vectors(four, "large"))


def test_other_kinds_stay_and_say_so():
    tables = {"plain": Full(dim=8), "mixed": Hashed(num_rows=50, dim=8)}
    made = embeddings(tables, [reading("plain", 500), reading("mixed", 300)])
    found = compress(made, METHODS["pq"], 8_000)
    assert found.kept == {"mixed": "it is of kind hashed, and pq compresses kind full only"}
    assert found.embeddings.tables["mixed"] == tables["mixed"]
    np.testing.assert_array_equal(vectors(found, "mixed"), vectors(made, "mixed"))
    assert sum(bytes_of(found.embeddings).values()) <= 8_000


REFUSED = {
    "unknown table": ("pq", 50_000, ["larg"], r"table 'larg' is not among the model's \['large'"),
    "no size": ("pq", None, None, "pq makes tables as small as it is asked to; give a budget or a"),
    "fits already": ("svd", 10**6, None, "the tables take 121,024 already; there is nothing to do"),
    "no gain": ("pq", 110_000, ["tiny"], "'tiny': pq would not make it smaller"),
    "nothing alike": ("dedup", None, None, "dedup changes no table: 'large', 'middle', 'small', "),
}


@pytest.mark.parametrize(("method", "budget", "names", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_refused(method, budget, names, said, four):
    with pytest.raises(RecembError, match=said):
        compress(four, METHODS[method], budget, names)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", ["int8", "pq"])
def test_rows_that_are_not_finite_are_refused(bad, method, four):
    rows = four.rows.values("middle").clone()
    rows[5, 5] = bad
    four.rows.assign("middle", rows)
    with pytest.raises(RecembError, match="table 'middle': its rows must be finite"):
        compress(four, METHODS[method], None if method == "int8" else 30_000)


def test_what_was_given_is_left_alone(four):
    before = {name: one.clone() for name, one in four.rows.tables().items()}
    state = torch.get_rng_state()
    for method in ("int8", "pq", "prune"):
        compress(four, METHODS[method], 60_000)
    after = four.rows.tables()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), state)


def test_plain_bytes_are_a_row_per_id_as_wide_as_the_model_sees():
    tables = {"a": Full(dim=3, project=5), "b": Unified(num_rows=10, dim=4)}
    made = embeddings(tables, [reading("a", 100), reading("b", 50, lookups=3)])
    assert plain_bytes(made) == (100 * 5 + 50 * 12) * 4
    assert share_in_bytes(made, 0.1) == 440
    for bad in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(RecembError, match=re.escape("a share must be above 0 and at most 1")):
            share_in_bytes(made, bad)


def test_a_share_of_raw_ids_is_refused():
    made = embeddings({"a": Hashed(num_rows=10, dim=4)}, [reading("a", None)])
    with pytest.raises(RecembError, match="table 'a' reads raw ids of 'a ids'; give a budget"):
        plain_bytes(made)
