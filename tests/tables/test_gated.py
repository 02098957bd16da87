"""The gated kind: rows times the gates of their ids' frequency block."""

from collections.abc import Mapping

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.tables.gated import Gated
from recemb.tables.kind import TableConfig
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import DIM
from tests.tables.helpers import SPACES, Stored, space_of

# Users' counts are 380, 360, ..., 20 and items' 493, 483, ..., 13: of the twelve most frequent ids
# all are items (493 to 383), of the next eighteen eleven are items and seven users. Plain Python:
COUNTS = sorted(
    ((int(count), space, key) for space in ("user", "item")
     for key, count in enumerate(space_of(space).counts_V.tolist())),  # type: ignore[union-attr]
    key=lambda one: -one[0],
)  # fmt: skip
RANKED = [(space, key) for _, space, key in COUNTS]


def block_of(space: str, key: int, ends: list[int]) -> int:
    """Return the block of an id of table ``ads``; unknown values come last."""
    rank = RANKED.index((space, key)) if (space, key) in RANKED else len(RANKED)
    return sum(rank >= end for end in ends)


class GatedContract(TableContract):
    num_rows = 70
    is_fine = False
    """An element more of 8,000 ids is 3 % of the smallest budget."""
    bad = [
        ({"ends": [3, 2]}, "ends must ascend from 1 or more, got [3, 2]"),
        ({"ends": [0, 2]}, "ends must ascend from 1 or more, got [0, 2]"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"rows": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (row,) = rows["rows"]
        return row * held.learned["gate_SD"][block_of(space, key, self.settings.get("ends", []))]

    def larger(self, config: TableConfig) -> list[TableConfig]:
        return super().larger(config) if config.dim < DIM else []


class TestAtTheStart(GatedContract):
    settings = {"kind": "gated", "dim": 6}
    served_bytes = (70 * 6 + 6) * 4
    too_small = (0.03,)


class TestThreeBlocks(GatedContract):
    settings = {"kind": "gated", "dim": 6, "ends": [12, 30]}
    served_bytes = (70 * 6 + 3 * 6) * 4
    too_small = (0.03,)

    def prepared(self, module: Embeddings) -> Embeddings:
        generator = torch.Generator().manual_seed(5)
        for one in module.learned.values():
            one.gate_SD.copy_(torch.rand(one.gate_SD.shape, generator=generator) + 0.3)
        return module


class TestInt8(TestThreeBlocks):
    settings = {"kind": "gated", "dim": 6, "ends": [12, 30], "precision": "int8"}
    served_bytes = 70 * 6 + 4 + 3 * 6 * 4
    rate = 0.02
    too_small = ()


def test_tables_with_other_blocks_keep_their_own() -> None:
    tables = {"few": Gated(dim=4, ends=[10]), "many": Gated(dim=4, ends=[5, 20, 40])}
    module = embeddings(tables, [feature(name, name) for name in tables]).eval()
    rows = module.rows.tables()
    for name, number in (("few", 2), ("many", 4)):
        gates = torch.arange(1.0, number + 1).unsqueeze(1).expand(-1, 4)
        module.learned[f"table_{name}"].gate_SD.copy_(gates)
    keys = list(range(SPACES["item"]))
    got = module({name: ids(keys) for name in tables})
    for name, ends in (("few", [10]), ("many", [5, 20, 40])):
        wanted = [rows[name][key] * (1.0 + sum(key >= end for end in ends)) for key in keys]
        assert torch.equal(as_tensor(got[name]), torch.stack(wanted))
