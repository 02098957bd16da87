"""Rows held out of training: always the same, on one side or the other, and no other file."""

import polars as pl
import pytest
import torch

from recemb.data.columns import IdColumn
from recemb.data.held_out import rows_of_side
from recemb.data.tabular import Tabular
from recemb.errors import RecembError
from recemb.jagged import split_keyed

NUM_ROWS = 1000


def module(tmp_path, share: float | None = 0.2) -> Tabular:
    """A data module over a training file in several row groups, and no other file."""
    rows = pl.DataFrame({"a": range(NUM_ROWS), "label": [k % 2 for k in range(NUM_ROWS)]})
    rows.write_parquet(tmp_path / "train.parquet", row_group_size=300)
    data = Tabular(
        folder=str(tmp_path), label="label", categorical={"a": IdColumn(raw=True)}, batch_size=64
    )
    if share is not None:
        data.hold_out(share)
    return data


def ids(loader) -> list[int]:
    return [one for batch in loader for one in split_keyed(batch.ids)["a"].values.tolist()]


def test_each_row_is_on_one_side(tmp_path):
    data = module(tmp_path)
    data.setup("fit")
    train, held = ids(data.train_dataloader()), ids(data.val_dataloader())
    assert sorted(train + held) == list(range(NUM_ROWS))
    # A binomial of 1,000 and .2 has a deviation of 12.6.
    assert abs(len(held) - 200) < 60
    assert held == sorted(held)
    assert train != sorted(train)
    assert len(data.train_dataloader()) == -(-len(train) // 64)


def test_a_search_sees_the_held_out_rows_in_changing_order(tmp_path):
    data = module(tmp_path)
    loader = data.search_dataloader()
    held = ids(data.val_dataloader())
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(ids(loader))
        assert sorted(orders[-1]) == held
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]
    assert max(batch.num_samples for batch in loader) == 64


def test_which_rows_does_not_depend_on_how_they_are_read():
    whole = rows_of_side(0.3, True, 0, 500)
    parts = [rows_of_side(0.3, True, first, 100) + first for first in range(0, 500, 100)]
    assert torch.equal(torch.cat(parts), whole)
    # More held out are the same and others.
    assert set(whole.tolist()) < set(rows_of_side(0.5, True, 0, 500).tolist())


def test_what_cannot_be_is_refused(tmp_path):
    data = module(tmp_path, None)
    with pytest.raises(RecembError, match="no training rows are held out; call hold_out first"):
        data.search_dataloader()
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(RecembError, match="must be above 0 and below 1, got"):
            data.hold_out(share)
    data.hold_out(0.2)
    with pytest.raises(RecembError, match="there is no test while training rows are held out"):
        data.test_dataloader()
    data.hold_out(1e-6)
    with pytest.raises(RecembError, match=r"train.parquet: no row is left of 1000; hold out other"):
        data.val_dataloader()
