"""MGQE: product quantisation with more keys for frequent ids."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recemb.tables.kind import TableConfig
from recemb.tables.mgqe import MGQE
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, stored
from tests.tables.test_codes import codes_of
from tests.tables.test_dpq import nearest


class TestMGQE(TableContract):
    """Of 20 users 4 may use eight keys and the rest four; of 50 items 10."""

    settings = {
        "kind": "mgqe",
        "dim": 6,
        "num_parts": 3,
        "num_keys": 8,
        "frequent": 0.2,
        "rest_keys": 4,
    }
    num_rows = 70
    served_bytes = 14 * 2 + 56 * 1 + 3 * 8 * 2 * 4
    """Three codes of three bits are two bytes, of two bits one."""
    is_fine = False
    left_loss = 0.5
    """Keys follow the queries by the loss alone."""
    bad = [
        ({"frequent": 0.0}, "frequent must be above 0 and below 1, got 0.0"),
        ({"frequent": 1.0}, "frequent must be above 0 and below 1, got 1.0; at 1 it is kind dpq"),
        ({"rest_keys": 16}, "rest_keys must be a power of two in 2..8, got 16"),
        ({"rest_keys": 3}, "rest_keys must be a power of two in 2..8, got 3"),
        ({"num_keys": 7}, "num_keys must be a power of two in 2..256, got 7"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"queries": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (query,) = rows["queries"]
        limit = 8 if key < (4 if space == "user" else 10) else 4
        keys = held.learned["keys_PKd"][:, :limit]
        return torch.cat([keys[p, nearest(query[2 * p : 2 * p + 2], keys[p])] for p in range(3)])

    def compose_in_training(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (query,) = rows["queries"]
        value = self.compose(table, held, space, key, rows)
        return query + (value - query).detach()

    def larger(self, config: TableConfig) -> list[TableConfig]:
        """Return all that differ in the number of parts: eight keys are given here."""
        assert isinstance(config, MGQE)
        assert config.num_parts is not None
        more = [parts for parts in (1, 2, 4, 8, 16, 32) if parts > config.num_parts]
        return [replace(config, num_parts=parts) for parts in more]


def test_rest_ids_never_use_the_later_keys() -> None:
    config = MGQE(dim=6, num_parts=3, num_keys=8, frequent=0.2, rest_keys=4)
    module = embeddings({"ads": config}, [feature("one", "ads")]).eval()
    keys = module.learned["table_ads"].keys_PKd.detach()
    # Every query is exactly the last key.
    module.rows.load_tables({"ads": keys[:, 7].flatten().expand(50, 6).clone()})
    vectors = as_tensor(module({"one": ids(range(50))})["one"])
    assert torch.equal(vectors[:10], keys[:, 7].flatten().expand(10, 6))
    for row in vectors[10:]:
        for p in range(3):
            assert any(torch.equal(row[2 * p : 2 * p + 2], keys[p, k]) for k in range(4))
    served = stored(module.served()).rows
    assert [codes_of(row, 3, 3) for row in served["frequent"]] == [[7, 7, 7]] * 10
    # One byte each for the rest, where the frequent ones have two.
    assert served["rest"].shape == (40, 1)
    assert served["frequent"].shape == (10, 2)


def test_defaults_are_those_of_the_paper() -> None:
    module = embeddings({"ads": MGQE(dim=8, num_parts=4)}, [feature("one", "ads", space="items")])
    served = stored(module.served())
    # The top tenth chooses among 256 keys in 4 bytes, the rest among 64 in 3.
    assert served.rows["frequent"].shape == (500, 4)
    assert served.rows["rest"].shape == (4500, 3)
    assert served.learned["values_PKd"].shape == (4, 256, 2)


def test_a_space_of_frequent_ids_alone() -> None:
    # 0.9 of 2 rounds to both; another space has the rest.
    config = MGQE(dim=6, num_parts=3, num_keys=8, frequent=0.995, rest_keys=4)
    module = embeddings({"ads": config}, [feature("one", "ads")]).eval()
    wanted = as_tensor(module({"one": ids(range(50))})["one"])
    assert torch.equal(as_tensor(module.served()({"one": ids(range(50))})["one"]), wanted)
