"""The selected kind: the dimensions that frequency blocks keep, and the ids that have rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.tables.flags import packed
from recemb.tables.kind import IdSpace, TableConfig
from recemb.tables.selected import Selected
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import BIG
from tests.tables.helpers import SPACES, Stored, stored
from tests.tables.test_gated import RANKED, block_of

DROPPED = {("item", 3), ("item", 8), ("user", 19), ("item", 30)}
"""Ids without rows, one of them for unknown values."""
ORDER = [("user", key) for key in range(20)] + [("item", key) for key in range(50)]
KEPT = packed(torch.tensor([one not in DROPPED for one in ORDER]))


class SelectedContract(TableContract):
    """The contract with the oracle of the kind."""

    dropped: Sequence[tuple[str, int]] = ()
    is_fine = False
    """A dimension of a block of some thousand ids is more than 1 % of the smaller budgets."""
    left_loss = 0.9
    """Elements that are not kept stay 0."""
    bad = [
        ({"ends": [4, 4], "keep": None}, "ends must ascend from 1 or more, got [4, 4]"),
        (
            {"ends": [4], "keep": [[0]]},
            "keep must have a list for each of the 2 blocks that ends makes, got 1",
        ),
        ({"ends": [], "keep": [[0, 6]]}, "keep must be dimensions in 0..5, ascending, got [0, 6]"),
        ({"ends": [], "keep": [[2, 1]]}, "keep must be dimensions in 0..5, ascending, got [2, 1]"),
        ({"ends": [], "keep": [[-1]]}, "keep must be dimensions in 0..5, ascending, got [-1]"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        ends = self.settings["ends"]
        block = block_of(space, key, ends)
        peers = [one for one in ORDER if block_of(*one, ends) == block and one not in self.dropped]
        found: dict[str, list[int]] = {part: [] for part in held.rows}
        if str(block) in found and (space, key) not in self.dropped:
            found[str(block)] = [peers.index((space, key))]
        return found

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        block = block_of(space, key, self.settings["ends"])
        found = rows.get(str(block), [])
        if not found:
            return torch.zeros(6)
        kept = self.settings["keep"][block]
        return torch.stack(
            [found[0][kept.index(d)] if d in kept else torch.zeros(()) for d in range(6)]
        )

    def budget_settings(self) -> Mapping[str, object]:
        settings = {**super().budget_settings()}
        settings.pop("kept_ids", None)
        return settings

    def larger(self, config: TableConfig) -> list[TableConfig]:
        """Return the configuration in which the next block keeps a dimension more."""
        assert isinstance(config, Selected)
        widths = list(map(len, config.kept_dims))
        block = widths.index(min(widths))
        if widths[block] == config.dim:
            return []
        widths[block] += 1
        return [replace(config, keep=[list(range(width)) for width in widths])]


class TestSubsets(SelectedContract):
    """The middle block keeps dimensions that are no first ones."""

    settings = {
        "kind": "selected",
        "dim": 6,
        "ends": [12, 30],
        "keep": [[0, 1, 2, 3, 4, 5], [1, 4, 5], [0, 2]],
    }
    num_rows = 70
    served_bytes = (12 * 6 + 18 * 3 + 40 * 2) * 4


class TestOneBlock(SelectedContract):
    settings = {"kind": "selected", "dim": 6, "ends": [], "keep": [[1, 2, 5]]}
    num_rows = 70
    served_bytes = 70 * 3 * 4
    too_small = (0.03,)


class TestDropped(SelectedContract):
    """Two bytes of map for each of 70 ids."""

    settings = {
        "kind": "selected",
        "dim": 6,
        "ends": [12, 30],
        "keep": [[0, 1, 3], [1, 4, 5], [0, 2]],
        "kept_ids": KEPT,
    }
    dropped = sorted(DROPPED)
    num_rows = 70 - 4
    # Items 3 and 8 are among the twelve most frequent ids.
    served_bytes = (10 * 3 + 18 * 3 + 38 * 2) * 4 + 70 * 2

    def test_the_dropped_are_where_they_are_thought_to_be(self) -> None:
        assert [block_of(*one, [12, 30]) for one in sorted(DROPPED)] == [0, 0, 2, 2]
        assert RANKED[0] == ("item", 0)


class TestInt8(TestDropped):
    settings = {**TestDropped.settings, "precision": "int8"}
    served_bytes = (10 * 3 + 4) + (18 * 3 + 4) + (38 * 2 + 4) + 70 * 2
    rate = 0.02


def test_a_block_may_keep_nothing() -> None:
    config = Selected(dim=3, ends=[10, 20], keep=[[2], [], [0, 1]])
    module = embeddings({"ads": config}, [feature("one", "ads")]).eval()
    held = stored(module)
    assert {part: tuple(rows.shape) for part, rows in held.rows.items()} == {
        "0": (10, 1),
        "2": (30, 2),
    }
    got = as_tensor(module({"one": ids([9, 10, 19, 20, 49])})["one"]).tolist()
    first, last = held.rows["0"].tolist(), held.rows["2"].tolist()
    assert got == [[0, 0, first[9][0]], [0] * 3, [0] * 3, [*last[0], 0], [*last[29], 0]]


def test_all_blocks_may_keep_nothing() -> None:
    module = embeddings({"ads": Selected(dim=3, keep=[[]])}, [feature("one", "ads")])
    assert as_tensor(module({"one": ids([9, 49])})["one"]).tolist() == [[0] * 3] * 2


def test_tables_of_one_form_with_other_blocks_and_maps_go_together() -> None:
    drops = [7, 20, 21]
    kept = packed(torch.tensor([key not in drops for key in range(50)]))
    tables = {
        "a": Selected(dim=4, ends=[10], keep=[[0, 1], [3]]),
        "b": Selected(dim=4, ends=[25], keep=[[2, 3], [0]]),
        "c": Selected(dim=4, ends=[25], keep=[[2, 3], [0]], kept_ids=kept),
    }
    module = embeddings(tables, [feature(name, name) for name in tables]).eval()
    assert len(module.groups) == 1
    keys = list(range(50))
    got = module({name: ids(keys) for name in tables})
    for name, end in (("a", 10), ("b", 25), ("c", 25)):
        keep = tables[name].kept_dims
        rows = stored(module, name).rows
        taken = {"0": 0, "1": 0}
        for key, vector in zip(keys, as_tensor(got[name]).tolist(), strict=True):
            wanted = [0.0] * 4
            part = str(int(key >= end))
            if name != "c" or key not in drops:
                row = rows[part][taken[part]].tolist()
                taken[part] += 1
                for dimension, value in zip(keep[int(part)], row, strict=True):
                    wanted[dimension] = value
            assert vector == wanted, (name, key)


@pytest.mark.parametrize(("num_ids", "width"), [(32_768, 2), (32_769, 4)])
def test_the_map_takes_two_bytes_up_to_32768_rows(num_ids: int, width: int) -> None:
    config = Selected(dim=2, keep=[[0]], kept_ids=packed(torch.ones(num_ids, dtype=torch.bool)))
    assert config.serving_bytes("t", [IdSpace("a", num_ids)]) == num_ids * (4 + width)


def test_a_damaged_or_foreign_list_of_ids_is_refused() -> None:
    for text, message in (
        ("?", r"^table 'ads': kept_ids is damaged \("),
        ("AAAA", r"^table 'ads': kept_ids is damaged \("),
        (
            KEPT,
            r"^table 'ads': kept_ids must have a flag for each of 50, got about 72; it was found",
        ),
    ):
        with pytest.raises(RecembError, match=message):
            embeddings({"ads": Selected(dim=2, keep=[[0]], kept_ids=text)}, [feature("a", "ads")])


def test_ends_beyond_the_ids_are_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': ends must be below .* 50, got \[50\]"):
        embeddings({"ads": Selected(dim=2, ends=[50], keep=[[0], [1]])}, [feature("a", "ads")])


def test_a_budget_gives_frequent_blocks_one_more() -> None:
    config = Selected(dim=32, ends=[1000, 4000], budget=4 * (1000 * 3 + 3000 * 2 + 4000 * 2))
    assert config.solve("t", BIG).kept_dims == [[0, 1, 2], [0, 1], [0, 1]]
    assert SPACES["users"] + SPACES["items"] == 8000


def test_a_part_is_read_as_often_as_its_ids_are() -> None:
    """What a planner goes by: of an id space's reads, those of ids that have rows in the part."""
    counts = torch.tensor([60, 20, 10, 6, 4])
    space = IdSpace("item", num_ids=6, counts_V=counts)  # the sixth is for unknown values
    config = Selected(dim=2, ends=[1, 3], keep=[[0, 1], [0], [1]])
    shares = [config.share_of_reads(part, space, [space]) for part in "012"]
    assert shares == pytest.approx([0.6, 0.3, 0.1])
    dropped = packed(torch.tensor([True, False, True, True, True, True]))
    config = Selected(dim=2, ends=[1, 3], keep=[[0, 1], [0], [1]], kept_ids=dropped)
    shares = [config.share_of_reads(part, space, [space]) for part in "012"]
    assert shares == pytest.approx([0.6, 0.1, 0.1])
    uncounted = IdSpace("item", num_ids=6)
    config = Selected(dim=2, ends=[1, 3], keep=[[0, 1], [0], [1]])
    shares = [config.share_of_reads(part, uncounted, [uncounted]) for part in "012"]
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    module = embeddings({"t": Selected(dim=2, ends=[10], keep=[[0], [1]])}, [feature("one", "t")])
    physical = module.rows.physical
    reads = [physical[module.physical_of["t"][part]].reads for part in "01"]
    assert sum(reads) == pytest.approx(1)
    assert reads[0] != reads[1]
