"""Budgets as people write them, and what they are shares of."""

import pytest

from recemb.errors import RecembError
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.tables.kind import IdSpace, parse_bytes
from recemb.tables.unified import Unified

WHERE = "table 'ads'"


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        (160000, 160_000),
        ("160 kB", 160_000),
        ("160kB", 160_000),
        (" 1.5 MB ", 1_500_000),
        ("0.3 kB", 300),
        ("2 GB", 2 * 10**9),
        ("1 TB", 10**12),
        ("7 B", 7),
        ("7", 7),
        ("1.9", 1),
    ],
)
def test_budgets_are_read(budget: int | str, wanted: int) -> None:
    assert parse_bytes(WHERE, budget) == wanted


@pytest.mark.parametrize(
    "budget", ["", "ten", "-5", "1e6", "5 KB", "5 kilobytes", "1.2.3 MB", ".", 0, "0.9 B", "k"]
)
def test_other_words_are_refused(budget: int | str) -> None:
    with pytest.raises(
        RecembError, match=rf"^{WHERE}: a budget must be a number of bytes .*, got '?{budget!s}"
    ):
        parse_bytes(WHERE, budget)


@pytest.mark.parametrize("share", [0.1, 0.29, 0.57, 0.58, 0.7, 0.9, 1.0])
def test_shares_are_exact(share: float) -> None:
    # In floats 0.29 * 100 is 28.999999999999996, and 0.1 * 30 is 3.0000000000000004.
    config = Hashed(dim=4, share=share)
    assert config.solve(WHERE, [IdSpace("item", 100)]).num_rows == round(share * 100)


def test_a_budget_needs_no_vocabulary_where_a_share_does() -> None:
    raw = [IdSpace("url", None)]
    assert Hashed(dim=4, budget="1.6 kB").solve(WHERE, raw).num_rows == 100
    with pytest.raises(RecembError, match=r"^table 'ads': a share needs a vocabulary, got raw ids"):
        Hashed(dim=4, share=0.5).solve(WHERE, raw)


def test_a_solved_configuration_is_its_own_solution() -> None:
    spaces = [IdSpace("item", 100)]
    solved = Full(dim=8, share=0.5).solve(WHERE, spaces)
    assert solved == Full(dim=4)
    assert solved.solve(WHERE, spaces) == solved


@pytest.mark.parametrize(("lookups", "rows"), [(1, 46), (3, 38)])
def test_a_projection_is_part_of_the_budget(lookups: int, rows: int) -> None:
    # 800 bytes of rows of 16, less 16 * 4 bytes of projection for each lookup.
    config = Unified(dim=4, project=4, budget=800)
    assert config.solve(WHERE, [], lookups).num_rows == rows
