"""The hashed kind: k salted hashes, combined."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import rows_of_one, salt_of
from recemb.tables.hashed import Hashed
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored


class HashedContract(TableContract):
    """The contract with the oracle of the kind."""

    num_rows = 23
    takes_raw = True
    bad = [
        ({"num_rows": 0}, f"num_rows must be in 1..{2**38}, got 0"),
        ({"num_rows": 2**38 + 1}, f"num_rows must be in 1..{2**38}, got {2**38 + 1}"),
        ({"num_hashes": 0}, "num_hashes must be at least 1, got 0"),
        (
            {"num_hashes": 4, "combine": "concatenate"},
            "concatenation cuts dim in num_hashes equal parts, got dim=6 and num_hashes=4",
        ),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        num_hashes = self.settings.get("num_hashes", 1)
        salts = [salt_of(table, space, j) for j in range(num_hashes)]
        return {"rows": [rows_of_one(key, salt, 23) for salt in salts]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        if self.settings.get("combine") == "concatenate":
            return torch.cat(rows["rows"])
        total = torch.stack(rows["rows"]).sum(0)
        return total / len(rows["rows"]) if self.settings.get("combine") == "mean" else total


class TestOneHash(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23}
    served_bytes = 23 * 6 * 4


class TestSum(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23, "num_hashes": 3, "combine": "sum"}
    served_bytes = 23 * 6 * 4


class TestMean(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23, "num_hashes": 3, "combine": "mean"}
    served_bytes = 23 * 6 * 4


class TestConcatenate(HashedContract):
    settings = {
        "kind": "hashed",
        "dim": 6,
        "num_rows": 23,
        "num_hashes": 2,
        "combine": "concatenate",
    }
    served_bytes = 23 * 3 * 4


class TestInt8(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23, "num_hashes": 2, "precision": "int8"}
    served_bytes = 23 * 6 + 4
    rate = 0.02


def test_combinations_and_numbers_of_hashes_in_one_batch() -> None:
    """Three features of one group and row width, each composed in its own way."""
    tables = {
        "summed": Hashed(dim=6, num_rows=11, num_hashes=3, combine="sum"),
        "meant": Hashed(dim=6, num_rows=13, num_hashes=2, combine="mean"),
        "joined": Hashed(dim=12, num_rows=17, num_hashes=2, combine="concatenate"),
    }
    module = embeddings(tables, [feature(f"f_{name}", name) for name in tables])
    got = module({"f_joined": ids([3]), "f_summed": ids([5, 6]), "f_meant": ids([7, 8, 9])})

    def rows(table: str, key: int) -> Tensor:
        config, stored = tables[table], module.rows.tables()[table]
        assert config.num_rows is not None
        return torch.stack(
            [
                stored[rows_of_one(key, salt_of(table, "item", j), config.num_rows)]
                for j in range(config.num_hashes)
            ]
        )

    wanted = {
        "f_summed": torch.stack([rows("summed", key).sum(0) for key in (5, 6)]),
        "f_meant": torch.stack([rows("meant", key).sum(0) / 2 for key in (7, 8, 9)]),
        "f_joined": rows("joined", 3).reshape(1, 12),
    }
    for name, vectors in wanted.items():
        torch.testing.assert_close(as_tensor(got[name]), vectors, rtol=1e-6, atol=1e-8)


def test_raw_ids_may_be_any_int64() -> None:
    module = embeddings({"ads": Hashed(dim=6, num_rows=23)}, [feature("u", "ads", space="url")])
    keys = [-(2**63), -1, 0, 2**63 - 1]
    stored, salt = module.rows.tables()["ads"], salt_of("ads", "url", 0)
    wanted = torch.stack([stored[rows_of_one(key, salt, 23)] for key in keys])
    assert torch.equal(as_tensor(module({"u": ids(keys)})["u"]), wanted)


@pytest.mark.parametrize(
    ("share", "rows"),
    # Of 50 ids; 0.14 * 50 is 7.000000000000001 in floats, 0.58 * 50 is 28.999999999999996.
    [(1.0, 50), (0.5, 25), (0.14, 7), (0.58, 29), (0.02, 1), (0.21, 10)],
)
def test_share_is_of_the_bytes_of_a_plain_table_rounded_down(share: float, rows: int) -> None:
    module = embeddings({"ads": Hashed(dim=2, share=share)}, [feature("one", "ads")])
    assert module.rows.tables()["ads"].shape == (rows, 2)


def test_share_without_a_row_is_refused_with_what_works() -> None:
    features = [feature("one", "ads")]
    with pytest.raises(
        RecembError,
        match=r"^table 'ads': kind hashed cannot be smaller than 8 bytes \(num_rows=1\), got a "
        "budget of 4; give it at least 8, ",
    ):
        embeddings({"ads": Hashed(dim=2, share=0.01)}, features)
    module = embeddings({"ads": Hashed(dim=2, budget=8)}, features)
    assert module.rows.tables()["ads"].shape == (1, 2)


def test_neither_rows_nor_budget_is_refused() -> None:
    with pytest.raises(
        RecembError, match=r"^table 'ads': kind hashed needs num_rows, share or budget; set one$"
    ):
        embeddings({"ads": Hashed(dim=2)}, [feature("one", "ads")])


def test_share_counts_each_id_space_once() -> None:
    features = [
        feature("one", "ads"),
        feature("list", "ads", pooling="sum"),
        feature("who", "ads", space="user"),
    ]
    module = embeddings({"ads": Hashed(dim=2, share=0.5)}, features)
    assert module.rows.tables()["ads"].shape == (35, 2)


def test_share_of_raw_ids_is_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': a share needs a vocabulary, got raw ids"):
        embeddings({"ads": Hashed(dim=2, share=0.5)}, [feature("u", "ads", space="url")])
