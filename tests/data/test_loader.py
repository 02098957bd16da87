"""Batches: each row once, in an order that a seed fixes and a checkpoint resumes bit for bit."""

import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recemb.data.batch import Batch, batch_of
from recemb.data.chunk import Bags, Chunk
from recemb.data.columns import Columns, IdColumn, ListColumn, NumberColumn
from recemb.data.encode import Encoder
from recemb.data.files import TableFile
from recemb.data.loader import Loader, ahead
from recemb.data.schema import build_schema
from recemb.errors import RecembError
from recemb.jagged import split_keyed

ROOT = Path(__file__).parents[2]

ROWS = 103
"""Rows of the file, in row groups of 10 and one of 3."""

COLUMNS = Columns(
    label="y",
    categorical={"row": IdColumn(raw=True), "group": IdColumn()},
    lists={"history": ListColumn(raw=True), "empty": ListColumn(raw=True)},
    dense={"d": NumberColumn()},
)


def history(row: int) -> list[int]:
    """Return a list whose length and ids belong to this row alone."""
    return [1000 * row + place for place in range(row % 4)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = range(ROWS)
    path = tmp_path_factory.mktemp("loader") / "rows.parquet"
    pl.DataFrame(
        {
            "row": rows,
            "group": [row % 5 for row in rows],
            "history": [history(row) for row in rows],
            "empty": pl.Series([[]] * ROWS, dtype=pl.List(pl.Int64)),
            "d": [row / 2 for row in rows],
            "y": [row % 2 for row in rows],
        }
    ).write_parquet(path, row_group_size=10)
    return path


@pytest.fixture(scope="module")
def make(path: Path) -> Callable[..., Loader]:
    """Return a function that makes a loader of the file."""
    file = TableFile(path)
    schema = build_schema(file, COLUMNS, None, path.parent)

    def run(**changed: Any) -> Loader:
        chosen = {"batch_size": 7, "shuffle_rows": 25, "seed": 1, "cache_bytes": 2**20, **changed}
        return Loader(TableFile(path), Encoder(path, COLUMNS, schema), **chosen)

    return run


def rows_of(batch: Batch) -> list[int]:
    return split_keyed(batch.ids)["row"].values.tolist()


def order(loader: Loader) -> list[int]:
    return [row for batch in loader for row in rows_of(batch)]


def same(left: Batch, right: Batch) -> bool:
    """Return whether all tensors are equal to the bit."""
    return (
        left.ids.keys() == right.ids.keys()
        and torch.equal(left.ids.values(), right.ids.values())
        and torch.equal(left.ids.lengths(), right.ids.lengths())
        and torch.equal(left.dense_BK, right.dense_BK)
        and torch.equal(left.label_B, right.label_B)
    )


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batch_size=st.integers(1, 120), shuffle_rows=st.integers(0, 120), epoch=st.integers(0, 5))
def test_an_epoch_has_every_row_once_in_full_batches(
    make: Callable[..., Loader], batch_size: int, shuffle_rows: int, epoch: int
) -> None:
    loader = make(batch_size=batch_size, shuffle_rows=shuffle_rows)
    loader.set_epoch(epoch)
    batches = [rows_of(batch) for batch in loader]
    assert sorted(row for rows in batches for row in rows) == list(range(ROWS))
    assert len(batches) == len(loader)
    assert {len(rows) for rows in batches[:-1]} <= {batch_size}
    assert 1 <= len(batches[-1]) <= batch_size


def test_length_counts_the_partial_batch(make: Callable[..., Loader]) -> None:
    assert [len(make(batch_size=size)) for size in (1, 50, 51, 103, 104)] == [103, 3, 3, 1, 1]


def test_without_shuffling_the_order_is_that_of_the_file(make: Callable[..., Loader]) -> None:
    for batch_size in (3, 10, 64):  # smaller than a row group, equal to it, larger
        assert order(make(shuffle_rows=0, batch_size=batch_size)) == list(range(ROWS))


