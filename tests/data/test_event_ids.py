"""Ids of events keep their text, and are of one type in all files of a data set."""

from pathlib import Path

import polars as pl
import pytest

from recemb.data.behaviour_log import BehaviourLog
from recemb.data.columns import AttributeFile, IdColumn, ListColumn
from recemb.data.interactions import Interactions
from recemb.data.long_histories import Protocol
from recemb.data.sequences import Sequences
from recemb.errors import RecembError

SHORT = Protocol(history_length=9, min_behaviours=3, targets=3, first_target=1, negatives=1)
ITEMS = ("7", "007", "+7", "7.0", "7e0", "8", "9", "10", "11", "12")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(name: str, users: tuple[str, ...], items: tuple[str, ...], header: bool = True) -> Path:
    """Write a text file of events: each user takes all items in their order."""
    rows = [f"{user},{item},{time}" for user in users for time, item in enumerate(items)]
    Path(name).write_text("\n".join(["user,item,time"] * header + rows) + "\n")
    return Path(name)


@pytest.mark.parametrize("header", [True, False])
def test_behaviours_of_items_that_look_alike_stay_apart(header: bool) -> None:
    path = write("log.csv", ("00007", "7"), ITEMS, header)
    data = BehaviourLog(
        source=str(path),
        names=None if header else ["user", "item", "time"],
        columns={"category": None},
        protocol=SHORT,
    )
    data.prepare_data()
    test = pl.read_parquet(data.folder / "test.parquet").filter(label=1)
    assert test.select("user", "history_item", "item").rows() == [
        ("00007", list(ITEMS[:-1]), "12"), ("7", list(ITEMS[:-1]), "12")
    ]  # fmt: skip
    # Training lacks what is only in validation and test.
    assert data.schema.vocabularies["item"].num_known == len(ITEMS) - 2
    assert data.schema.columns["item"].is_text


def test_users_and_items_that_look_alike_are_two() -> None:
    path = str(write("log.csv", ("00007", "7"), ITEMS))
    pairs = Interactions(source=path, time="time")
    assert pairs.schema.vocabularies["user"].num_known == 2
    assert pairs.schema.vocabularies["item"].num_known == len(ITEMS)
    data = Sequences(source=path, time="time")
    assert data.schema.vocabularies["item"].num_known == len(ITEMS)
    test = pl.read_parquet(data.file("test").path)
    assert sorted(test["sequence"]) == ["00007", "7"]


def test_a_test_file_of_digits_alone_holds_the_same_strings() -> None:
    train = write("train.csv", ("1", "2"), (*map(str, range(10)), "X1"))
    test = write("test.csv", ("1",), ("1", "2", "77"))
    data = Interactions(source=str(train), test=str(test), time="time")
    rows = pl.read_parquet(data.file("test").path)
    # Users are integers in both files; the items that training has are no news.
    assert rows.select("user", "item").rows() == [(1, "77")]


def test_types_can_be_declared() -> None:
    path = str(write("log.csv", ("1", "2"), tuple(map(str, range(10)))))
    data = Interactions(source=path, user_type="string", time="time")
    rows = pl.read_parquet(data.file("test").path)
    assert rows.schema["user"] == pl.String
    assert rows.schema["item"] == pl.Int64
    data = Sequences(source=path, item_type="string", time="time")
    assert pl.read_parquet(data.file("test").path).schema["item"] == pl.String
    path = str(write("words.csv", ("1", "2"), (*map(str, range(10)), "X1")))
    rule = r"words\.csv: column 'item', line 12: ids must be integers, as declared, got 'X1'"
    with pytest.raises(RecembError, match=rule):
        Interactions(source=path, item_type="integer").prepare_data()


