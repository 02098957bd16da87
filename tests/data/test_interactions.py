"""Pairs of users and items: what is cut off whom, and what training may know of it."""

import os
from pathlib import Path

import polars as pl
import pytest

from recemb.data.gowalla import Gowalla
from recemb.data.interactions import Interactions, cut_per_user
from recemb.errors import RecembError

Pairs = set[tuple[int, int]]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty pairs of user 1, five of 2, one of 3; times fall, and one pair comes twice."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    rows = [(1, item, 100 - item) for item in range(20)]
    rows += [(2, item, 100 - item) for item in range(5)]
    rows += [(3, 7, 50), (1, 0, 40)]
    path = tmp_path / "log.parquet"
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_parquet(path)
    return path


def pairs_of(data: Interactions, stage: str) -> Pairs:
    rows = pl.read_parquet(data.file(stage).path)
    assert rows.select("user", "item").is_duplicated().sum() == 0
    return set(rows.select("user", "item").iter_rows())


def test_the_last_of_each_user_are_cut_in_the_order_of_time(log: Path) -> None:
    data = Interactions(source=str(log), time="time", validation_share=0.25, test_share=0.2)
    # A later time is a smaller item, but for item 0 of user 1, whose first time is its time 40.
    last = {(1, item) for item in (1, 2, 3, 4)}
    assert pairs_of(data, "test") == last | {(2, 0)}
    # A quarter of the sixteen and four that are left; of one pair nothing is cut.
    assert pairs_of(data, "validation") == {(1, item) for item in (5, 6, 7, 8)} | {(2, 1)}
    assert len(pairs_of(data, "train")) == 12 + 3 + 1


def test_random_cuts_take_their_shares_and_are_always_the_same(log: Path) -> None:
    data = Interactions(source=str(log), validation_share=0.25, test_share=0.2)
    stages = {stage: pairs_of(data, stage) for stage in ("train", "validation", "test")}
    by_user = {
        stage: [sum(user == one for user, _ in pairs) for one in (1, 2, 3)]
        for stage, pairs in stages.items()
    }
    assert by_user == {"train": [12, 3, 1], "validation": [4, 1, 0], "test": [4, 1, 0]}
    everything = set().union(*stages.values())
    assert len(everything) == 26
    again = Interactions(source=str(log), validation_share=0.25, test_share=0.2, seed=9)
    again.folder = Path("nowhere")
    assert pairs_of(again, "test") == stages["test"]
    assert stages["test"] != {(1, item) for item in (16, 17, 18, 19)} | {(2, 4)}


def test_training_on_all_has_validation_back_and_the_same_test(log: Path) -> None:
    held = Interactions(source=str(log), validation_share=0.25)
    everything = Interactions(source=str(log), validation_share=0.25, train_on="all")
    assert pairs_of(everything, "train") == pairs_of(held, "train") | pairs_of(held, "validation")
    assert pairs_of(everything, "test") == pairs_of(held, "test")
    everything.setup("fit")
    assert not everything.has_validation
    assert everything.val_dataloader() == []
    with pytest.raises(RecembError, match="data: there is no validation"):
        everything.loader("validation")
    assert held.has_validation


def test_the_graph_is_of_training_pairs_alone(log: Path) -> None:
    data = Interactions(source=str(log), validation_share=0.25)
    schema = data.schema
    seen = schema.attributes["seen"]
    assert (seen.owner, seen.vocabulary, seen.is_list) == ("user", "item", True)
    assert set(schema.vocabularies) == {"user", "item"}
    users, items = schema.vocabularies["user"], schema.vocabularies["item"]
    # Items that training lacks are known too: all are ranked.
    assert items.num_known == 20
    found = set()
    for user in (1, 2, 3):
        index = int(users.lookup(pl_tensor(user)))
        bag = seen.values_M[seen.offsets_V[index] : seen.offsets_V[index + 1]].tolist()
        raw = {int(i): int(k) for k, i in zip(items.keys_V, items.index_V, strict=True)}
        found |= {(user, raw[one]) for one in bag}
    assert found == pairs_of(data, "train")
    assert int(seen.offsets_V[-1]) == len(found)


