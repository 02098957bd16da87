"""What a training file teaches: vocabularies by frequency, number scales, attributes of owners."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import xxhash
from torch import Tensor

from recemb.data.columns import AttributeFile, Columns, IdColumn, ListColumn, NumberColumn
from recemb.data.files import TableFile
from recemb.data.schema import build_schema
from recemb.errors import RecembError
from recemb.schema import Schema

Build = Callable[..., Schema]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Return a function that writes frames and reads the schema off them."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))

    def run(
        columns: Columns, train: pl.DataFrame, about: pl.DataFrame | None = None, **named: Any
    ) -> Schema:
        train = train.with_columns(y=pl.lit(1))
        train.write_parquet(tmp_path / "train.parquet", row_group_size=max(2, len(train) // 50))
        attributes = None
        if about is not None:
            about.write_parquet(tmp_path / "about.parquet", row_group_size=2)
            attributes = AttributeFile(path="about.parquet", **{"key": "movie", **named})
        return build_schema(TableFile(tmp_path / "train.parquet"), columns, attributes, tmp_path)

    return run


def numbering(schema: Schema, space: str) -> dict[int, int]:
    """Return raw value -> index."""
    vocabulary = schema.vocabularies[space]
    return dict(zip(vocabulary.keys_V.tolist(), vocabulary.index_V.tolist(), strict=True))


def xxh64(text: str) -> int:
    value = xxhash.xxh64_intdigest(text.encode())
    return value - 2**64 if value >= 2**63 else value


MOVIE = Columns(label="y", categorical={"movie": IdColumn()})


def test_values_are_numbered_by_falling_frequency(build: Build) -> None:
    schema = build(MOVIE, pl.DataFrame({"movie": [30, 10, 20, 20, 30, 20]}))
    assert numbering(schema, "movie") == {20: 0, 30: 1, 10: 2}
    assert schema.vocabularies["movie"].counts_V.tolist() == [3, 2, 1]
    assert schema.num_ids("movie") == 4  # with the unknown one


def test_values_of_equal_frequency_are_numbered_by_value(build: Build) -> None:
    schema = build(MOVIE, pl.DataFrame({"movie": [30, 10, 20]}))
    assert numbering(schema, "movie") == {10: 0, 20: 1, 30: 2}


def test_a_vocabulary_counts_all_columns_that_share_it(build: Build) -> None:
    columns = Columns(
        label="y",
        categorical={"movie": IdColumn(), "last": IdColumn(vocabulary="movie")},
        lists={"history": ListColumn(vocabulary="movie"), "other": ListColumn()},
    )
    train = pl.DataFrame(
        {
            "movie": [10, 20, 20],
            "last": [30, None, 30],
            "history": [[40, 10], [10], [40, 10]],
            "other": [[10] * 9, [], [1]],
        }
    )
    schema = build(columns, train)
    assert numbering(schema, "movie") == {10: 0, 20: 1, 30: 2, 40: 3}
    assert schema.vocabularies["movie"].counts_V.tolist() == [4, 2, 2, 2]
    assert schema.vocabularies["other"].counts_V.tolist() == [9, 1]
    assert set(schema.vocabularies) == {"movie", "other"}
    assert schema.id_space("history") == schema.id_space("last") == "movie"


def test_min_count_leaves_rare_values_out(build: Build) -> None:
    columns = Columns(label="y", categorical={"movie": IdColumn(min_count=2)})
    schema = build(columns, pl.DataFrame({"movie": [30, 10, 20, 20, 30, 20]}))
    assert numbering(schema, "movie") == {20: 0, 30: 1}


def test_no_value_frequent_enough(build: Build) -> None:
    columns = Columns(label="y", categorical={"movie": IdColumn(min_count=3)})
    rule = "vocabulary 'movie': no value is seen min_count=3 times in training"
    with pytest.raises(RecembError, match=rule):
        build(columns, pl.DataFrame({"movie": [1, 1, 2]}))


def test_padding_is_not_counted(build: Build) -> None:
    columns = Columns(label="y", lists={"h": ListColumn(padding=0)})
    schema = build(columns, pl.DataFrame({"h": [[0, 0, 7], [0]]}))
    assert numbering(schema, "h") == {7: 0}
    assert schema.columns["h"].padding == 0


def test_string_padding_is_kept_as_its_raw_id(build: Build) -> None:
    columns = Columns(label="y", lists={"h": ListColumn(padding="none")})
    schema = build(columns, pl.DataFrame({"h": [["none", "a"], ["none"]]}))
    assert numbering(schema, "h") == {xxh64("a"): 0}
    assert schema.columns["h"].padding == xxh64("none")


def test_only_the_ids_that_max_length_keeps_are_counted(build: Build) -> None:
    columns = Columns(label="y", lists={"h": ListColumn(max_length=2)})
    schema = build(columns, pl.DataFrame({"h": [[1, 2, 3], [1, 1, 1, 3], [4]]}))
    assert schema.vocabularies["h"].counts_V.tolist() == [2, 1, 1, 1]
    assert numbering(schema, "h") == {3: 0, 1: 1, 2: 2, 4: 3}


def test_an_empty_string_is_a_value_in_parquet(build: Build) -> None:
    schema = build(MOVIE, pl.DataFrame({"movie": ["", "", "a"]}))
    assert numbering(schema, "movie") == {xxh64(""): 0, xxh64("a"): 1}
    assert schema.columns["movie"].is_text


def test_a_raw_column_has_no_vocabulary(build: Build) -> None:
    columns = Columns(label="y", categorical={"movie": IdColumn(raw=True)})
    schema = build(columns, pl.DataFrame({"movie": ["a", "b"]}))
    assert schema.vocabularies == {}
    assert schema.columns["movie"].vocabulary is None
    assert schema.columns["movie"].is_text
    assert schema.num_ids("movie") is None


def test_a_schema_survives_its_state(build: Build) -> None:
    columns = Columns(
        label="y",
        categorical={"movie": IdColumn(unknown="hash", num_unknown=3)},
        lists={"h": ListColumn(vocabulary="movie", padding=0)},
        dense={"d": NumberColumn()},
    )
    train = pl.DataFrame({"movie": [1, 2], "h": [[1], []], "d": [1.0, 2.0]})
    about = pl.DataFrame({"movie": [1], "genres": [["a", "b"]]})
    schema = build(columns, train, about, lists={"genres": ListColumn()})
    again = Schema.from_state(schema.state())
    assert same(again.state(), schema.state())
    assert again.columns == schema.columns
    assert again.dense == schema.dense
    other = build(
        columns, train.reverse(), about.with_columns(movie=2), lists={"genres": ListColumn()}
    )
    assert not same(other.state(), schema.state())


# Numbers.


def dense(
    build: Build, values: list[Any], dtype: Any = None, **settings: Any
) -> tuple[float, float]:
    columns = Columns(
        label="y", categorical={"movie": IdColumn()}, dense={"d": NumberColumn(**settings)}
    )
    train = pl.DataFrame({"d": pl.Series(values, dtype=dtype), "movie": [1] * len(values)})
    found = build(columns, train).dense["d"]
    return found.mean, found.scale


def test_mean_and_population_deviation(build: Build) -> None:
    assert dense(build, [2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx((5.0, 2.0), rel=1e-14)


def test_an_unstandardized_column_stays_as_it_is(build: Build) -> None:
    assert dense(build, [2.0, 4.0], standardize=False) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1, 1e6 + 0.1, 123456.789])
def test_a_constant_column_keeps_scale_1(build: Build, value: float) -> None:
    assert dense(build, [value] * 50_003) == (value, 1.0)


def test_booleans_are_numbers(build: Build) -> None:
    assert dense(build, [True, False]) == (0.5, 0.5)


def test_dense_column_of_words(build: Build) -> None:
    rule = r"/train\.parquet: column 'd': values must be numbers, got type String"
    with pytest.raises(RecembError, match=rule):
        dense(build, ["1"])


# Declarations that do not fit.

DECLARATIONS = {
    "column 'a' is declared twice": Columns(
        label="y", categorical={"a": IdColumn()}, lists={"a": ListColumn()}
    ),
    "column 'b' is declared twice": Columns(
        label="y", categorical={"b": IdColumn()}, dense={"b": NumberColumn()}
    ),
    "there must be a categorical or list column, got none": Columns(label="y"),
    "column 'a': vocabulary 'gone' is not a column with": Columns(
        label="y", categorical={"a": IdColumn(vocabulary="gone")}
    ),
    "column 'a': vocabulary 'b' is not a column with": Columns(
        label="y", categorical={"a": IdColumn(vocabulary="b"), "b": IdColumn(raw=True)}
    ),
    "column 'b': vocabulary 'a' is not a column with": Columns(
        label="y",
        categorical={
            "a": IdColumn(vocabulary="c"), "b": IdColumn(vocabulary="a"), "c": IdColumn()
        },
    ),
    "column 'a': raw ids have no vocabulary, got 'b'": Columns(
        label="y", categorical={"a": IdColumn(raw=True, vocabulary="b"), "b": IdColumn()}
    ),
    "column 'a': max_length must be at least 1, got -1": Columns(
        label="y", lists={"a": ListColumn(max_length=-1)}
    ),
    "column 'a': max_length must be at least 1, got 0": Columns(
        label="y", lists={"a": ListColumn(max_length=0)}
    ),
    "column 'a': separator must not be empty, got ''": Columns(
        label="y", lists={"a": ListColumn(separator="")}
    ),
    "column 'a': min_count must be at least 1, got 0": Columns(
        label="y", categorical={"a": IdColumn(min_count=0)}
    ),
    "column 'a': num_unknown must be at least 1, got 0": Columns(
        label="y", categorical={"a": IdColumn(num_unknown=0)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", DECLARATIONS)
def test_declaration_is_refused(rule: str) -> None:
    with pytest.raises(RecembError, match=rule):
        DECLARATIONS[rule].check()


def test_strings_and_integers_share_no_vocabulary(build: Build) -> None:
    columns = Columns(
        label="y", categorical={"movie": IdColumn(), "a": IdColumn(vocabulary="movie")}
    )
    rule = r"/train\.parquet: columns 'a' and 'movie' share a vocabulary, but one holds strings"
    with pytest.raises(RecembError, match=rule):
        build(columns, pl.DataFrame({"movie": [1, 2], "a": ["1", "2"]}))


# Attributes. The movies 20, 10 and 30 have counts 3, 2 and 1, and so indices 0, 1 and 2.

SEEN = pl.DataFrame({"movie": [20, 20, 20, 10, 10, 30]})


def bags_of(schema: Schema, name: str) -> list[list[int]]:
    """Return the attribute's index bags, one per owner index."""
    values = schema.attributes[name].values_M.tolist()
    starts = schema.attributes[name].offsets_V.tolist()
    return [values[a:b] for a, b in pairwise(starts)]