def test_attributes_are_read_where_they_are(tmp_path: Path) -> None:
    path = str(write("log.csv", ("1", "2"), ("7", "007", "8", "9")))
    Path("about.csv").write_text("id,tags\n7,red|wool\n007,red\n8,3\n")
    about = AttributeFile(path="about.csv", key="id", lists={"tags": ListColumn()})
    schema = Sequences(source=path, time="time", attributes=about).schema
    assert schema.attributes["tags"].offsets_V.diff().sum() == 4
    # A list of one tag in each row is a list still.
    Path("about.csv").write_text("id,tags\n7,1\n007,2\n")
    schema = Sequences(source=path, time="time", attributes=about).schema
    assert schema.attributes["tags"].offsets_V.diff().sum() == 2
    # What is wrong is named by the user's file and line.
    Path("about.csv").write_text("id,tags\n7,red\n7,wool\n")
    with pytest.raises(RecembError, match=r"^\S+/about\.csv: column 'id', line 2: keys must be"):
        _ = Sequences(source=path, time="time", attributes=about).schema


def test_keys_of_attributes_decide_with_the_events() -> None:
    path = str(write("log.csv", ("1", "2"), ("7", "8", "9", "6")))
    Path("about.csv").write_text("id,kind\n7,a\n007,b\n")
    about = AttributeFile(path="about.csv", key="id", categorical={"kind": IdColumn()})
    data = Sequences(source=path, time="time", attributes=about)
    assert data.schema.columns["item"].is_text
    assert data.schema.vocabularies["item"].num_known == 4


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("3,4", r"log\.csv: column 'time', line 4: a behaviour must have it, got null"),
        ("3,4,5,6", r"log\.csv: not a readable text file \(.*\); write it again"),
        ("3,,5", r"log\.csv: column 'item', line 4: a behaviour must have it, got null"),
        ("3,-4,5", r"log\.csv: column 'item', line 4: ids must not be negative, got -4"),
        ("3,4,noon", r"log\.csv: column 'time', line 4: a time must be a number"),
    ],
)
def test_lines_of_a_log_without_a_header_count_from_the_first(line: str, rule: str) -> None:
    Path("log.csv").write_text("1,2,3\n1,2,4\n1,2,5\n" + line + "\n")
    names = ["user", "item", "time"]
    data = BehaviourLog(source="log.csv", names=names, columns={"category": None}, protocol=SHORT)
    with pytest.raises(RecembError, match=rule):
        data.prepare_data()


def test_an_item_of_several_categories_has_its_most_frequent_one() -> None:
    rows = [(1, item, category, time) for time, (item, category) in enumerate(
        [(5, 3), (6, 1), (5, 2), (5, 2), (6, 4), (7, 9)])]  # fmt: skip
    for name, order in (("a.parquet", rows), ("b.parquet", rows[::-1])):
        schema = ["user", "item", "category", "time"]
        pl.DataFrame(order, schema=schema, orient="row").write_parquet(name)
        data = BehaviourLog(source=name, protocol=SHORT)
        data.prepare_data()
        found = pl.read_parquet(data.folder / "items.parquet").rows()
        assert found == [(5, 2), (6, 1), (7, 9)]


@pytest.mark.parametrize(
    ("make", "column", "advice"),
    [
        (lambda path: Interactions(source=path, time="time"), "user", "declare user_type: string"),
        (lambda path: Interactions(source=path, time="time"), "item", "declare item_type: string"),
        (lambda path: Sequences(source=path, time="time"), "user", "declare sequence_type: string"),
        (lambda path: Sequences(source=path, time="time"), "item", "declare item_type: string"),
        (
            lambda path: BehaviourLog(source=path, columns={"category": None}, protocol=SHORT),
            "item",
            "convert the column to strings",
        ),
    ],
)
def test_what_to_do_about_large_ids_is_a_setting_that_there_is(make, column, advice) -> None:
    rows = pl.DataFrame({"user": [1] * 9, "item": range(9), "time": range(9)})
    large = pl.lit(2**63, dtype=pl.UInt64) + pl.col(column).cast(pl.UInt64)
    rows.with_columns(large.alias(column)).write_parquet("log.parquet")
    said = rf"log.parquet: column '{column}', row 0: ids must be below 2\^63, got 9\d+; {advice}$"
    with pytest.raises(RecembError, match=said):
        make("log.parquet").prepare_data()
