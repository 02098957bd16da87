"""Encoding: what a good file becomes, and the file, column and row that a bad value is named by.

Bad values stand in the second row group, whose rows are counted on from those of the first.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import xxhash

from recemb.data import encode
from recemb.data.chunk import Chunk
from recemb.data.columns import Columns, IdColumn, ListColumn, NumberColumn
from recemb.data.encode import Encoder
from recemb.data.files import TableFile
from recemb.data.schema import build_schema
from recemb.errors import RecembError

LABELS = [0, 1, 1]
"""Every file here has row groups of three rows."""

Encode = Callable[..., list[Chunk]]


def xxh64(text: str) -> int:
    """Return a string's raw id by the hash's own library: two's complement of 64 bits."""
    return int(np.uint64(xxhash.xxh64_intdigest(text.encode())).astype(np.int64))


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Encode:
    """Return a function that learns from one file and encodes the row groups of another."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))

    def run(columns: Columns, train: pl.DataFrame | str, then: pl.DataFrame | None = None) -> Any:
        if isinstance(train, str):
            path = tmp_path / "train.csv"
            path.write_text(train)
        else:
            path = tmp_path / "train.parquet"
            train.write_parquet(path)
        schema = build_schema(TableFile(path), columns, None, tmp_path)
        if then is not None:
            path = tmp_path / "then.parquet"
            then.write_parquet(path, row_group_size=3)
        file, encoder = TableFile(path), Encoder(path, columns, schema)
        file.require(encoder.file_columns)
        return [
            encoder.encode(file.read(group, encoder.file_columns), file.first_row(group))
            for group in range(len(file.group_sizes))
        ]

    return run


def with_label(**columns: Any) -> pl.DataFrame:
    frame = pl.DataFrame(columns)
    return frame.with_columns(y=pl.Series([0, 1] * len(frame))[: len(frame)])


def scalar(**settings: Any) -> Columns:
    return Columns(label="y", categorical={"a": IdColumn(**settings)})


def bags(**settings: Any) -> Columns:
    return Columns(label="y", lists={"a": ListColumn(**settings)})


def lists_of(chunk: Chunk) -> list[list[int]]:
    """Return a chunk's only list column as lists, sliced by offsets in plain Python."""
    values, offsets = chunk.lists[0].values.tolist(), chunk.lists[0].offsets.tolist()
    return [values[a:b] for a, b in pairwise(offsets)]


INTEGERS = with_label(a=[5, 5, 9])
STRINGS = with_label(a=["x", "x", "y"])
INTEGER_LISTS = with_label(a=[[5, 5], [9], []])
STRING_LISTS = with_label(a=[["x", "x"], ["y"], []])

# Scalar ids: index 0 is 5 or "x" (the more frequent), 1 is 9 or "y", 2 the unknown.


def test_ids_become_indices_by_falling_frequency(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), with_label(a=[7, 5, 9, 5, 9, 5]))
    assert chunk.ids_SN.tolist() == [[2, 0, 1, 0, 1, 0]]
    assert chunk.label_N.tolist() == [0, 1, 0, 1, 0, 1]
    assert chunk.label_N.dtype == chunk.dense_NK.dtype == torch.float32
    assert chunk.dense_NK.shape == (6, 0)


def test_a_null_id_is_unknown(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), INTEGERS, with_label(a=[None, 9, 5]))
    assert chunk.ids_SN.tolist() == [[2, 1, 0]]


def test_a_null_id_is_not_the_id_0(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), with_label(a=[0, 0, 9]), with_label(a=[None, 0, 9]))
    assert chunk.ids_SN.tolist() == [[2, 0, 1]]


def test_strings_whose_raw_ids_are_all_negative(encoded: Encode) -> None:
    assert xxh64("") < 0
    (chunk,) = encoded(scalar(), with_label(a=["", ""]), with_label(a=["", "x", None]))
    assert chunk.ids_SN.tolist() == [[0, 1, 1]]


def test_a_null_string_is_unknown(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), STRINGS, with_label(a=["y", None, "x"]))
    assert chunk.ids_SN.tolist() == [[1, 2, 0]]


def test_a_column_of_nulls_alone_is_unknown(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), INTEGERS, with_label(a=[None, None, None]))
    assert chunk.ids_SN.tolist() == [[2, 2, 2]]


def test_nulls_in_training_are_no_value(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), with_label(a=[None, None, None, 5, 5, 9]))
    assert chunk.ids_SN.tolist() == [[2, 2, 2, 0, 0, 1]]


