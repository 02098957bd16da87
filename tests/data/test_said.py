"""Schemas of columns whose ids are said: no file is read for them, and nothing is allocated."""

from typing import Any

import pytest

from recemb.data.columns import AttributeFile, Columns, IdColumn, ListColumn, NumberColumn
from recemb.data.said import said_schema
from recemb.errors import RecembError
from recemb.schema import Column, Schema
from recemb.vocabulary import Vocabulary, VocabularyConfig

COLUMNS = Columns(
    label="y",
    categorical={"user": IdColumn(unknown="error"), "item": IdColumn(), "raw": IdColumn(raw=True)},
    lists={"seen": ListColumn(vocabulary="item", max_length=50)},
    dense={"price": NumberColumn()},
)
ABOUT = AttributeFile(
    path="about.parquet",
    key="item",
    categorical={"brand": IdColumn()},
    lists={"tags": ListColumn()},
)


class Reader:
    """Remembers what it was asked to read."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], bool]] = []

    def __call__(self, columns: Columns, attributes: AttributeFile | None) -> Schema:
        self.asked.append((list(columns.ids), attributes is not None))
        names = [name for name, one in columns.ids.items() if not one.vocabulary]
        return Schema(
            columns={
                name: Column(is_list=name in columns.lists, vocabulary=one.vocabulary or name)
                for name, one in columns.ids.items()
            },
            vocabularies={name: Vocabulary.unread(name, 5, VocabularyConfig()) for name in names},
        )


def said(
    reader: Reader | None = None, lengths: Any = None, about: Any = None, **ids: int
) -> Schema:
    return said_schema(COLUMNS, about, ids, lengths or {}, reader or Reader())


def test_nothing_is_read_where_everything_is_said():
    reader = Reader()
    schema = said(reader, user=10**10, item=7)
    assert reader.asked == []
    # An error has no index of its own; other unknown values have one.
    assert (schema.num_ids("user"), schema.num_ids("item")) == (10**10, 8)
    assert (schema.num_ids("seen"), schema.num_ids("raw")) == (8, None)
    assert schema.id_space("seen") == "item"
    assert schema.is_list("seen")
    assert schema.columns["seen"].mean_length == 50
    assert list(schema.dense) == ["price"]


def test_only_what_is_not_said_is_read():
    reader = Reader()
    schema = said(reader, about=ABOUT, user=10**10)
    assert reader.asked == [(["item", "seen"], True)]
    assert (schema.num_ids("user"), schema.num_ids("item")) == (10**10, 6)
    assert set(schema.columns) == {"user", "item", "raw", "seen"}


def test_a_star_is_all_others():
    schema = said(user=3, **{"*": 9}, about=ABOUT, lengths={"tags": 2.5})
    sizes = {name: schema.num_ids(name) for name in ("user", "item", "brand", "tags")}
    assert sizes == {"user": 3, "item": 10, "brand": 10, "tags": 10}


def test_attributes_take_the_room_that_they_would():
    schema = said(about=ABOUT, user=1, item=10**10, brand=4, tags=9, lengths={"tags": 2.5})
    tags, brand = schema.attributes["tags"], schema.attributes["brand"]
    assert tags.offsets_V.shape == (10**10 + 2,)  # with the unknown item, and the end
    assert tags.values_M.shape == (25 * 10**9 + 2,)  # 2.5 each
    assert brand.values_M.shape == (10**10 + 1,)
    assert (tags.owner, tags.is_list, brand.is_list) == ("item", True, False)


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ({"use": 3}, {}, r"--ids: 'use' has no vocabulary of its own; those that have are"),
        ({"seen": 3}, {}, r"--ids: 'seen' has no vocabulary of its own"),
        ({"user": 0}, {}, r"--ids: 'user' must have at least 1 id, got 0"),
        ({"item": 3}, {"user": 2}, r"--lengths: .* of lists, of \['seen', 'tags'\], got user=2"),
        ({"item": 3}, {"seen": -1}, r"--lengths: must be numbers from 0"),
        ({"item": 3, "brand": 2}, {}, r"--ids: say how many ids attribute 'tags' has"),
        ({"brand": 3}, {}, r"--ids: 'brand' is read with the ids of 'item'; say those too"),
        ({"*": 3}, {}, r"list 'tags': say how long it is on average, as --lengths tags=NUMBER"),
    ],
)
def test_mistakes_are_named(ids, lengths, message):
    with pytest.raises(RecembError, match=message):
        said_schema(COLUMNS, ABOUT, ids, lengths, Reader())