def test_lists_of_owners_ranked_by_the_owners_counts(build: Build) -> None:
    # a: 2 + 1 = 3 (movies 10, 30), b: 2 (movie 10), c: 3 + 1 = 4 (movies 20, 30).
    about = pl.DataFrame({"movie": [30, 10, 20], "genres": [["a", "c"], ["a", "b"], ["c"]]})
    schema = build(MOVIE, SEEN, about, lists={"genres": ListColumn()})
    assert numbering(schema, "genres") == {xxh64("c"): 0, xxh64("a"): 1, xxh64("b"): 2}
    assert schema.vocabularies["genres"].counts_V.tolist() == [4, 3, 2]
    assert bags_of(schema, "genres") == [[0], [1, 2], [1, 0], []]  # 20, 10, 30, unknown
    assert schema.attributes["genres"].owner == "movie"
    assert schema.is_list("genres")
    assert schema.num_ids("genres") == 4


def test_single_values_of_owners(build: Build) -> None:
    about = pl.DataFrame({"movie": [30, 10, 20], "year": [1999, 1999, 2001]})
    schema = build(MOVIE, SEEN, about, categorical={"year": IdColumn()})
    assert numbering(schema, "year") == {1999: 0, 2001: 1}  # 3 each: the smaller first
    assert bags_of(schema, "year") == [[1], [0], [0], [2]]
    assert not schema.is_list("year")


