"""Sequences of events: splits without the future, every step once, and the public data sets."""

import itertools
import os
from pathlib import Path

import polars as pl
import pytest
import torch

from recemb.data.beauty import Beauty
from recemb.data.columns import AttributeFile, ListColumn
from recemb.data.diginetica import Diginetica
from recemb.data.events import EventColumns
from recemb.data.files import TableFile
from recemb.data.movielens_sequences import MovieLensSequences
from recemb.data.sequences import (
    Sequences,
    cut_by_time,
    leave_one_out,
    prefixes,
    read_sequences,
    training_rows,
)
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.jagged import Jagged
from recemb.models.session import columns_of
from tests.data.ties import tie

EVENTS = [
    ("ann", "hat", 3), ("bob", "cap", 1), ("ann", "cap", 1), ("ann", "tie", 2), ("bob", "hat", 9),
    ("bob", "tie", 5), ("cem", "hat", 4), ("cem", "tie", 4), ("dan", "bow", 7), ("bob", "bag", 11),
]  # fmt: skip
"""User, item, time: ann cap tie hat; bob cap tie hat bag; cem hat tie (by a hash); dan bow."""


@pytest.fixture
def events(tmp_path, monkeypatch):
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "events.csv"
    pl.DataFrame(EVENTS, schema=["who", "what", "when"], orient="row").write_csv(path)
    return path


def settings(path, **more):
    return {"source": str(path), "sequence": "who", "item": "what", "time": "when", **more}


def rows(data, stage):
    """Return the (history, item) pairs of a stage in the order of its file."""
    frame = pl.read_parquet(data.file(stage).path)
    return [(history, item) for history, item in frame.select("history", "item").iter_rows()]


def test_the_last_item_is_test_and_the_one_before_validation(events):
    data = Sequences(**settings(events))
    assert rows(data, "train") == [(["hat"], "tie"), (["cap"], "tie")]
    assert rows(data, "validation") == [(["cap"], "tie"), (["cap", "tie"], "hat")]
    assert rows(data, "test") == [(["cap", "tie"], "hat"), (["cap", "tie", "hat"], "bag")]


def test_counts_are_of_training_and_what_it_lacks_comes_last(events):
    vocabulary = Sequences(**settings(events)).schema.vocabularies["item"]
    # hat 1, tie 2, cap 1; bag is in the test file alone, and bow in no step at all.
    assert vocabulary.num_known == 4
    assert vocabulary.counts_V.tolist() == [2, 1, 1, 0]


def test_the_last_sequences_by_time_are_validation_and_test():
    lists = pl.Series([["a", "b"], ["c", "d", "e"], ["f", "g", "h"], ["i", "j"]])
    parts = cut_by_time(lists, (0.25, 0.25), 2)
    assert [tuple(row) for row in parts["train"].rows()] == [
        (["a"], "b"), (["c", "d"], "e"),
    ]  # fmt: skip
    assert parts["validation"].rows() == [(["f"], "g"), (["f", "g"], "h")]
    assert parts["test"].rows() == [(["i"], "j")]


def test_sequences_are_in_the_order_of_their_last_event(events):
    columns = EventColumns({"sequence": "who", "item": "what"}, "when", None)
    found = read_sequences(TableFile(events), columns)
    # By last event: ann 3, cem 4, dan 7, bob 11; cem's two by a hash.
    assert tie("cem", "hat") < tie("cem", "tie")
    assert found["sequence"].to_list() == ["ann", "cem", "dan", "bob"]
    assert found["items"].to_list() == [
        ["cap", "tie", "hat"], ["hat", "tie"], ["bow"], ["cap", "tie", "hat", "bag"],
    ]  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 3, 5, 9])
def test_every_step_is_in_one_piece_of_a_long_sequence(length):
    lists = pl.Series([list(range(10)), [20, 21], [30]])
    steps = []
    for history, item in training_rows(lists, length).iter_rows():
        assert 1 <= len(history) <= length
        whole = [*history, item]
        steps += list(itertools.pairwise(whole))
    assert sorted(steps) == [*((i, i + 1) for i in range(9)), (20, 21)]


def test_prefixes_end_before_every_item_but_the_first():
    found = prefixes(pl.Series([[1, 2, 3, 4], [5]]), 2)
    assert found.rows() == [([1], 2), ([1, 2], 3), ([2, 3], 4)]


def test_leave_one_out_cuts_histories_to_their_end():
    parts = leave_one_out(pl.Series([[1, 2, 3, 4, 5, 6], [7, 8]]), 2)
    assert parts["train"].rows() == [([2, 3], 4), ([1], 2), ([7], 8)]
    assert parts["validation"].rows() == [([3, 4], 5)]
    assert parts["test"].rows() == [([4, 5], 6)]


def test_rows_to_predict_say_whose_they_are():
    lists = pl.Series([["a", "b"], ["c", "d", "e"], ["f", "g", "h"], ["i", "j", "k"]])
    names = pl.Series(["ann", "cem", "dan", "007"])
    last = leave_one_out(lists, 5, names)["test"]
    assert last.rows() == [
        ("cem", ["c", "d"], "e"), ("dan", ["f", "g"], "h"), ("007", ["i", "j"], "k"),
    ]  # fmt: skip
    rows = cut_by_time(lists, (0.25, 0.25), 5, names)["test"]
    assert rows.rows() == [("007", ["i"], "j"), ("007", ["i", "j"], "k")]


def test_predictions_call_the_key_as_the_events_do(events):
    kept = Sequences(**settings(events)).kept_columns(["item"])
    assert kept.rows() == [("ann", "hat"), ("bob", "bag")]
    assert kept.columns == ["who", "item"]


