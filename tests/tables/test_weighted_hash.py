"""The weighted hash kind: k hashed rows, summed with weights of the id's own."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import rows_of_one, salt_of
from recemb.tables.weighted_hash import WeightedHash
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, stored


class WeightedContract(TableContract):
    """The contract with the oracle of the kind."""

    bad = [
        ({"num_rows": 0}, f"num_rows must be in 1..{2**38}, got 0"),
        ({"num_weight_rows": 0}, f"num_weight_rows must be in 1..{2**38}, got 0"),
        ({"num_hashes": 0}, "num_hashes must be at least 1, got 0"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        salts = [salt_of(table, space, j) for j in range(self.settings["num_hashes"])]
        weights = self.number(space, key)
        if "num_weight_rows" in self.settings:
            salt = salt_of(table, space, "weights")
            weights = rows_of_one(key, salt, self.settings["num_weight_rows"])
        return {"rows": [rows_of_one(key, salt, 23) for salt in salts], "weights": [weights]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (weights,) = rows["weights"]
        return sum(weights[j] * row for j, row in enumerate(rows["rows"]))  # type: ignore[return-value]


class TestAWeightPerId(WeightedContract):
    settings = {"kind": "weighted_hash", "dim": 6, "num_rows": 23, "num_hashes": 3}
    num_rows = 23 + 70
    served_bytes = (23 * 6 + 70 * 3) * 4
    too_small = (0.03,)
    """The weights of 8,000 ids take 9 % of the plain table."""


class TestHashedWeights(WeightedContract):
    settings = {
        "kind": "weighted_hash",
        "dim": 6,
        "num_rows": 23,
        "num_hashes": 2,
        "num_weight_rows": 31,
    }
    num_rows = 23 + 31
    served_bytes = (23 * 6 + 31 * 2) * 4
    takes_raw = True


class TestInt8(WeightedContract):
    settings = {
        "kind": "weighted_hash",
        "dim": 6,
        "num_rows": 23,
        "num_hashes": 2,
        "precision": "int8",
        "step": "row",
    }
    num_rows = 23 + 70
    served_bytes = 23 * (6 + 4) + 70 * (2 + 4)
    too_small = (0.03,)
    rate = 0.02


def test_weights_start_near_one() -> None:
    module = embeddings({"ads": WeightedHash(dim=4, num_rows=9)}, [feature("one", "ads")])
    weights = stored(module).rows["weights"]
    assert weights.shape == (50, 2)
    assert ((weights - 1).abs() <= 0.1 + 1e-6).all()
    assert weights.std() > 0.03


def test_weights_by_number_and_by_hash_in_one_batch() -> None:
    tables = {
        "own": WeightedHash(dim=4, num_rows=9),
        "raw": WeightedHash(dim=4, num_rows=11, num_weight_rows=5),
    }
    features = [feature("one", "own"), feature("url", "raw", space="url")]
    module = embeddings(tables, features)
    got = module({"one": ids([49, 3]), "url": ids([-7, 10**15])})
    for name, table, space, keys, rows in (
        ("one", "own", "item", [49, 3], 9),
        ("url", "raw", "url", [-7, 10**15], 11),
    ):
        held = stored(module, table)
        for place, key in enumerate(keys):
            salt = salt_of(table, space, "weights")
            weights = held.rows["weights"][key if table == "own" else rows_of_one(key, salt, 5)]
            parts = [
                held.rows["rows"][rows_of_one(key, salt_of(table, space, j), rows)]
                for j in range(2)
            ]
            wanted = weights[0] * parts[0] + weights[1] * parts[1]
            torch.testing.assert_close(as_tensor(got[name])[place], wanted, rtol=1e-5, atol=1e-7)


def test_numbered_weights_are_checked_beside_hashed_ones() -> None:
    tables = {
        "own": WeightedHash(dim=4, num_rows=9),
        "raw": WeightedHash(dim=4, num_rows=11, num_weight_rows=5),
    }
    module = embeddings(tables, [feature("one", "own"), feature("url", "raw", space="url")])
    with pytest.raises(RecembError, match=r"^feature 'one': ids of table 'own' must be in 0\.\.49"):
        module({"one": ids([3, 50]), "url": ids([-7])})
