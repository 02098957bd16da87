"""The hashed kind: k salted hashes, combined."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import rows_of_one, salt_of
from recemb.tables.hashed import Hashed
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids

BAD = [
    ({"num_rows": None}, "kind hashed needs num_rows or share and not both, got num_rows=None"),
    ({"share": 0.5}, "kind hashed needs num_rows or share and not both, got num_rows=23 and"),
    ({"num_rows": 0}, f"num_rows must be in 1..{2**38}, got 0"),
    ({"num_rows": 2**38 + 1}, f"num_rows must be in 1..{2**38}, got {2**38 + 1}"),
    ({"num_rows": None, "share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
    ({"num_rows": None, "share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
    ({"num_rows": None, "share": math.nan}, "share must be above 0 and at most 1, got nan"),
    ({"num_hashes": 0}, "num_hashes must be at least 1, got 0"),
    (
        {"num_hashes": 4, "combine": "concatenate"},
        "concatenation cuts dim in num_hashes equal parts, got dim=6 and num_hashes=4",
    ),
    ({"hashes": 2}, "kind hashed has no setting 'hashes'; it has ['combine', 'dim', 'init_scale'"),
]


class HashedContract(TableContract):
    """The contract with the oracle of the kind."""

    num_rows = 23

    def rows_of_id(
        self, settings: Mapping[str, Any], table: str, space: str, key: int, lookups: int
    ) -> list[int]:
        num_hashes = settings.get("num_hashes", 1)
        return [
            rows_of_one(key, salt_of(table, space, j), settings["num_rows"])
            for j in range(num_hashes)
        ]

    def compose(self, settings: Mapping[str, Any], rows: Sequence[Tensor]) -> Tensor:
        if settings.get("combine") == "concatenate":
            return torch.cat(list(rows))
        total = torch.stack(list(rows)).sum(0)
        return total / len(rows) if settings.get("combine") == "mean" else total

    @pytest.fixture(params=BAD)
    def bad(self, request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
        return request.param

    def test_id_spaces_of_one_table_have_other_salts(self) -> None:
        config = Hashed(**{k: v for k, v in self.settings.items() if k != "kind"})
        module = embeddings(
            {"ads": config}, [feature("one", "ads"), feature("two", "ads", space="user")]
        )
        keys = list(range(20))
        got = module({"one": ids(keys), "two": ids(keys)})
        for name, space in (("one", "item"), ("two", "user")):
            wanted = torch.stack([self.expected(module, key, space) for key in keys])
            torch.testing.assert_close(as_tensor(got[name]), wanted, rtol=1e-6, atol=1e-8)
        same = (as_tensor(got["one"]) == as_tensor(got["two"])).all(1)
        # By chance about one id in 23^k.
        assert same.sum() < 5


class TestOneHash(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23}
    width = 6


class TestSum(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23, "num_hashes": 3, "combine": "sum"}
    width = 6


class TestMean(HashedContract):
    settings = {"kind": "hashed", "dim": 6, "num_rows": 23, "num_hashes": 3, "combine": "mean"}
    width = 6


class TestConcatenate(HashedContract):
    settings = {
        "kind": "hashed",
        "dim": 6,
        "num_rows": 23,
        "num_hashes": 3,
        "combine": "concatenate",
    }
    width = 2


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
    # Of 50 ids; 0.14 * 50 is 7.000000000000001 in floats; 1e-9 leaves one row.
    [(1.0, 50), (0.5, 25), (0.14, 7), (0.01, 1), (0.21, 11), (1e-9, 1)],
)
def test_share_is_of_the_number_of_ids_rounded_up(share: float, rows: int) -> None:
    module = embeddings({"ads": Hashed(dim=2, share=share)}, [feature("one", "ads")])
    assert module.rows.tables()["ads"].shape == (rows, 2)


def test_share_counts_each_id_space_once() -> None:
    features = [
        feature("one", "ads"),
        feature("list", "ads", pooling="sum"),
        feature("who", "ads", space="user"),
    ]
    module = embeddings({"ads": Hashed(dim=2, share=0.5)}, features)
    assert module.rows.tables()["ads"].shape == (35, 2)


def test_share_of_raw_ids_is_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': share needs a vocabulary, got raw ids"):
        embeddings({"ads": Hashed(dim=2, share=0.5)}, [feature("u", "ads", space="url")])
