"""The codes kind: fixed codes and a trained codebook."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recemb.tables.codes import Codes, num_frequent, pack, unpack
from recemb.tables.kind import IdSpace, TableConfig
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored


def codes_of(row: Tensor, num_parts: int, num_bits: int) -> list[int]:
    """Return the codes in a row of bytes, low bits first."""
    bits = int.from_bytes(bytes(row.tolist()), "little")
    return [bits >> (part * num_bits) & (2**num_bits - 1) for part in range(num_parts)]


class CodesContract(TableContract):
    """The contract with the oracle of the kind; three parts of two elements."""

    num_rows = 70
    is_fine = False
    """Only the divisors of dim are numbers of parts."""
    bad = [
        ({"num_parts": 4}, "num_parts must divide dim=6, got 4; possible are [1, 2, 3, 6]"),
        ({"num_parts": 0}, "num_parts must divide dim=6, got 0; possible are [1, 2, 3, 6]"),
        ({"num_bits": 9}, "num_bits must be in 1..8, got 9"),
        ({"num_bits": 0}, "num_bits must be in 1..8, got 0"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"codes": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        num_bits = self.settings["num_bits"]
        if rows.get("rest"):
            num_bits = self.settings["rest_bits"]
        (row,) = [one for part in rows.values() for one in part]
        values = held.learned["values_PKd"]
        return torch.cat([values[p, code] for p, code in enumerate(codes_of(row, 3, num_bits))])

    def larger(self, config: TableConfig) -> list[TableConfig]:
        assert isinstance(config, Codes)
        assert config.num_parts is not None
        more = [parts for parts in (1, 2, 4, 8, 16, 32) if parts > config.num_parts]
        return [replace(config, num_parts=parts) for parts in more]


class TestThreeBits(CodesContract):
    """Nine bits: two bytes."""

    settings = {"kind": "codes", "dim": 6, "num_parts": 3, "num_bits": 3}
    served_bytes = 70 * 2 + 3 * 8 * 2 * 4


class TestEightBits(CodesContract):
    settings = {"kind": "codes", "dim": 6, "num_parts": 3, "num_bits": 8}
    served_bytes = 70 * 3 + 3 * 256 * 2 * 4
    too_small = (0.03,)
    """The codebook alone is 32 kB."""


class TestFrequent(CodesContract):
    """Of 20 users 4 are frequent, of 50 items 10; three codes of two bits are one byte."""

    settings = {
        "kind": "codes",
        "dim": 6,
        "num_parts": 3,
        "num_bits": 3,
        "frequent": 0.2,
        "rest_bits": 2,
    }
    served_bytes = 14 * 2 + 56 * 1 + 3 * 8 * 2 * 4
    bad = [
        ({"rest_bits": 0}, "rest_bits must be in 1..8, got 0"),
        (
            {"rest_bits": None},
            "rest_bits and a share of frequent ids below 1 go together, got rest_bits=None and fre",
        ),
        ({"frequent": 1.0}, "rest_bits and a share of frequent ids below 1 go together, got rest"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        first, before, rest_before = (4, 0, 0) if space == "user" else (10, 4, 16)
        if key < first:
            return {"frequent": [before + key], "rest": []}
        return {"frequent": [], "rest": [rest_before + key - first]}


@pytest.mark.parametrize("num_bits", range(1, 9))
@given(data=st.data())
def test_codes_come_back_as_they_were_packed(num_bits: int, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, 12))
    row = st.lists(st.integers(0, 2**num_bits - 1), min_size=parts, max_size=parts)
    codes = data.draw(st.lists(row, min_size=1, max_size=5))
    packed = pack(torch.tensor(codes), num_bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (len(codes), -(-parts * num_bits // 8))
    assert [codes_of(one, parts, num_bits) for one in packed] == codes
    assert unpack(packed, parts, num_bits).tolist() == codes


@pytest.mark.parametrize(
    ("count", "share", "frequent"),
    [(100, 0.1, 10), (5, 0.1, 1), (1, 0.1, 1), (4, 0.9, 4), (0, 0.5, 0), (10, 0.26, 3)],
)
def test_some_id_is_frequent_and_not_more_than_all(count: int, share: float, frequent: int) -> None:
    assert num_frequent(IdSpace("item", count), share) == frequent


def test_a_table_of_frequent_ids_alone() -> None:
    # 0.99 of 50 is 49.5, which rounds to all; nothing is left for the other part.
    config = Codes(dim=4, num_parts=2, num_bits=8, frequent=0.995, rest_bits=2)
    module = embeddings({"ads": config}, [feature("one", "ads")])
    vectors = as_tensor(module({"one": ids([0, 49])})["one"])
    assert vectors.shape == (2, 4)


def test_codes_are_not_trained() -> None:
    config = Codes(dim=4, num_parts=2, num_bits=4)
    module = embeddings({"ads": config}, [feature("one", "ads")])
    before = module.rows.tables()["ads"].clone()
    as_tensor(module({"one": ids([0, 1])})["one"]).sum().backward()
    module.step()
    assert torch.equal(module.rows.tables()["ads"], before)
    assert module.rows.optimizer_state().keys() == {"step"}
