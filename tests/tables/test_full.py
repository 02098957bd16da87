"""The full kind: the row of an id is its number."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.physical import Precision, Step
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import DIM
from tests.tables.helpers import Stored


class FullContract(TableContract):
    """The contract with the oracle of the kind."""

    num_rows = 20 + 50
    is_fine = False
    """A step is one element of every id: 32 kB."""

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"rows": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        return rows["rows"][0]

    def larger(self, config: TableConfig) -> list[TableConfig]:
        # The dim of the settings is the most.
        return [] if config.dim == DIM else super().larger(config)


class TestFull(FullContract):
    settings = {"kind": "full", "dim": 6}
    too_small = (0.03,)
    served_bytes = 70 * 6 * 4


class TestProjected(FullContract):
    settings = {"kind": "full", "dim": 3, "project": 10}
    too_small = (0.03,)
    served_bytes = 70 * 3 * 4 + 3 * 10 * 4


class TestFloat16(FullContract):
    settings = {"kind": "full", "dim": 6, "precision": "fp16"}
    served_bytes = 70 * 6 * 2
    rate = 0.02


class TestInt8(FullContract):
    settings = {"kind": "full", "dim": 6, "precision": "int8"}
    served_bytes = 70 * 6 + 4
    rate = 0.02


class TestInt8PerRow(FullContract):
    settings = {"kind": "full", "dim": 6, "precision": "int8", "step": "row"}
    served_bytes = 70 * (6 + 4)
    too_small = (0.03,)
    rate = 0.02


class TestInt8Learned(FullContract):
    settings = {"kind": "full", "dim": 6, "precision": "int8", "step": "learned"}
    served_bytes = 70 * (6 + 4)
    too_small = (0.03,)
    rate = 0.02


class TestInt4OddAndProjected(FullContract):
    """Seven elements of four bits take four bytes."""

    settings = {"kind": "full", "dim": 7, "precision": "int4", "step": "row", "project": 5}
    served_bytes = 70 * (4 + 4) + 7 * 5 * 4
    too_small = (0.03,)
    rate = 0.02


@pytest.mark.parametrize(
    ("precision", "step", "elements"),
    # 8,000 ids, 102,400 bytes (10 %): 12.8 bytes per id, less 4 of a row's scale.
    [
        ("fp32", "table", 3),
        ("fp16", "table", 6),
        ("int16", "row", 4),
        ("int8", "table", 12),
        ("int8", "learned", 8),
        ("int4", "table", 24),
        ("int4", "row", 16),
    ],
)
def test_a_budget_buys_more_elements_of_fewer_bits(
    precision: Precision, step: Step, elements: int
) -> None:
    spaces = [IdSpace("users", 3000), IdSpace("items", 5000)]
    config = Full(dim=32, precision=precision, step=step, share=0.1)
    assert config.solve("table 'ads'", spaces).dim == elements


def test_equals_torchs_embedding() -> None:
    module = embeddings({"ads": Full(dim=6)}, [feature("one", "ads")])
    theirs = torch.nn.Embedding.from_pretrained(module.rows.tables()["ads"])
    keys = ids([49, 0, 7, 7])
    assert torch.equal(as_tensor(module({"one": keys})["one"]), theirs(keys))


def test_every_id_has_a_vector_of_its_own() -> None:
    module = embeddings({"ads": Full(dim=6)}, [feature("one", "ads")])
    assert len(as_tensor(module({"one": ids(range(50))})["one"]).unique(dim=0)) == 50


def test_id_spaces_of_one_table_have_their_rows_one_after_the_other() -> None:
    features = [
        feature("two", "ads", space="user"),
        feature("one", "ads"),
        feature("again", "ads", space="user"),
    ]
    module = embeddings({"ads": Full(dim=6)}, features)
    rows = module.rows.tables()["ads"]
    assert rows.shape == (20 + 50, 6)
    got = module({"one": ids([0, 49]), "two": ids([0, 19]), "again": ids([19])})
    assert torch.equal(as_tensor(got["two"]), rows[[0, 19]])
    assert torch.equal(as_tensor(got["one"]), rows[[20, 69]])
    assert torch.equal(as_tensor(got["again"]), rows[[19]])


def test_an_empty_vocabulary_is_refused() -> None:
    with pytest.raises(
        RecembError,
        match=r"^table 'ads': kind full needs ids, got an empty vocabulary of \['none'\]; check",
    ):
        Full(dim=6).physical_tables("table 'ads'", [IdSpace("none", 0)])
