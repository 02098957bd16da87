"""ROBE: vectors read out of one array, in chunks."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recemb.hashing import rows_of_one, salt_of
from recemb.tables.kind import TableConfig
from recemb.tables.robe import Robe, hashed_signs
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, mixed, stored


def sign_of(table: str, space: str, key: int, place: int) -> int:
    """Return the sign of an element: a bit of the mixed id, of which each word gives 32."""
    key = key + salt_of(table, space, "signs") + mixed(place // 32)
    return 1 if (mixed(key & (2**64 - 1)) >> (place % 32 + 16)) & 1 else -1


class RobeContract(TableContract):
    """The contract with the oracle of the kind."""

    takes_raw = True
    left_loss = 0.8
    """70 ids of other signs want other values of the same array."""
    bad = [({"chunk": 0}, "chunk must be at least 1, got 0")]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        chunk, rows = self.settings["chunk"], self.num_rows
        if self.settings.get("aligned"):
            salts = [salt_of(table, space, q) for q in range(self.settings["dim"] // chunk)]
            return {"array": [rows_of_one(key, salt, rows) for salt in salts]}
        found = []
        for place in range(self.settings["dim"]):
            q, offset = divmod(place, chunk)
            start = rows_of_one(key, salt_of(table, space, q), rows)
            found.append((start + offset) % rows)
        return {"array": found}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        values = torch.cat(rows["array"])
        signs = [sign_of(table, space, key, place) for place in range(len(values))]
        return values * torch.tensor(signs)

    def larger(self, config: TableConfig) -> list[TableConfig]:
        assert isinstance(config, Robe)
        assert config.num_values is not None
        step = config.chunk if config.aligned else 1
        return [replace(config, num_values=config.num_values + step)]


class TestUnaligned(RobeContract):
    """Chunks of 4, 4 and 2 elements, which wrap round the end of the array."""

    settings = {"kind": "robe", "dim": 10, "chunk": 4, "num_values": 37}
    num_rows = 37
    served_bytes = 37 * 4
    bad = [
        ({"num_values": 3}, f"num_values must be in 4..{2**38}, got 3"),
        (
            {"aligned": True},
            "aligned chunks must divide dim=10, got chunk=4; possible are [1, 2, 5",
        ),
    ]


class TestAligned(RobeContract):
    settings = {"kind": "robe", "dim": 12, "chunk": 4, "num_values": 80, "aligned": True}
    num_rows = 20
    served_bytes = 80 * 4


class TestSingleValues(RobeContract):
    settings = {"kind": "robe", "dim": 6, "chunk": 1, "num_values": 50}
    num_rows = 50
    served_bytes = 50 * 4


class TestOneChunk(RobeContract):
    """A chunk as long as a vector, and longer than the array's remainder."""

    settings = {"kind": "robe", "dim": 6, "chunk": 9, "num_values": 16}
    num_rows = 16
    served_bytes = 16 * 4
    left_loss = 0.9


class TestInt8(RobeContract):
    settings = {
        "kind": "robe",
        "dim": 12,
        "chunk": 4,
        "num_values": 80,
        "aligned": True,
        "precision": "int8",
    }
    num_rows = 20
    served_bytes = 80 + 4
    rate = 0.02


def test_chunks_wrap_round_the_end_of_the_array() -> None:
    module = embeddings({"ads": Robe(dim=4, chunk=4, num_values=11)}, [feature("one", "ads")])
    array = torch.arange(1.0, 12.0).reshape(11, 1)
    module.rows.load_tables({"ads": array})
    salt = salt_of("ads", "item", 0)
    wraps = [key for key in range(50) if rows_of_one(key, salt, 11) == 9]
    assert wraps
    got = as_tensor(module({"one": ids(wraps[:1])})["one"])[0]
    assert got.abs().tolist() == [10.0, 11.0, 1.0, 2.0]


def test_an_array_of_one_chunk_is_the_smallest() -> None:
    config = Robe(dim=8, chunk=4, num_values=4)
    module = embeddings({"ads": config}, [feature("one", "ads")])
    assert as_tensor(module({"one": ids(range(50))})["one"]).isfinite().all()


def test_signs_are_balanced_and_independent() -> None:
    signs = hashed_signs(ids(range(-2000, 2000)), 100)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    # A mean of 4,000 fair signs has a deviation of 0.016, of 100 places 0.1.
    assert signs.mean(0).abs().max() < 0.07
    assert signs.mean(1).abs().max() < 0.5
    correlation = torch.corrcoef(signs.T) - torch.eye(100)
    assert correlation.abs().max() < 0.08


def test_features_of_other_chunks_in_one_batch() -> None:
    tables = {
        "short": Robe(dim=4, chunk=2, num_values=21),
        "long": Robe(dim=10, chunk=8, num_values=33),
        "many": Robe(dim=4, chunk=1, num_values=12),
    }
    module = embeddings(tables, [feature(f"f_{name}", name) for name in tables])
    keys = [0, 49, 31]
    with torch.no_grad():
        got = module({f"f_{name}": ids(keys) for name in tables})
    for name, config in tables.items():
        array = stored(module, name).rows["array"][:, 0]
        for row, key in enumerate(keys):
            for place in range(config.dim):
                q, offset = divmod(place, config.chunk)
                assert config.num_values is not None
                start = rows_of_one(key, salt_of(name, "item", q), config.num_values)
                wanted = array[(start + offset) % config.num_values]
                wanted = wanted * sign_of(name, "item", key, place)
                assert float(as_tensor(got[f"f_{name}"])[row, place]) == float(wanted)


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_aligned_sizes_are_whole_chunks(chunk: int) -> None:
    config = Robe(dim=8, chunk=chunk, aligned=True, budget=1000)
    module = embeddings({"ads": config}, [feature("one", "ads")])
    assert module.rows.tables()["ads"].shape == (250 // chunk, chunk)
