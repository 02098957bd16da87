"""The unified kind: one table for many features, with per-feature numbers of lookups."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.hashing import rows_of_one, salt_of
from recemb.tables.unified import Unified
from tests.tables.contract import TableContract, as_tensor, bags, embeddings, feature, ids
from tests.tables.helpers import Stored


class UnifiedContract(TableContract):
    """The contract with the oracle of the kind."""

    settings = {"kind": "unified", "dim": 3, "num_rows": 29}
    num_rows = 29
    served_bytes = 29 * 3 * 4
    takes_raw = True
    bad = [
        ({"num_rows": 0}, f"num_rows must be in 1..{2**38}, got 0"),
        ({"num_rows": 2**38 + 1}, f"num_rows must be in 1..{2**38}, got {2**38 + 1}"),
        ({"lookups": 2}, "kind unified has no setting 'lookups'; it has ['budget', 'dim', "),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        salts = [salt_of(table, space, j) for j in range(self.lookups)]
        return {"rows": [rows_of_one(key, salt, 29) for salt in salts]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        return torch.cat(rows["rows"])


class TestOneLookup(UnifiedContract):
    lookups = 1


class TestTwelveLookups(UnifiedContract):
    """More than ten: the order of reads 2 and 10 as text is not that as numbers."""

    lookups = 12


class TestProjected(UnifiedContract):
    """The projection is as wide as all lookups."""

    settings = {"kind": "unified", "dim": 3, "num_rows": 29, "project": 5}
    served_bytes = 29 * 3 * 4 + 2 * 3 * 5 * 4
    lookups = 2


LOOKUPS = {"a": 1, "b": 3, "c": 12, "d": 3, "e": 2}
SPACE_OF = {"a": "item", "b": "user", "c": "item", "d": "item", "e": "user"}


@pytest.fixture
def mixed() -> Embeddings:
    """One table read by five features: three numbers of lookups, two id spaces, two lists."""
    pooling = {"d": "sum", "e": "sum"}
    features = [
        feature(name, "shared", space=SPACE_OF[name], pooling=pooling.get(name), lookups=n)
        for name, n in LOOKUPS.items()
    ]
    return embeddings({"shared": Unified(dim=3, num_rows=29)}, features)


def _vector(module: Embeddings, name: str, key: int) -> Tensor:
    stored = module.rows.tables()["shared"]
    salts = [salt_of("shared", SPACE_OF[name], j) for j in range(LOOKUPS[name])]
    return torch.cat([stored[rows_of_one(key, salt, 29)] for salt in salts])


def test_features_of_different_lookups_in_one_batch(mixed: Embeddings) -> None:
    keys = {"a": [1, 2, 3], "b": [4, 4], "c": [5], "d": [[6, 7], []], "e": [[8], [9, 9]]}
    batch = {
        name: bags(one) if name in "de" else ids(one)  # type: ignore[arg-type]
        for name, one in keys.items()
    }
    got = mixed(batch)
    for name in "abc":
        wanted = torch.stack([_vector(mixed, name, key) for key in keys[name]])
        assert torch.equal(as_tensor(got[name]), wanted)
    # Sums of two.
    assert torch.equal(
        as_tensor(got["d"]),
        torch.stack([_vector(mixed, "d", 6) + _vector(mixed, "d", 7), torch.zeros(9)]),
    )
    assert torch.equal(
        as_tensor(got["e"]), torch.stack([_vector(mixed, "e", 8), 2 * _vector(mixed, "e", 9)])
    )


def test_features_of_different_lookups_with_equally_many_ids(mixed: Embeddings) -> None:
    keys = {"a": [1, 2], "b": [4, 4], "c": [5, 0], "d": [[6], [7]], "e": [[9], [8]]}
    batch = {
        name: bags(one) if name in "de" else ids(one)  # type: ignore[arg-type]
        for name, one in keys.items()
    }
    got = mixed(batch)
    for name, one in keys.items():
        flat = [key[0] if isinstance(key, list) else key for key in one]
        wanted = torch.stack([_vector(mixed, name, key) for key in flat])
        assert torch.equal(as_tensor(got[name]), wanted)


def test_width_is_lookups_times_dim(mixed: Embeddings) -> None:
    assert mixed.dims == {"a": 3, "b": 9, "c": 36, "d": 9, "e": 6}


def test_more_lookups_begin_with_those_of_fewer(mixed: Embeddings) -> None:
    batch = {"a": ids([7]), "b": ids([]), "c": ids([7]), "d": bags([[7]]), "e": bags([])}
    got = mixed(batch)
    widest = as_tensor(got["c"])
    assert torch.equal(as_tensor(got["a"]), widest[:, :3])
    assert torch.equal(as_tensor(got["d"]), widest[:, :9])


def test_bytes_do_not_depend_on_the_number_of_features(mixed: Embeddings) -> None:
    assert {name: rows.shape for name, rows in mixed.rows.tables().items()} == {"shared": (29, 3)}


def test_a_step_reaches_the_rows_of_every_lookup(mixed: Embeddings) -> None:
    before = mixed.rows.tables()["shared"].clone()
    batch = {"a": ids([]), "b": ids([4]), "c": ids([5]), "d": bags([]), "e": bags([])}
    got = mixed(batch)
    (as_tensor(got["b"]).sum() + as_tensor(got["c"]).sum()).backward()
    mixed.step()
    # Each read of a row takes 1 from each of its elements.
    reads = torch.zeros(29, 1)
    for name, key in (("b", 4), ("c", 5)):
        for j in range(LOOKUPS[name]):
            reads[rows_of_one(key, salt_of("shared", SPACE_OF[name], j), 29)] += 1
    torch.testing.assert_close(mixed.rows.tables()["shared"], before - reads, rtol=0, atol=1e-6)