def test_ids_between_below_and_above_the_known_ones_are_unknown(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(), INTEGERS, with_label(a=[0, 7, 2**63 - 1]))
    assert chunk.ids_SN.tolist() == [[2, 2, 2]]
    (chunk,) = encoded(scalar(), INTEGERS, with_label(a=[10, 11, 5]))
    assert chunk.ids_SN.tolist() == [[2, 2, 0]]


def test_unknown_ids_are_spread_under_hash(encoded: Encode) -> None:
    columns = scalar(unknown="hash", num_unknown=50)
    many = with_label(a=[*range(100, 397), 5, 9, None])
    found = torch.cat([chunk.ids_SN[0] for chunk in encoded(columns, INTEGERS, many)])
    assert found[-3:-1].tolist() == [0, 1]
    unknown = found[:-3]
    assert unknown.min() >= 2
    assert unknown.max() <= 51
    assert len(unknown.unique()) > 40  # 50 buckets, 297 ids


WIDTHS = [pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64]


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
def test_integers_of_every_width_are_the_same_ids(encoded: Encode, dtype: pl.DataType) -> None:
    narrow = with_label(a=pl.Series([9, 5, 1], dtype=dtype))
    assert encoded(scalar(), INTEGERS, narrow)[0].ids_SN.tolist() == [[1, 0, 2]]
    assert encoded(scalar(), narrow)[0].ids_SN.tolist() == [[2, 1, 0]]  # ties: by value


def test_booleans_are_the_ids_0_and_1(encoded: Encode) -> None:
    train = with_label(a=[True, True, False])
    assert encoded(scalar(), train)[0].ids_SN.tolist() == [[0, 0, 1]]
    assert encoded(scalar(), train, with_label(a=[0, 1, 2]))[0].ids_SN.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["y", "x"])], ids=["cat", "enum"])
def test_categoricals_and_enums_equal_their_strings(encoded: Encode, dtype: pl.DataType) -> None:
    typed = STRINGS.with_columns(pl.col("a").cast(dtype))
    assert encoded(scalar(), STRINGS, typed)[0].ids_SN.tolist() == [[0, 0, 1]]
    assert encoded(scalar(), typed, STRINGS)[0].ids_SN.tolist() == [[0, 0, 1]]
    assert encoded(scalar(), typed)[0].ids_SN.tolist() == [[0, 0, 1]]


def test_raw_integers_are_their_own_ids(encoded: Encode) -> None:
    (chunk,) = encoded(scalar(raw=True), with_label(a=[2**63 - 1, 0, 12]))
    assert chunk.ids_SN.tolist() == [[2**63 - 1, 0, 12]]


def test_raw_strings_are_their_xxhash64(encoded: Encode) -> None:
    words = ["recemb", "", "Stra\u00dfe"]
    (chunk,) = encoded(scalar(raw=True), with_label(a=words))
    assert chunk.ids_SN.tolist() == [[xxh64(word) for word in words]]
    assert chunk.ids_SN[0, 0] == 4507007849746645998  # published in recemb/hashing.py
    assert chunk.ids_SN[0, 1] == -1205034819632174695  # xxHash64 of nothing: ef46db3751d8e999


def test_raw_lists_of_strings_are_their_xxhash64(encoded: Encode) -> None:
    (chunk,) = encoded(bags(raw=True), STRING_LISTS)
    assert lists_of(chunk) == [[xxh64("x")] * 2, [xxh64("y")], []]


def test_raw_and_numbered_columns_stand_side_by_side(encoded: Encode) -> None:
    columns = Columns(label="y", categorical={"a": IdColumn(), "b": IdColumn(raw=True)})
    (chunk,) = encoded(columns, with_label(a=[5, 9, 5], b=[2**40, 1, 2]))
    assert chunk.ids_SN.tolist() == [[0, 1, 0], [2**40, 1, 2]]