def test_shuffling_mixes_rows_across_row_groups(make: Callable[..., Loader]) -> None:
    found = order(make(shuffle_rows=200))
    assert found != list(range(ROWS))
    assert len({row // 10 for row in found[:20]}) > 4


def test_a_window_holds_the_rows_of_few_row_groups(make: Callable[..., Loader]) -> None:
    found = order(make(shuffle_rows=20, batch_size=5))
    assert len({row // 10 for row in found[:20]}) == 2


def test_same_seed_same_order(make: Callable[..., Loader]) -> None:
    assert order(make(seed=3)) == order(make(seed=3))


def test_other_seed_other_order(make: Callable[..., Loader]) -> None:
    assert order(make(seed=3)) != order(make(seed=4))


def test_other_epoch_other_order(make: Callable[..., Loader]) -> None:
    loader = make()
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(order(loader))
    assert orders[0] != orders[1]
    assert orders[0] == orders[2]


@pytest.mark.parametrize("cache_bytes", [0, 700, 2**20], ids=["none", "some", "all"])
def test_the_cache_does_not_change_the_batches(
    make: Callable[..., Loader], cache_bytes: int
) -> None:
    loader, whole = make(cache_bytes=cache_bytes), make()
    loader.fill_cache()
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(loader, whole, strict=True))


def test_everything_of_a_row_stays_with_it(make: Callable[..., Loader]) -> None:
    for batch in make():
        rows = rows_of(batch)
        assert split_keyed(batch.ids)["history"].lengths.tolist() == [row % 4 for row in rows]
        assert split_keyed(batch.ids)["history"].values.tolist() == [
            x for row in rows for x in history(row)
        ]
        assert split_keyed(batch.ids)["empty"].lengths.tolist() == [0] * len(rows)
        # 0, 1, 2 have 21 rows each, 3 and 4 have 20: their indices are their values.
        assert split_keyed(batch.ids)["group"].values.tolist() == [row % 5 for row in rows]
        assert batch.dense_BK.tolist() == [[row / 2] for row in rows]
        assert batch.label_B.tolist() == [row % 2 for row in rows]
        assert batch.num_samples == len(rows)


# Resuming.


@pytest.mark.parametrize("shuffle_rows", [0, 25, 200])
@pytest.mark.parametrize("cut", [1, 2, 5, 14])
def test_a_resumed_epoch_goes_on_bit_for_bit(
    make: Callable[..., Loader], shuffle_rows: int, cut: int
) -> None:
    whole = make(shuffle_rows=shuffle_rows)
    whole.set_epoch(2)
    expected = list(whole)
    first = make(shuffle_rows=shuffle_rows)
    first.set_epoch(2)
    batches = iter(first)
    for _ in range(cut):
        next(batches)
    state = first.state_dict()
    batches.close()
    second = make(shuffle_rows=shuffle_rows)
    second.load_state_dict(state)
    second.set_epoch(2)
    rest = list(second)
    assert len(rest) == len(expected) - cut
    assert all(same(a, b) for a, b in zip(rest, expected[cut:], strict=True))


def test_the_epoch_after_a_resumed_one_is_whole(make: Callable[..., Loader]) -> None:
    loader, whole = make(), make()
    loader.load_state_dict({"epoch": 0, "batches": 4})
    assert len(list(loader)) == len(whole) - 4
    for each in (loader, whole):
        each.set_epoch(1)
    assert all(same(a, b) for a, b in zip(loader, whole, strict=True))


def test_an_epoch_cut_at_its_end_goes_on_with_the_next(make: Callable[..., Loader]) -> None:
    first, second, whole = make(), make(), make()
    list(first)
    second.load_state_dict(first.state_dict())
    for each in (second, whole):
        each.set_epoch(1)
    assert all(same(a, b) for a, b in zip(second, whole, strict=True))


def test_a_state_taken_before_the_first_batch_of_an_epoch_skips_none(
    make: Callable[..., Loader],
) -> None:
    first, second = make(), make()
    list(first)
    first.set_epoch(1)
    second.load_state_dict(first.state_dict())
    second.set_epoch(1)
    assert len(list(second)) == len(second)


def test_a_state_loaded_and_saved_again_is_the_same(make: Callable[..., Loader]) -> None:
    loader = make()
    loader.load_state_dict({"epoch": 3, "batches": 5})
    assert loader.state_dict() == {"epoch": 3, "batches": 5}


def test_state_counts_the_batches_that_the_consumer_has(make: Callable[..., Loader]) -> None:
    loader = make()
    batches = iter(loader)
    for number in (1, 2, 3):
        next(batches)
        assert loader.state_dict() == {"epoch": 0, "batches": number}
    batches.close()


def test_a_resumed_state_goes_on_counting(make: Callable[..., Loader]) -> None:
    loader = make()
    loader.load_state_dict({"epoch": 0, "batches": 4})
    batches = iter(loader)
    next(batches)
    assert loader.state_dict() == {"epoch": 0, "batches": 5}
    batches.close()


# Memory: row groups are read when they are needed, and let go.


class Counted:
    """Encodes like an encoder, and counts how many of its chunks are alive at once."""

    def __init__(self, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[weakref.ref[Chunk]] = []
        self.most = 0
        encode = loader.encoder.encode

        def counting(frame: pl.DataFrame, first_row: int) -> Chunk:
            found = encode(frame, first_row)
            # A slotted class has no weak references; a subclass of it has.
            chunk = Watched(found.ids_SN, found.lists, found.dense_NK, found.label_N)
            self.made.append(weakref.ref(chunk))
            self.most = max(self.most, sum(one() is not None for one in self.made))
            return chunk

        monkeypatch.setattr(loader.encoder, "encode", counting)


class Watched(Chunk):
    pass


@pytest.mark.parametrize(("shuffle_rows", "window"), [(0, 1), (10, 1), (20, 2), (30, 3)])
def test_no_more_than_a_window_of_row_groups_is_held(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch, shuffle_rows: int, window: int
) -> None:
    loader = make(shuffle_rows=shuffle_rows, cache_bytes=0, batch_size=4)
    counted = Counted(loader, monkeypatch)
    assert len(order(loader)) == ROWS
    assert len(counted.made) == 11
    # One more: a window of one row group is that row group, held until the next one is read.
    assert counted.most <= window + 1


def test_row_groups_are_read_as_the_consumer_goes(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make(shuffle_rows=10, cache_bytes=0, batch_size=5)
    counted = Counted(loader, monkeypatch)
    batches = iter(loader)
    next(batches)
    batches.close()
    # One batch taken, three waiting, one being made: ten rows are two of them.
    assert 1 <= len(counted.made) <= 4


def test_a_full_cache_reads_each_row_group_once(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make()
    counted = Counted(loader, monkeypatch)
    loader.fill_cache()
    order(loader)
    order(loader)
    assert len(counted.made) == 11


def test_the_cache_stays_within_its_bytes(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [chunk.num_bytes for chunk in map(make()._chunk, range(11))]
    loader = make(cache_bytes=sizes[0] + sizes[1] + 1)
    counted = Counted(loader, monkeypatch)
    order(loader)
    order(loader)
    kept = sum(one() is not None for one in counted.made)
    assert 1 <= kept <= 3
    assert len(counted.made) == 2 * 11 - kept


def test_bytes_of_a_chunk() -> None:
    bags = Bags(torch.zeros(5, dtype=torch.int32), torch.tensor([0, 2, 5]))
    ids = torch.zeros(3, 2, dtype=torch.int64)
    chunk = Chunk(ids, (bags,), torch.zeros(2, 4), torch.zeros(2))
    assert chunk.num_bytes == 3 * 2 * 8 + 5 * 4 + 3 * 8 + 2 * 4 * 4 + 2 * 4


# The thread.


def test_an_error_in_the_thread_reaches_the_consumer(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make(shuffle_rows=0, cache_bytes=0)
    encode = loader.encoder.encode

    def failing(frame: pl.DataFrame, first_row: int) -> Chunk:
        if first_row == 50:
            raise RecembError("rows.parquet: column 'a', row 57: a rule")
        return encode(frame, first_row)

    monkeypatch.setattr(loader.encoder, "encode", failing)
    seen = []
    with pytest.raises(RecembError, match=r"rows\.parquet: column 'a', row 57: a rule"):
        seen.extend(rows_of(batch) for batch in loader)
    assert threads() == []


def test_what_was_made_before_an_error_is_delivered() -> None:
    def failing() -> Iterator[Any]:
        yield from (1, 2, 3, 4, 5)
        raise KeyError("late")

    seen = []
    with pytest.raises(KeyError, match="late"):
        seen.extend(ahead(failing(), num_ahead=2))  # list.extend keeps what came before
    assert seen == [1, 2, 3, 4, 5]


def test_leaving_the_loop_early_ends_the_thread(make: Callable[..., Loader]) -> None:
    loader = make(batch_size=1)
    batches = iter(loader)
    next(batches)
    assert len(threads()) == 1
    batches.close()
    assert threads() == []


def test_a_program_that_ends_inside_the_loop_ends_well() -> None:
    program = """
import itertools, torch
from recemb.data.loader import ahead
batches = ahead((torch.randperm(1_000_000) for _ in itertools.count()), num_ahead=3)
next(batches)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr


def test_the_end_of_an_epoch_ends_the_thread(make: Callable[..., Loader]) -> None:
    list(make())
    assert threads() == []


def test_the_thread_runs_no_further_ahead_than_asked() -> None:
    made = [threading.Event() for _ in range(10)]

    def items() -> Iterator[Any]:
        for number, event in enumerate(made):
            event.set()
            yield number

    batches = ahead(items(), num_ahead=2)
    assert next(batches) == 0
    # 0 is taken, 1 and 2 wait, 3 is in the thread's hand.
    assert made[3].wait(5)
    assert not made[4].wait(0.3)
    assert next(batches) == 1
    assert made[4].wait(5)
    batches.close()


# The layout of a batch.


def test_layout_of_a_batch_by_hand() -> None:
    chunk = Chunk(
        torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int32),
        (
            Bags(torch.tensor([7, 8, 9]), torch.tensor([0, 2, 2, 3])),
            Bags(torch.tensor([10], dtype=torch.int32), torch.tensor([0, 0, 1, 1])),
        ),
        torch.tensor([[0.5], [1.5], [2.5]]),
        torch.tensor([0.0, 1.0, 1.0]),
    )
    batch = batch_of(chunk, ["user", "movie", "history", "tags"])
    assert batch.ids.keys() == ("user", "movie", "history", "tags")
    assert batch.ids.values().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert batch.ids.values().dtype == torch.int64
    assert batch.ids.lengths().tolist() == [1, 1, 1, 1, 1, 1, 2, 0, 1, 0, 1, 0]
    assert batch.dense_BK.tolist() == [[0.5], [1.5], [2.5]]
    assert batch.label_B.tolist() == [0.0, 1.0, 1.0]
    taken = batch_of(chunk.take(torch.tensor([2, 0])), ["user", "movie", "history", "tags"])
    assert taken.ids.values().tolist() == [3, 1, 6, 4, 9, 7, 8]
    assert taken.ids.lengths().tolist() == [1, 1, 1, 1, 1, 2, 0, 0]
    assert taken.dense_BK.tolist() == [[2.5], [0.5]]
    assert taken.label_B.tolist() == [1.0, 0.0]
