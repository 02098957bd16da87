"""The deduplicated kind: similar blocks of rows become one, between two training epochs."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recemb.checkpoint_callbacks import BestCheckpoint
from recemb.embeddings import Embeddings
from recemb.tables.deduplicated import BlockMap, Deduplicated, merge, merge_to
from recemb.tables.full import Full
from recemb.tables.kind import TableConfig
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.helpers import Stored, stored


class DeduplicatedContract(TableContract):
    """The contract with the oracle of the kind."""

    bad = [
        ({"num_blocks": 0}, "num_blocks must be at least 1, got 0"),
        ({"rows_per_block": 0}, "rows_per_block must be at least 1, got 0"),
        ({"after_epochs": 0}, "after_epochs must be at least 1, got 0"),
        ({"similarity": 0.0}, "similarity must be above 0 and at most 1, got 0.0"),
        ({"similarity": 1.1}, "similarity must be above 0 and at most 1, got 1.1"),
        ({"tolerance": 0.0}, "tolerance must be above 0, got 0.0"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        size = self.settings.get("rows_per_block", 1)
        block, place = divmod(self.number(space, key), size)
        return {"rows": [int(held.learned["block_of_M"][block]) * size + place]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        return rows["rows"][0]


class Merged(DeduplicatedContract):
    """After the stage in which blocks are compared."""

    def prepared(self, module: Embeddings) -> Embeddings:
        module.start_epoch(1)
        return module

    def bytes_of(self, module: Embeddings) -> int:
        size = self.settings.get("rows_per_block", 1)
        blocks = stored(module).learned["block_of_M"].tolist()
        # Rows in full precision, two bytes per block of the map, a byte for the stage.
        return len(set(blocks)) * size * 6 * 4 + len(blocks) * 2 + 1

    def budget_settings(self) -> Mapping[str, Any]:
        # A thousand blocks are compared sooner than eight thousand.
        return {**super().budget_settings(), "rows_per_block": 8}


class TestBeforeMerging(DeduplicatedContract):
    settings = {"kind": "deduplicated", "dim": 6}
    num_rows = 70
    served_bytes = 70 * 6 * 4 + 70 * 2 + 1

    # A budget is met by merging: the classes below have this test.
    test_a_share_is_met = None


class TestMerged(Merged):
    settings = {"kind": "deduplicated", "dim": 6, "num_blocks": 40}
    num_rows = 70


class TestMergedBlocks(Merged):
    """Blocks of 3 rows; the last of 24 blocks has a row to spare."""

    settings = {"kind": "deduplicated", "dim": 6, "num_blocks": 15, "rows_per_block": 3}
    num_rows = 72


class TestMergedInt8(Merged):
    settings = {"kind": "deduplicated", "dim": 6, "num_blocks": 40, "precision": "int8"}
    num_rows = 70
    rate = 0.02

    def bytes_of(self, module: Embeddings) -> int:
        kept = set(stored(module).learned["block_of_M"].tolist())
        return len(kept) * 6 + 4 + 70 * 2 + 1

    def budget_settings(self) -> Mapping[str, Any]:
        # In int8 all rows are less than half of the plain table.
        return {**super().budget_settings(), "precision": "fp32"}


# The stages


def test_merging_waits_for_its_epoch_and_happens_once() -> None:
    config = Deduplicated(dim=4, num_blocks=20, after_epochs=2)
    module = embeddings({"ads": config}, [feature("one", "ads")])
    own = list(range(50))
    for epoch in (0, 1):
        module.start_epoch(epoch)
        assert stored(module).learned["block_of_M"].tolist() == own
        assert not module.is_final()
    module.start_epoch(2)
    merged = stored(module).learned["block_of_M"]
    assert len(merged.unique()) <= 20
    assert module.is_final()
    # What has been trained since does not change the map.
    module.rows.assign("ads", torch.randn(50, 4))
    module.start_epoch(3)
    assert torch.equal(stored(module).learned["block_of_M"], merged)


def test_a_resumed_run_does_not_merge_again() -> None:
    config = Deduplicated(dim=4, num_blocks=20)
    module, other = (embeddings({"ads": config}, [feature("one", "ads")], seed=n) for n in (1, 2))
    module.start_epoch(1)
    other.load_state_dict(module.state_dict())
    assert other.is_final()
    other.start_epoch(1)
    assert torch.equal(stored(other).learned["block_of_M"], stored(module).learned["block_of_M"])


def test_a_module_is_final_when_all_of_its_tables_are() -> None:
    tables: dict[str, TableConfig] = {
        "plain": Full(dim=4),
        "early": Deduplicated(dim=4, num_blocks=20),
        "late": Deduplicated(dim=4, num_blocks=20, after_epochs=3),
    }
    module = embeddings(tables, [feature(name, name) for name in tables])
    finals = []
    for epoch in range(5):
        module.start_epoch(epoch)
        finals.append(module.is_final())
    assert finals == [False, False, False, True, True]


def test_no_checkpoint_before_the_last_stage_is_the_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A better score of the plain table would else be kept instead of the form that is served."""
    module = embeddings({"ads": Deduplicated(dim=4, num_blocks=20)}, [feature("one", "ads")])
    kept = []
    monkeypatch.setattr(
        ModelCheckpoint, "_save_topk_checkpoint", lambda _, trainer, scores: kept.append(scores)
    )
    callback = BestCheckpoint(tmp_path)
    trainer: Any = SimpleNamespace(lightning_module=module, global_step=0)
    for epoch, score in enumerate((0.9, 0.8, 0.7)):
        module.start_epoch(epoch)
        callback._save_topk_checkpoint(trainer, {"val/auc": torch.tensor(score)})
    assert [float(scores["val/auc"]) for scores in kept] == pytest.approx([0.8, 0.7])