def test_features_read_the_file_columns_that_they_name(encoded: Encode) -> None:
    columns = Columns(
        label="y",
        categorical={"first": IdColumn(column="a"), "again": IdColumn(column="a", raw=True)},
        dense={"number": NumberColumn(column="a")},
    )
    (chunk,) = encoded(columns, INTEGERS)
    assert chunk.ids_SN.tolist() == [[0, 0, 1], [5, 5, 9]]
    assert chunk.dense_NK.tolist() == [[5.0], [5.0], [9.0]]


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["searched", "table"])
@pytest.mark.parametrize("unknown", ["own", "hash"])
def test_the_two_ways_to_look_up_agree(
    encoded: Encode, monkeypatch: pytest.MonkeyPatch, limit: int, unknown: str
) -> None:
    monkeypatch.setattr(encode, "DIRECT_KEYS", limit)
    train = with_label(a=[1000, 1000, 7])  # 1000 > 4 keys: no table where the limit is 0
    other = with_label(a=[7, 1000, 8, 999, 1001, 5000, 0, None, 1000])
    chunks = encoded(scalar(unknown=unknown), train, other)
    found = torch.cat([chunk.ids_SN[0] for chunk in chunks])
    assert found.tolist() == [1, 0, 2, 2, 2, 2, 2, 2, 0]


# Lists.


def test_lists_keep_their_order_and_may_be_empty(encoded: Encode) -> None:
    lists = [[], [9, 5], []]
    (chunk,) = encoded(bags(), INTEGER_LISTS, with_label(a=lists))
    assert lists_of(chunk) == [[], [1, 0], []]
    assert chunk.lists[0].offsets.tolist() == [0, 0, 2, 2]


def test_a_row_group_of_empty_lists(encoded: Encode) -> None:
    empty = with_label(a=pl.Series([[], [], []], dtype=pl.List(pl.Int64)))
    (chunk,) = encoded(bags(), INTEGER_LISTS, empty)
    assert lists_of(chunk) == [[], [], []]


def test_fixed_size_lists_are_lists(encoded: Encode) -> None:
    fixed = with_label(a=pl.Series([[5, 5], [5, 9], [9, 9]], dtype=pl.Array(pl.Int32, 2)))
    assert lists_of(encoded(bags(), fixed)[0]) == [[0, 0], [0, 1], [1, 1]]
    assert lists_of(encoded(bags(max_length=1), fixed)[0]) == [[1], [0], [0]]


def test_integer_padding_is_dropped(encoded: Encode) -> None:
    (chunk,) = encoded(bags(padding=0), with_label(a=[[0, 5, 0, 5], [9, 0], [0]]))
    assert lists_of(chunk) == [[0, 0], [1], []]


def test_string_padding_is_dropped(encoded: Encode) -> None:
    (chunk,) = encoded(bags(padding="-"), with_label(a=[["-", "x", "x"], ["y", "-"], ["-"]]))
    assert lists_of(chunk) == [[0, 0], [1], []]


def test_negative_padding_is_no_negative_id(encoded: Encode) -> None:
    (chunk,) = encoded(bags(padding=-1), with_label(a=[[-1, 5, 5], [9, -1], [-1]]))
    assert lists_of(chunk) == [[0, 0], [1], []]


def test_max_length_keeps_the_last_ids(encoded: Encode) -> None:
    other = with_label(a=[[5, 9, 9, 5], [9], []])
    (chunk,) = encoded(bags(max_length=2), INTEGER_LISTS, other)
    assert lists_of(chunk) == [[1, 0], [1], []]


def test_padding_does_not_use_up_max_length(encoded: Encode) -> None:
    # In training too: 5 must be counted, though the last two places of its list are padding.
    (chunk,) = encoded(bags(padding=0, max_length=2), with_label(a=[[9, 5, 5, 0, 0], [9], [0]]))
    assert lists_of(chunk) == [[0, 0], [1], []]


def test_csv_lists_of_integers(encoded: Encode) -> None:
    (chunk,) = encoded(bags(), "a,y\n5|9|5,0\n,1\n9,1\n5|5,0\n")
    assert lists_of(chunk) == [[0, 1, 0], [], [1], [0, 0]]


def test_csv_lists_with_an_id_that_no_integer_is_written_as_are_of_strings(encoded: Encode) -> None:
    # 5 comes three times, 9 twice, 005 once.
    (chunk,) = encoded(bags(), "a,y\n5|9|5,0\n,1\n9,1\n005|5,0\n")
    assert lists_of(chunk) == [[0, 1, 0], [], [1], [2, 0]]
    (chunk,) = encoded(bags(), f"a,y\n5|9|5,0\n,1\n9,1\n{2**63}|5,0\n")
    assert lists_of(chunk) == [[0, 1, 0], [], [1], [2, 0]]