def pl_tensor(value: int):
    return pl.Series([value]).to_torch()


def test_test_pairs_that_a_user_has_are_dropped(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "later.csv"
    pl.DataFrame({"user": [1, 3, 3], "item": [4, 7, 2]}).write_csv(path)
    data = Interactions(source=str(log), test=str(path))
    assert pairs_of(data, "test") == {(3, 2)}
    assert len(pairs_of(data, "train") | pairs_of(data, "validation")) == 26


def test_a_test_file_of_pairs_that_training_has_is_refused(log: Path, tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, 1, 2], "item": [3, 4, 0]}).write_parquet(tmp_path / "test.parquet")
    data = Interactions(source=str(log), test=str(tmp_path / "test.parquet"))
    with pytest.raises(RecembError, match="all 3 pairs of the test file are in training too, and"):
        data.prepare_data()


def test_ids_of_text_files_are_decided_over_both(tmp_path: Path, log: Path) -> None:
    # Items are strings because of 007 in the test file; users are integers in both.
    pairs = "".join(f"{user},{item}\n" for user in (1, 2) for item in (7, 8, 9, 10))
    (tmp_path / "pairs.csv").write_text("user,item\n" + pairs)
    (tmp_path / "test.csv").write_text("user,item\n1,007\n2,7\n2,11\n")
    data = Interactions(
        source=str(tmp_path / "pairs.csv"), test=str(tmp_path / "test.csv"), validation_share=0.25
    )
    assert pairs_of(data, "test") == {(1, "007"), (2, "11")}
    assert pairs_of(data, "train") | pairs_of(data, "validation") == {
        (user, item) for user in (1, 2) for item in ("7", "8", "9", "10")
    }


def test_a_user_keeps_a_pair() -> None:
    pairs = pl.DataFrame({"user": [1, 1, 2, 2, 2], "item": [1, 2, 3, 4, 5]})
    kept, cut = cut_per_user(pairs, 0.9)
    assert kept.rows() == [(1, 1), (2, 3)]
    assert cut.rows() == [(1, 2), (2, 4), (2, 5)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation_share": 0.0}, r"^data: validation_share must be above 0 and below 1, got 0"),
        ({"item": "thing"}, r"column 'thing' is missing"),
        ({"time": "when"}, r"column 'when', row 1: a pair must have it, got null"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    columns = {"user": [1, 2], "item": [1, 2], "when": [3, None]}
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(RecembError, match=message):
        Interactions(source=str(path), **settings).prepare_data()


def test_users_of_one_pair_leave_nothing_to_test(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"user": [1, 2], "item": [1, 2]}).write_parquet(path)
    with pytest.raises(RecembError, match="there are no pairs for test; users need more"):
        Interactions(source=str(path)).prepare_data()


@pytest.mark.skipif(not os.environ.get("RECEMB_DATA"), reason="RECEMB_DATA is not set")
def test_gowalla_is_as_published() -> None:
    data = Gowalla()
    sizes = {stage: data.file(stage).num_rows for stage in ("train", "validation", "test")}
    assert sizes["train"] + sizes["validation"] == 810_128
    assert sizes["test"] == 217_242
    assert 0.19 < sizes["validation"] / 810_128 < 0.21
    # A user's last places are validation, as those after them are the test.
    source = pl.read_parquet(Path(os.environ["RECEMB_DATA"]) / "gowalla" / "train.parquet")
    for user in (0, 7, 20_000):
        items = source.filter(pl.col("user") == user)["item"].to_list()
        held = pl.read_parquet(Path(data.folder) / "validation.parquet")
        count = round(0.2 * len(items))
        assert count > 0
        assert set(held.filter(pl.col("user") == user)["item"]) == set(items[-count:])
    assert data.schema.vocabularies["user"].num_known == 29_858
    assert data.schema.vocabularies["item"].num_known == 40_981
    assert Gowalla(train_on="all").file("train").num_rows == 810_128