def test_null_single_value_is_unknown(build: Build) -> None:
    about = pl.DataFrame({"movie": [30, 10, 20], "year": [None, 1999, 2001]})
    schema = build(MOVIE, SEEN, about, categorical={"year": IdColumn()})
    assert bags_of(schema, "year") == [[0], [1], [2], [2]]


def test_owners_without_a_row_have_nothing(build: Build) -> None:
    about = pl.DataFrame({"movie": [10], "genres": [["a"]], "year": [1999]})
    schema = build(
        MOVIE, SEEN, about, lists={"genres": ListColumn()}, categorical={"year": IdColumn()}
    )
    assert bags_of(schema, "genres") == [[], [0], [], []]
    assert bags_of(schema, "year") == [[1], [0], [1], [1]]


def test_rows_of_unknown_owners_teach_nothing(build: Build) -> None:
    about = pl.DataFrame({"movie": [99, 10, 20], "genres": [["z", "a"], ["a"], ["a", "b"]]})
    schema = build(MOVIE, SEEN, about, lists={"genres": ListColumn()})
    assert numbering(schema, "genres") == {xxh64("a"): 0, xxh64("b"): 1}
    assert schema.vocabularies["genres"].counts_V.tolist() == [5, 3]
    assert bags_of(schema, "genres") == [[0, 1], [0], [], []]