def test_aliased_ids_train_one_row() -> None:
    module = embeddings({"ads": Deduplicated(dim=4)}, [feature("one", "ads")])
    rows = torch.arange(50.0).unsqueeze(1).repeat(1, 4)
    rows[31] = rows[7] + 0.001
    module.rows.assign("ads", rows)
    module.start_epoch(1)
    as_tensor(module({"one": ids([7, 31, 8])})["one"]).sum().backward()
    module.step()
    wanted = rows.clone()
    wanted[7] -= 2
    wanted[8] -= 1
    assert torch.equal(stored(module).rows["rows"], wanted)


# Comparing


def blocks_with_copies(tolerance: float) -> tuple[Tensor, list[int]]:
    """Return 60 blocks of 10 elements, and which one each is near to (the first of its like)."""
    generator = torch.Generator().manual_seed(5)
    blocks = torch.randn(60, 10, generator=generator)
    like = list(range(60))
    for one, first in ((10, 3), (20, 3), (30, 12), (59, 0), (41, 40)):
        noise = torch.rand(10, generator=generator) - 0.5
        blocks[one] = blocks[first] + tolerance * noise
        like[one] = first
    return blocks, like


@pytest.mark.parametrize("tolerance", [0.001, 0.01, 0.1])
def test_near_blocks_are_aliased_to_the_first(tolerance: float) -> None:
    blocks, like = blocks_with_copies(tolerance)
    assert merge(blocks, tolerance, 0.7).tolist() == like


def test_a_share_of_the_elements_must_be_equal() -> None:
    # Alike in 7 and in 6 of 10 elements; the others differ by two tolerances, near enough for the
    # hashes to propose both.
    first = torch.linspace(-1, 1, 10)
    seven, six = first.clone(), first.clone()
    seven[:3] += 0.02
    six[-4:] += 0.02
    blocks = torch.stack([first, seven, six])
    assert merge(blocks, 0.01, 0.7).tolist() == [0, 0, 2]


def test_a_block_that_others_stand_on_stays() -> None:
    # Each is near to the one before: without the rule, 2 -> 1 -> 0 would be a chain.
    blocks = torch.stack([torch.full((8,), 0.0), torch.full((8,), 0.009), torch.full((8,), 0.018)])
    found = merge(blocks, 0.01, 0.7)
    assert found[found].tolist() == found.tolist()
    assert found.tolist() in ([0, 0, 2], [0, 1, 1])


def test_equal_blocks_are_one_whatever_the_tolerance() -> None:
    blocks = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).repeat(3, 1)
    assert merge(blocks, 1e-9, 1.0).tolist() == [0, 1, 2, 3, 4] * 3


@pytest.mark.parametrize("kept", [1, 2, 3, 5, 10, 30, 55, 59, 60])
def test_the_smallest_sufficient_tolerance_is_found(kept: int) -> None:
    blocks, _ = blocks_with_copies(0.01)
    found = merge_to(blocks, kept, 0.01, 0.7)
    assert found[found].tolist() == found.tolist()
    assert (found <= torch.arange(60)).all()
    assert len(found.unique()) <= kept
    # One merge at a time, but for bands in which several blocks are found at once.
    assert len(found.unique()) >= kept - max(1, kept // 5)


def test_a_map_takes_two_bytes_until_there_are_too_many_blocks() -> None:
    assert BlockMap(40_000, 32_767).block_of_M.dtype == torch.int16
    assert BlockMap(40_000, 32_768).block_of_M.dtype == torch.int32
    assert int(BlockMap(40_000, 32_767).block_of_M.max()) == 32_766


def test_the_map_is_counted() -> None:
    module = embeddings({"ads": Deduplicated(dim=4, num_blocks=10)}, [feature("one", "ads")])
    config, spaces = module.tables["ads"], module.spaces["ads"]
    assert config.serving_bytes("ads", spaces) == 10 * 4 * 4 + 50 * 2 + 1