def test_sessions_of_a_file_have_all_that_happened(events, tmp_path):
    data = Sequences(**settings(events))
    now = pl.DataFrame({"who": ["b", "a", "b"], "what": ["tie", "cap", "7"], "when": [2, 5, 1]})
    now.write_csv(tmp_path / "now.csv")
    column, keys, history = data.sessions(tmp_path / "now.csv")
    assert (column, keys.to_list()) == ("who", ["b", "a"])
    assert history.lengths.tolist() == [2, 1]
    known = data.schema.vocabularies["item"]
    raw = torch.tensor([hash_string(name) for name in ("7", "tie", "cap")])
    assert history.values.tolist() == known.lookup(raw).tolist()
    # A text file of digits alone holds strings still; a parquet file says that it does not.
    digits = pl.DataFrame({"who": ["b"], "what": [7], "when": [2]})
    digits.write_csv(tmp_path / "digits.csv")
    assert data.sessions(tmp_path / "digits.csv")[2].values.tolist() == [known.num_known]
    digits.write_parquet(tmp_path / "digits.parquet")
    with pytest.raises(RecembError, match="column 'what': ids must be strings as in training"):
        data.sessions(tmp_path / "digits.parquet")


def test_attributes_of_items_are_read_by_the_name_of_their_key(events, tmp_path):
    tags = pl.DataFrame({"id": ["hat", "bag"], "tags": [["red", "wool"], ["red"]]})
    tags.write_parquet(tmp_path / "tags.parquet")
    given = AttributeFile(path=str(tmp_path / "tags.parquet"), key="id", lists={
        "tags": ListColumn()})  # fmt: skip
    schema = Sequences(**settings(events, attributes=given)).schema
    attribute = schema.attributes["tags"]
    assert attribute.owner == "item"
    assert attribute.offsets_V.diff().sum() == 3


def test_a_batch_holds_histories_and_what_came_next(events):
    data = Sequences(**settings(events, batch_size=2))
    history, item = columns_of(next(iter(data.test_dataloader())))
    assert isinstance(history, Jagged)
    keys = data.schema.vocabularies["item"]

    def index(names):
        return keys.lookup(torch.tensor([hash_string(name) for name in names])).tolist()

    assert history.lengths.tolist() == [2, 3]
    assert history.values.tolist() == index(["cap", "tie", "cap", "tie", "hat"])
    assert item.tolist() == index(["hat", "bag"])


def test_an_event_without_time_is_refused_by_row(tmp_path, monkeypatch):
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "events.parquet"
    pl.DataFrame({"who": [1, 1, 1], "what": [1, 2, 3], "when": [1, None, 2]}).write_parquet(path)
    with pytest.raises(RecembError, match=r"column 'when', row 1: an event must have it"):
        _ = Sequences(**settings(path)).schema


def test_events_without_a_long_sequence_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "events.parquet"
    pl.DataFrame({"who": [1, 1, 2], "what": [1, 2, 3], "when": [1, 2, 2]}).write_parquet(path)
    with pytest.raises(RecembError, match="no sequence is long enough for validation"):
        _ = Sequences(**settings(path)).schema


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(RecembError, match=r"test_share must be above 0 and below 0\.5"):
        Sequences(source="events.csv", test_share=share)


def test_a_missing_data_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RecembError, match=r"Beauty\.parquet: Amazon Beauty is not there"):
        _ = Beauty(source=str(tmp_path)).schema


PUBLISHED = {
    Beauty: (12_101, 22_363, 22_363, 153_776 - 22_363),
    MovieLensSequences: (3_416, 6_040, 6_040, 999_611 - 3 * 6_040),
}
"""Items, rows of validation and test, and steps of training, by the sizes that are published."""


@pytest.mark.parametrize("data_set", PUBLISHED, ids=lambda one: one.__name__)
def test_public_data_sets_have_their_published_sizes(data_set):
    if not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set")
    items, validation, test, steps = PUBLISHED[data_set]
    data = data_set()
    assert data.schema.vocabularies["item"].num_known == items
    assert (data.file("validation").num_rows, data.file("test").num_rows) == (validation, test)
    train = pl.read_parquet(data.file("train").path)
    assert train["history"].list.len().sum() == steps


def test_diginetica_has_its_published_examples():
    if not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set")
    data = Diginetica(max_length=70)
    train = pl.read_parquet(data.file("train").path)
    steps = train["history"].list.len().sum() + data.file("validation").num_rows
    assert steps == 719_470
    assert data.file("test").num_rows == 60_858
    assert data.schema.vocabularies["item"].num_known == 43_097


@pytest.mark.parametrize("tags", [("5", "6"), ("x", "y")])
def test_a_text_file_of_attributes_with_one_tag_per_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tags: tuple[str, str]
) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    events = "".join(f"u{user},{item},{item}\n" for user in range(9) for item in (1, 2, 3, 4))
    (tmp_path / "events.csv").write_text("user,item,time\n" + events)
    (tmp_path / "items.csv").write_text(f"item,tags\n1,{tags[0]}\n2,{tags[1]}\n3,{tags[0]}\n4,\n")
    attributes = AttributeFile(
        path=str(tmp_path / "items.csv"), key="item", lists={"tags": ListColumn()}
    )
    data = Sequences(source=str(tmp_path / "events.csv"), time="time", attributes=attributes)
    items, tags_of = data.schema.vocabularies["item"], data.schema.attributes["tags"]
    starts = tags_of.offsets_V.tolist()
    found = {
        int(raw): tags_of.values_M[starts[index] : starts[index + 1]].tolist()
        for raw, index in zip(items.keys_V.tolist(), items.index_V.tolist(), strict=True)
    }
    assert found[1] == found[3] != found[2]
    assert [len(found[item]) for item in (1, 2, 3, 4)] == [1, 1, 1, 0]