def test_owners_may_be_strings_and_categoricals(build: Build) -> None:
    train = pl.DataFrame({"movie": ["p", "p", "q"]})
    about = pl.DataFrame({"movie": ["q", "p"], "year": ["new", "old"]}).with_columns(
        pl.all().cast(pl.Categorical)
    )
    schema = build(MOVIE, train, about, categorical={"year": IdColumn()})
    assert numbering(schema, "year") == {xxh64("old"): 0, xxh64("new"): 1}
    assert bags_of(schema, "year") == [[0], [1], [2]]


def test_attribute_settings_apply(build: Build) -> None:
    about = pl.DataFrame({"movie": [10, 20, 30], "tags": [[0, 4], [4, 5, 6], [7]]})
    settings = ListColumn(padding=0, max_length=2, min_count=2)
    schema = build(MOVIE, SEEN, about, lists={"tags": settings})
    assert numbering(schema, "tags") == {5: 0, 6: 1, 4: 2}  # 4 is shortened off movie 20
    assert bags_of(schema, "tags") == [[0, 1], [2], [3], []]


GENRES = {"lists": {"genres": ListColumn()}}
YEAR = {"categorical": {"year": IdColumn()}}

BAD_ATTRIBUTES = {
    "duplicate": (
        {"movie": [10, 20, 30, 20], "year": [1, 2, 3, 4]}, YEAR,
        "column 'movie', row 1: keys must be distinct, got 20",
    ),
    "null key": (
        {"movie": [10, None, 20], "year": [1, 2, 3]}, YEAR,
        "column 'movie', row 1: a key must not be null",
    ),
    "key of another type": (
        {"movie": ["10"], "year": [1]}, YEAR,
        "column 'movie': it shares ids with .*/train.parquet: column 'movie', but one holds str",
    ),
    "negative key": (
        {"movie": [10, 20, -5], "year": [1, 2, 3]}, YEAR,
        "column 'movie', row 2: ids must not be negative, got -5",
    ),
    "key without vocabulary": (
        {"studio": [1], "year": [1]}, {**YEAR, "key": "studio"},
        r"key 'studio' is not a column with a vocabulary, which are \['movie'\]",
    ),
    "missing column": ({"movie": [10], "name": [1]}, YEAR, "column 'year' is missing"),
    "negative value": (
        {"movie": [10, 20, 30], "year": [1, 2, -3]}, YEAR,
        "column 'year', row 2: ids must not be negative, got -3",
    ),
    "negative value in a list": (
        {"movie": [10, 20, 30], "genres": [[1, 2], [], [-3]]}, GENRES,
        "column 'genres', row 2: ids must not be negative, got -3",
    ),
    "null list": (
        {"movie": [10, 20], "genres": [[1], None]}, GENRES,
        "column 'genres', row 1: a list must not be null",
    ),
    "float": ({"movie": [10], "year": [1.5]}, YEAR, "column 'year': ids must be integers or"),
    "list for single": (
        {"movie": [10], "year": [[1]]}, YEAR, "column 'year': values must be single ids, got type"
    ),
    "single for list": (
        {"movie": [10], "genres": [1]}, GENRES, "column 'genres': values must be lists, got type"
    ),
    "unseen value under error": (
        {"movie": [10, 99], "genres": [[1], [1, 2]]},
        {"lists": {"genres": ListColumn(unknown="error")}},
        "column 'genres', row 1: value 2 is of no id seen in training",
    ),
    "owner without a single value under error": (
        {"movie": [10, 20, 30], "year": [1, 2, 3]},
        {"categorical": {"year": IdColumn(unknown="error")}},
        "column 'year': not every id of 'movie' has a row",
    ),
    "padding of another type": (
        {"movie": [10], "genres": [["a"]]}, {"lists": {"genres": ListColumn(padding=0)}},
        "column 'genres': padding must be a string as the ids are, got 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ATTRIBUTES)
def test_bad_attribute_file_is_refused(build: Build, name: str) -> None:
    about, named, rule = BAD_ATTRIBUTES[name]
    with pytest.raises(RecembError, match=rf"/about\.parquet: {rule}"):
        build(MOVIE, SEEN, pl.DataFrame(about), **named)


def test_an_attribute_has_a_name_of_its_own(build: Build) -> None:
    about = pl.DataFrame({"movie": [10]})
    with pytest.raises(RecembError, match="attribute 'movie' is also a column"):
        build(MOVIE, SEEN, about, categorical={"movie": IdColumn()})


def test_missing_attribute_file(build: Build, tmp_path: Path) -> None:
    build(MOVIE, SEEN)
    attributes = AttributeFile(path="gone.parquet", key="movie")
    with pytest.raises(RecembError, match=r"/gone\.parquet: there is no such file"):
        build_schema(TableFile(tmp_path / "train.parquet"), MOVIE, attributes, tmp_path)


def same(left: object, right: object) -> bool:
    """Compare nested values that hold tensors."""
    if isinstance(left, Tensor):
        return isinstance(right, Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return (
            isinstance(right, dict)
            and list(left) == list(right)
            and all(same(left[key], right[key]) for key in left)
        )
    if isinstance(left, list | tuple):
        return (
            isinstance(right, list | tuple)
            and len(left) == len(right)
            and all(same(a, b) for a, b in zip(left, right, strict=True))
        )
    return left == right


def test_lists_are_measured_as_they_are_read(build: Build) -> None:
    columns = Columns(
        label="y",
        categorical={"movie": IdColumn()},
        lists={
            "seen": ListColumn(vocabulary="movie", max_length=3, padding=0),
            "raw": ListColumn(raw=True),
        },
    )
    seen = [[1, 2, 3, 4, 5], [0, 1], [], [2, 0, 3]]  # 3, 1, 0 and 2 without padding
    raw = [[7], [8, 9], [], []]
    schema = build(columns, pl.DataFrame({"movie": [1, 2, 3, 4], "seen": seen, "raw": raw}))
    lengths = {name: column.mean_length for name, column in schema.columns.items()}
    assert lengths == {"movie": 1.0, "seen": 1.5, "raw": 0.75}
    again = Schema.from_state(schema.state())
    assert again.columns == schema.columns


def test_values_of_an_attribute_are_counted_per_owner(build: Build) -> None:
    about = pl.DataFrame({"movie": [1, 2], "genres": [[1, 2, 3], [1]]})
    schema = build(MOVIE, pl.DataFrame({"movie": [1, 2, 1]}), about, lists={"genres": ListColumn()})
    # Two movies and the unknown one, which has none.
    assert schema.attributes["genres"].mean_length == 4 / 3
