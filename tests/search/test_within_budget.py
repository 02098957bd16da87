"""From a trained supernet to tables within a budget, to the bit."""

import itertools

import pytest
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.supernet import Searched, block_ends, gated_tables, other_bytes
from recemb.search.within_budget import (
    best_columns,
    by_magnitude,
    by_rank,
    by_reads,
    by_shared_rank,
    largest_elements,
    random_columns,
)
from recemb.tables.full import Full
from recemb.tables.gated import Gated
from tests.tables.helpers import SPACES, as_tensor, embeddings, feature, ids

KEYS = {"a": list(range(SPACES["item"])), "b": list(range(SPACES["user"]))}


def supernet() -> Embeddings:
    """Two gated tables of several id spaces, and a plain one; some gates are closed."""
    tables = {"a": Gated(dim=4, ends=[6, 20]), "b": Gated(dim=3), "c": Full(dim=2)}
    features = [
        feature("a", "a"), feature("a2", "a", space="user"), feature("b", "b", space="user"),
        feature("c", "c"),
    ]  # fmt: skip
    module = embeddings(tables, features).eval()
    generator = torch.Generator().manual_seed(3)
    for name in ("a", "b"):
        gates = module.learned[f"table_{name}"].gate_SD
        gates.copy_(torch.rand(gates.shape, generator=generator) / 2 + 0.5)
        gates[0, 1] = 0
    return module


def vectors(module: Embeddings) -> dict[str, Tensor]:
    """Return the vectors of all ids."""
    items, users = ids(KEYS["a"]), ids(KEYS["b"])
    got = module({"a": items, "a2": users, "b": users, "c": items})
    return {name: as_tensor(one) for name, one in got.items()}


def test_the_masked_supernet_equals_what_is_stored_to_the_bit() -> None:
    module = supernet()
    searched = gated_tables(module)
    budget = 700
    worth = {name: by_magnitude(one) for name, one in searched.items()}
    keep = best_columns(searched, worth, budget)
    made = module.converted({name: one.content(keep[name]) for name, one in searched.items()})
    for name, own in keep.items():
        gates = module.learned[f"table_{name}"].gate_SD
        for block, kept in enumerate(own):
            gates[block, [d for d in range(gates.shape[1]) if d not in kept]] = 0
    wanted, got = vectors(module), vectors(made)
    assert {name: config.kind_name for name, config in made.tables.items()} == {
        "a": "selected", "b": "selected", "c": "full",
    }  # fmt: skip
    for name in wanted:
        assert torch.equal(got[name], wanted[name]), name
    assert sum(int((one != 0).sum()) for one in got.values()) > 100
    # And through layers, to the same bits.
    head = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(got["a"] @ head, wanted["a"] @ head)


def test_the_sparse_form_is_the_elements_of_largest_magnitude_of_all_tables() -> None:
    module = supernet()
    searched = gated_tables(module)
    # 5 bytes an element, and where rows begin: 71 and 21 numbers.
    budget = 92 * 4 + 5 * 100 + 3
    places = largest_elements(searched, budget)
    made = module.converted({name: one.sparse(places[name]) for name, one in searched.items()})
    before = vectors(module)
    masked = [before["a2"], before["a"], before["b"]]
    threshold = torch.cat([one.abs().flatten() for one in masked]).sort(descending=True).values[99]
    for name in ("a", "a2", "b"):
        wanted = torch.where(before[name].abs() >= threshold, before[name], 0)
        assert torch.equal(vectors(made)[name], wanted), name
    assert sum(made.tables[name].serving_bytes("t", made.spaces[name]) for name in "ab") == (
        budget - 3
    )


def test_scores_by_hand() -> None:
    (table,) = gated_tables(gated_rows(torch.tensor([[1.0, 2], [3, 4], [5, 0]]), [1])).values()
    # Item counts begin 493, 483; the third is not counted.
    assert by_magnitude(table).tolist() == [[1, 4], [(9 + 25) / 2, (16 + 0) / 2]]
    assert by_reads(table).tolist() == [[7, 28], [(9 * 5 + 0) / 2, 16 * 5 / 2]]
    # Of each block the larger one is first, the other second.
    assert by_rank(table).tolist() == [[1 / 4, 4], [17, 8 / 4]]


def test_a_shared_rank_lets_all_blocks_keep_the_first_of_one_order() -> None:
    searched = gated_tables(gated_rows(torch.tensor([[1.0, 2], [3, 4], [5, 0]]), [1]))
    other = gated_tables(gated_rows(torch.tensor([[9.0, 0], [9, 0], [0, 0]]), [1]))
    # Read mean squares: (7 x 1 + 5 x 9, 7 x 4 + 5 x 16) / 12 = (4.3, 9), and (81, 0): the first
    # dimension leads, although the first table alone has it second.
    found = by_shared_rank({"t": searched["t"], "u": other["t"]})
    assert found["t"].tolist() == [[2.5, 2.5 / 4], [12.5, 12.5 / 4]]
    assert found["u"].tolist() == [[40.5, 40.5 / 4], [20.25, 20.25 / 4]]
    assert by_shared_rank({"t": searched["t"]})["t"].tolist() == [[2.5 / 4, 2.5], [12.5 / 4, 12.5]]
    keep = best_columns(searched, by_shared_rank(searched), 12)
    assert keep == {"t": [[1], [1]]}


