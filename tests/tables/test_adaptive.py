"""The frequency-adaptive kind: own rows for the most frequent ids, shared ones for the rest."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import rows_of_one, salt_of
from recemb.tables.adaptive import Adaptive, most_frequent
from recemb.tables.kind import IdSpace
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, space_of


def frequent_of(spaces: list[IdSpace], count: int) -> list[int]:
    """Return how many ids of each space are among the most frequent of all, one by one."""
    everything = [
        (-int(times), place, key)
        for place, space in enumerate(spaces)
        for key, times in enumerate(space.counts_V.tolist())  # type: ignore[union-attr]
    ]
    chosen = sorted(everything)[:count]
    return [sum(place == one for _, one, _ in chosen) for place in range(len(spaces))]


class TestAdaptive(TableContract):
    """Of 30 rows 6 are shared; 24 ids of both spaces have their own."""

    settings = {"kind": "adaptive", "dim": 6, "num_rows": 30, "shared": 0.2}
    num_rows = 30
    served_bytes = 30 * 6 * 4
    bad = [
        ({"num_rows": 1}, "num_rows must be at least 2, got 1"),
        ({"num_rows": 0}, f"num_rows must be in 1..{2**38}, got 0"),
        ({"shared": 0.0}, "shared must be above 0 and below 1, got 0.0"),
        ({"shared": 1.0}, "shared must be above 0 and below 1, got 1.0; at 1 it is kind hashed"),
        ({"num_hashes": 0}, "num_hashes must be at least 1, got 0"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        users, items = frequent_of([space_of("user"), space_of("item")], 24)
        assert users + items == 24
        assert min(users, items) >= 4
        own, before = (users, 0) if space == "user" else (items, users)
        if key < own:
            return {"rows": [before + key]}  # and not twice: its mean is itself
        return {"rows": [24 + rows_of_one(key, salt_of(table, space, j), 6) for j in (0, 1)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        return torch.stack(rows["rows"]).mean(0)


class TestMostlyShared(TestAdaptive):
    settings = {
        "kind": "adaptive",
        "dim": 6,
        "num_rows": 30,
        "shared": 0.8,
        "num_hashes": 1,
        "precision": "int8",
    }
    served_bytes = 30 * 6 + 4
    rate = 0.02

    def budget_settings(self) -> Mapping[str, Any]:
        # In int8 a row for every id is less than half of the plain table.
        return {**super().budget_settings(), "precision": "fp32"}

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        # The six most frequent ids are all items: 493 .. 443 above 380.
        if space == "item" and key < 6:
            return {"rows": [key]}
        return {"rows": [6 + rows_of_one(key, salt_of(table, space, 0), 24)]}


@pytest.mark.parametrize("count", [1, 5, 24, 60, 68, 200])
def test_most_frequent_ids_are_those_of_all_spaces_together(count: int) -> None:
    spaces = [space_of("user"), space_of("item")]
    assert most_frequent(spaces, count) == frequent_of(spaces, count)


def test_equally_frequent_ids_are_a_prefix_of_each_space() -> None:
    spaces = [IdSpace("a", 4, torch.tensor([5, 5, 5])), IdSpace("b", 4, torch.tensor([5, 5, 1]))]
    assert most_frequent(spaces, 4) == [3, 1]
    assert most_frequent(spaces, 2) == [2, 0]


def test_frequent_ids_have_rows_of_their_own_and_others_share() -> None:
    module = embeddings({"ads": Adaptive(dim=4, num_rows=30, shared=0.2)}, [feature("one", "ads")])
    vectors = as_tensor(module({"one": ids(range(50))})["one"])
    assert len(vectors[:24].unique(dim=0)) == 24
    # 26 ids, of which hardly two share both of their six rows.
    assert len(vectors[24:].unique(dim=0)) > 12
    one = embeddings(
        {"ads": Adaptive(dim=4, num_rows=30, shared=0.2, num_hashes=1)}, [feature("one", "ads")]
    )
    vectors = as_tensor(one({"one": ids(range(50))})["one"])
    assert len(vectors[24:].unique(dim=0)) <= 6
    assert len(vectors.unique(dim=0)) > 24


def test_tables_of_different_numbers_of_hashes_are_read_together() -> None:
    tables = {f"t{k}": Adaptive(dim=4, num_rows=30, shared=0.2, num_hashes=k) for k in (1, 3)}
    features = [feature("a", "t1"), feature("b", "t3")]
    together = embeddings(dict(tables), features)
    got = together({"a": ids([0, 40]), "b": ids([0, 40])})
    for name, k in (("a", 1), ("b", 3)):
        rows = together.rows.values(f"t{k}")
        shared = [24 + rows_of_one(40, salt_of(f"t{k}", "item", j), 6) for j in range(k)]
        wanted = torch.stack([rows[0], rows[shared].mean(0)])
        torch.testing.assert_close(as_tensor(got[name]), wanted)


def test_more_rows_than_ids_are_cut() -> None:
    module = embeddings({"ads": Adaptive(dim=4, num_rows=1000)}, [feature("one", "ads")])
    assert module.rows.tables()["ads"].shape == (51, 4)
    vectors = as_tensor(module({"one": ids(range(50))})["one"])
    assert vectors.isfinite().all()


def test_counts_are_needed() -> None:
    space = IdSpace("item", 50)
    with pytest.raises(
        RecembError,
        match=r"^table 'ads': kind adaptive needs the training counts of ids, got raw ids or no "
        r"counts of 'item'",
    ):
        Adaptive(dim=4, num_rows=10).physical_tables("table 'ads'", [space])