def test_csv_lists_of_strings(encoded: Encode) -> None:
    (chunk,) = encoded(bags(separator=";"), "a,y\nx;y;x,0\n,1\ny;x,1\n")
    assert lists_of(chunk) == [[0, 1, 0], [], [1, 0]]


def test_csv_lists_of_one_id_at_most(encoded: Encode) -> None:
    (chunk,) = encoded(bags(), "a,y\n5,0\n,1\n9,1\n5,1\n")
    assert lists_of(chunk) == [[0], [], [1], [0]]


def test_csv_lists_with_padding_and_max_length(encoded: Encode) -> None:
    columns = bags(padding=0, max_length=1)
    assert lists_of(encoded(columns, "a,y\n9|5|0,0\n0,1\n5|0|0,1\n9,1\n")[0]) == [[0], [], [0], [1]]


# Bad values: each in row 4 of a file of two row groups, the rows 0 to 3 and 5 being good.


def bad(good: Any, wrong: Any, dtype: Any = None) -> pl.DataFrame:
    """Return six rows of column ``a`` that are ``good`` but for row 4."""
    rows = pl.Series([good, good, good, good, wrong, good], dtype=dtype, strict=False)
    return with_label(a=rows)


BAD_IDS = {
    "negative": (INTEGERS, scalar(), bad(5, -3), "row 4: ids must not be negative, got -3"),
    "negative raw": (
        INTEGERS, scalar(raw=True), bad(5, -3), "row 4: ids must not be negative, got -3"
    ),
    "above int64": (
        INTEGERS, scalar(), bad(5, 2**63, pl.UInt64),
        r"row 4: ids must be below 2\^63, got 9223372036854775808",
    ),
    "unknown": (
        INTEGERS, scalar(unknown="error"), bad(5, 7),
        "row 4: value 7 is not in the training data; set unknown to",
    ),
    "null where unknown is an error": (
        INTEGERS, scalar(unknown="error"), bad(5, None), "row 4: value None is not in the training"
    ),
    "unknown string": (
        STRINGS, scalar(unknown="error"), bad("x", "z"),
        "row 4: value 'z' is not in the training data",
    ),
    "negative in a list": (
        INTEGER_LISTS, bags(), bad([5, 9], [5, -3]), "row 4: ids must not be negative, got -3"
    ),
    "unknown in a list": (
        INTEGER_LISTS, bags(unknown="error"), bad([5, 9], [9, 9, 7]),
        "row 4: value 7 is not in the training data",
    ),
    "unknown string in a list": (
        STRING_LISTS, bags(unknown="error"), bad(["x"], ["y", "z"]),
        "row 4: value 'z' is not in the training data",
    ),
    "unknown after shortening": (
        INTEGER_LISTS, bags(unknown="error", max_length=1, padding=0), bad([7, 5], [5, 7, 0]),
        "row 4: value 7 is not in the training data",
    ),
    "null list": (INTEGER_LISTS, bags(), bad([5], None), "row 4: a list must not be null"),
    "null in a list": (
        INTEGER_LISTS, bags(), bad([5], [9, None]),
        r"row 4: a list must not hold nulls, got \[9, None\]",
    ),
    "null in a list of strings": (
        STRING_LISTS, bags(), bad(["x"], [None, "y"]), "row 4: a list must not hold nulls, got"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_IDS)
def test_bad_id_is_named_by_file_column_and_row(encoded: Encode, name: str) -> None:
    train, columns, then, rule = BAD_IDS[name]
    with pytest.raises(RecembError, match=rf"/then\.parquet: column 'a', {rule}"):
        encoded(columns, train, then)


def test_the_error_names_the_column_of_the_file(encoded: Encode) -> None:
    columns = Columns(label="y", categorical={"feature": IdColumn(column="a")})
    with pytest.raises(RecembError, match=r"/then\.parquet: column 'a', row 4: "):
        encoded(columns, INTEGERS, bad(5, -3))


def test_row_of_a_bad_id_counts_empty_lists(encoded: Encode) -> None:
    then = with_label(a=[[], [5], [], [], [5, -1], [-1]])
    with pytest.raises(RecembError, match=r"/then\.parquet: column 'a', row 4: .* got -1"):
        encoded(bags(), INTEGER_LISTS, then)


WRONG_TYPES = {
    "floats": (
        INTEGERS, scalar(), with_label(a=[5.0]),
        "ids must be integers or strings, got type Float64",
    ),
    "strings for integers": (
        INTEGERS, scalar(), STRINGS, "ids must be integers as in training, got type String"
    ),
    "integers for strings": (
        STRINGS, scalar(), INTEGERS, "ids must be strings as in training, got type Int64"
    ),
    "list for scalar": (
        INTEGERS, scalar(), INTEGER_LISTS, r"ids must be integers or strings, got type List\("
    ),
    "scalar for list": (
        INTEGER_LISTS, bags(), INTEGERS, "values must be lists, got type Int64; declare it categ"
    ),
    "strings for lists of integers": (
        INTEGER_LISTS, bags(padding=0), STRING_LISTS, "ids must be integers as in training"
    ),
    "integers for lists of strings": (
        STRING_LISTS, bags(padding="-"), INTEGER_LISTS, "ids must be strings as in training"
    ),
    "lists of floats": (
        INTEGER_LISTS, bags(padding=0), with_label(a=[[5.0]]), "ids must be integers or strings"
    ),
    "lists of lists": (INTEGER_LISTS, bags(), with_label(a=[[[5]]]), "lists must hold ids, got"),
    "words for integers in text": (
        INTEGER_LISTS, bags(), with_label(a=["5|x"]),
        "ids must be integers as in training, got 'x'; declare type: string if",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_wrong_type_is_named_by_file_and_column(encoded: Encode, name: str) -> None:
    train, columns, then, rule = WRONG_TYPES[name]
    row = ", row 0" if "text" in name else ""
    with pytest.raises(RecembError, match=rf"/then\.parquet: column 'a'{row}: {rule}"):
        encoded(columns, train, then)


WRONG_TRAINING = {
    "floats": (scalar(), with_label(a=[5.0]), "ids must be integers or strings, got type Float64"),
    "list for scalar": (scalar(), INTEGER_LISTS, "values must be single ids, got type List"),
    "scalar for list": (bags(), INTEGERS, "values must be lists, got type Int64"),
    "string padding": (bags(padding="0"), INTEGER_LISTS, "padding must be an integer as the ids"),
    "integer padding": (bags(padding=0), STRING_LISTS, "padding must be a string as the ids are"),
    "lists of lists": (bags(), with_label(a=[[["x"]]]), "ids must be integers or strings, got"),
    "above int64": (
        scalar(), with_label(a=pl.Series([5, 2**63], dtype=pl.UInt64)),
        r"ids must be below 2\^63, got 9223372036854775808",
    ),
    "negative": (scalar(), with_label(a=[5, -1]), "ids must not be negative, got -1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_TRAINING)
def test_bad_training_column_is_named(encoded: Encode, name: str) -> None:
    columns, train, rule = WRONG_TRAINING[name]
    row = ", row 1" if name in ("above int64", "negative") else ""
    with pytest.raises(RecembError, match=rf"/train\.parquet: column 'a'{row}: {rule}"):
        encoded(columns, train)


HOLE = r"a list must have an id before and after each '\|', got"
BAD_CSV_LISTS = {
    "negative": ("a,y\n5|9,0\n,1\n9|-5,1\n", "ids must not be negative, got -5"),
    "hole": ("a,y\n5|9,0\n,1\n9||5,1\n", rf"{HOLE} '9\|\|5'"),
    "hole at the end": ("a,y\n5|9,0\n,1\n9|,1\n", rf"{HOLE} '9\|'"),
    "hole among words": ("a,y\np5|p9,0\n,1\np5|,1\n", rf"{HOLE} 'p5\|'"),
    "nothing but a separator": ("a,y\np5|p9,0\n,1\n|,1\n", rf"{HOLE} '\|'"),
}


@pytest.mark.parametrize("name", BAD_CSV_LISTS)
def test_bad_id_in_a_csv_list_is_named_by_line(encoded: Encode, name: str) -> None:
    text, rule = BAD_CSV_LISTS[name]
    with pytest.raises(RecembError, match=rf"/train\.csv: column 'a', line 4: {rule}"):
        encoded(bags(), text)


@pytest.mark.parametrize("missing", ["a", "b", "y"])
def test_missing_column_is_named(encoded: Encode, missing: str) -> None:
    columns = Columns(label="y", categorical={"a": IdColumn()}, dense={"b": NumberColumn()})
    whole = with_label(a=[5], b=[1.0])
    with pytest.raises(RecembError, match=rf"/train\.parquet: column '{missing}' is missing"):
        encoded(columns, whole.drop(missing))
    with pytest.raises(RecembError, match=rf"/then\.parquet: column '{missing}' is missing"):
        encoded(columns, whole, whole.drop(missing))


# Numbers and labels.

NUMBER = Columns(label="y", categorical={"a": IdColumn()}, dense={"number": NumberColumn()})


def numbers(*values: Any, dtype: Any = None) -> pl.DataFrame:
    rows = pl.Series("number", values, dtype=dtype, strict=False)
    return with_label(a=[5] * len(rows)).with_columns(rows)


def test_numbers_of_any_type_are_float32(encoded: Encode) -> None:
    for rows in (numbers(1, -2, 3), numbers(1.0, -2.0, 3.0), numbers(1, -2, 3, dtype=pl.Int8)):
        (chunk,) = encoded(NUMBER, rows)
        assert chunk.dense_NK.tolist() == [[1.0], [-2.0], [3.0]]
        assert chunk.dense_NK.dtype == torch.float32


def test_booleans_are_the_numbers_0_and_1(encoded: Encode) -> None:
    (chunk,) = encoded(NUMBER, numbers(True, False, True))
    assert chunk.dense_NK.tolist() == [[1.0], [0.0], [1.0]]


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (float("nan"), "a number must be finite in float32, got nan"),
        (float("inf"), "a number must be finite in float32, got inf"),
        (float("-inf"), "a number must be finite in float32, got -inf"),
        (1e39, r"a number must be finite in float32, got 1e\+39"),
        (None, "a number must not be null; fill it, got None"),
    ],
)
def test_bad_number_is_named_by_row(encoded: Encode, wrong: Any, rule: str) -> None:
    then = numbers(0.5, 0.5, 0.5, 0.5, wrong, 0.5)
    with pytest.raises(RecembError, match=rf"/then\.parquet: column 'number', row 4: {rule}"):
        encoded(NUMBER, numbers(1.0, 2.0), then)


def test_words_are_no_numbers(encoded: Encode) -> None:
    rule = "column 'number': values must be numbers, got type String"
    with pytest.raises(RecembError, match=rf"/train\.parquet: {rule}"):
        encoded(NUMBER, numbers("x"))
    with pytest.raises(RecembError, match=rf"/then\.parquet: {rule}"):
        encoded(NUMBER, numbers(1.0), numbers("x"))


@pytest.mark.parametrize(
    "values",
    [LABELS, [0.0, 1.0, 1.0], [False, True, True], pl.Series(LABELS, dtype=pl.UInt8)],
    ids=["int", "float", "bool", "uint8"],
)
def test_labels_of_any_type_are_0_and_1(encoded: Encode, values: Any) -> None:
    (chunk,) = encoded(scalar(), pl.DataFrame({"a": [5, 5, 9], "y": values}))
    assert chunk.label_N.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("wrong", [2, -1, 0.5, None, float("nan"), 1 - 1e-9, 1e-60])
def test_bad_label_is_named_by_row(encoded: Encode, wrong: Any) -> None:
    labels = pl.Series([0, 1, 1, 0, wrong, 1], strict=False)
    then = pl.DataFrame({"a": [5] * 6, "y": labels})
    rule = f"a label must be 0 or 1, got {labels[4]}"
    with pytest.raises(RecembError, match=rf"/then\.parquet: column 'y', row 4: {rule}"):
        encoded(scalar(), INTEGERS, then)


def test_words_are_no_labels(encoded: Encode) -> None:
    rule = r"/train\.parquet: column 'y': labels must be numbers, got type String"
    with pytest.raises(RecembError, match=rule):
        encoded(scalar(), pl.DataFrame({"a": [5], "y": ["1"]}))


def test_a_label_may_be_a_number(encoded: Encode) -> None:
    columns = Columns(label="y", label_type="number", categorical={"a": IdColumn()})
    rows = pl.DataFrame({"a": [1, 1, 2], "y": [0.5, -2.0, 5.0]})
    (chunk,) = encoded(columns, rows)
    assert chunk.label_N.tolist() == [0.5, -2.0, 5.0]
    with pytest.raises(RecembError, match=r"column 'y', row 0: a label must be 0 or 1, got 0\.5"):
        encoded(Columns(label="y", categorical={"a": IdColumn()}), rows)
    broken = rows.with_columns(y=pl.Series([1.0, None, 2.0]))
    with pytest.raises(RecembError, match=r"column 'y', row 1: .* got "):
        encoded(columns, broken)