def test_tables_of_another_dim_have_an_order_of_their_own() -> None:
    searched = gated_tables(supernet())
    together = by_shared_rank(searched)
    for name, one in searched.items():
        torch.testing.assert_close(together[name], by_shared_rank({name: one})[name])


def gated_rows(rows_VD: Tensor, ends: list[int]) -> Embeddings:
    """Return a gated table of three ids with counts 7, 5 and none."""
    from dataclasses import replace

    from recemb.tables.kind import IdSpace

    space = IdSpace("item", 3, torch.tensor([7, 5]))
    module = embeddings({"t": Gated(dim=2, ends=ends)}, [replace(feature("t", "t"), space=space)])
    module.rows.assign("t", rows_VD)
    return module


def fits_best(searched: dict[str, Searched], worth: dict[str, Tensor], budget: int) -> float:
    """Return the largest sum of worth x ids that any choice of columns within the budget has."""
    columns = [
        (float(worth[name][block, d]), int((one.block_V == block).sum()))
        for name, one in searched.items()
        for block in range(one.num_blocks)
        for d in range(one.config.dim)
    ]
    return max(
        sum(value * count for value, count in chosen)
        for number in range(len(columns) + 1)
        for chosen in itertools.combinations(columns, number)
        if sum(4 * count for _, count in chosen) <= budget
    )


@pytest.mark.parametrize("budget", [8, 12, 40, 52, 96])
def test_columns_are_nearly_the_best_that_fit(budget: int) -> None:
    rows = torch.rand(3, 2, generator=torch.Generator().manual_seed(budget))
    searched = gated_tables(gated_rows(rows, [1]))
    worth = {name: by_magnitude(one) for name, one in searched.items()}
    keep = best_columns(searched, worth, budget)
    (table,) = searched.values()
    size = table.selected(keep["t"]).serving_bytes("t", table.spaces)
    assert size <= budget
    taken = sum(
        float(worth["t"][block, d]) * (1, 2)[block]
        for block, kept in enumerate(keep["t"])
        for d in kept
    )
    # A greedy choice of a knapsack misses by less than the one column that did not fit.
    assert taken >= fits_best(searched, worth, budget) - 2 * float(worth["t"].max())
    # Nothing that is left fits beside what was taken.
    for block, kept in enumerate(keep["t"]):
        if len(kept) < 2:
            assert size + 4 * (1, 2)[block] > budget


def test_random_columns_fill_the_budget() -> None:
    searched = gated_tables(supernet())
    generator = torch.Generator().manual_seed(1)
    found = [random_columns(searched, 800, generator) for _ in range(4)]
    assert len({str(keep) for keep in found}) == 4
    for keep in found:
        size = sum(
            one.selected(keep[name]).serving_bytes("t", one.spaces)
            for name, one in searched.items()
        )
        assert 0.95 * 800 <= size <= 800


def test_every_table_keeps_an_element_in_the_sparse_form() -> None:
    module = supernet()
    module.learned["table_b"].gate_SD.mul_(1e-6)
    searched = gated_tables(module)
    places = largest_elements(searched, 92 * 4 + 5 * 40)
    assert {name: len(one) for name, one in places.items()} == {"a": 39, "b": 1}
    assert int(places["b"]) == int(searched["b"].rows_VD.abs().flatten().argmax())


def test_too_small_a_budget_is_refused() -> None:
    searched = gated_tables(supernet())
    worth = {name: by_magnitude(one) for name, one in searched.items()}
    with pytest.raises(
        RecembError, match=r"budget of 23 bytes is too small .* block takes 24; rai"
    ):
        best_columns(searched, worth, 23)
    with pytest.raises(RecembError, match=r"too small for the sparse form, which needs 378 for on"):
        largest_elements(searched, 377)


def test_other_tables_are_counted() -> None:
    module = supernet()
    assert other_bytes(module, gated_tables(module)) == 50 * 2 * 4


@pytest.mark.parametrize(
    ("total", "blocks", "least", "ends"),
    [(100, 4, 10, [25, 50, 75]), (100, 4, 40, [50]), (7, 3, 50, []), (10, 3, 1, [3, 6])],
)
def test_blocks_are_equal(total: int, blocks: int, least: int, ends: list[int]) -> None:
    assert block_ends(total, blocks, least) == ends
