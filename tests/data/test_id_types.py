"""What ids are is decided once over all files of a data set: expected ids are worked out by hand.

In all of these ``y`` is the label; an index is the rank of an id by its count in training, and the
number of known ids is that of the unknown one.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xxhash

from recemb.data.columns import AttributeFile, IdColumn, ListColumn, NumberColumn
from recemb.data.tabular import Tabular
from recemb.errors import RecembError
from recemb.jagged import split_keyed

A = {"a": IdColumn()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def tabular(folder: Path, files: dict[str, str | pl.DataFrame], **settings: Any) -> Tabular:
    """Write files, CSV by their lines or parquet, and return the data module of them."""
    names = {}
    for stage, content in files.items():
        if isinstance(content, str):
            names[stage] = f"{stage}.csv"
            (folder / names[stage]).write_text(content)
        else:
            names[stage] = f"{stage}.parquet"
            content.write_parquet(folder / names[stage])
    names.pop("about", None)
    names.setdefault("validation", names["train"])
    names.setdefault("test", names["train"])
    return Tabular(folder=str(folder), label="y", **{"categorical": A, **names, **settings})


def ids(data: Tabular, stage: str, name: str = "a") -> list[int]:
    (batch,) = data.loader(stage)
    return split_keyed(batch.ids)[name].values.tolist()


def xxh64(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode())


def rule(data: Tabular) -> str:
    with pytest.raises(RecembError) as error:
        data.setup("fit")
    return str(error.value)


def in_order(data: Tabular) -> Tabular:
    data.shuffle_rows = 0
    return data


# One type over all files.


def test_ids_that_differ_in_their_text_are_different_ids(folder: Path) -> None:
    cells = ["00007", "7", "7", "+7", "7.0", "00007", "7", "+7", "+7", "+7"]
    train = "a,y\n" + "".join(f"{cell},1\n" for cell in cells)
    data = in_order(tabular(folder, {"train": train}))
    # +7 comes four times, 7 three times, 00007 twice, 7.0 once.
    assert ids(data, "train") == [2, 1, 1, 0, 3, 2, 1, 0, 0, 0]
    assert data.schema.vocabularies["a"].counts_V.tolist() == [4, 3, 2, 1]


def test_a_late_word_makes_all_files_strings(folder: Path) -> None:
    train = "a,y\n" + "".join(f"{row % 50},{row % 2}\n" for row in range(20_000)) + "X1,1\n"
    data = tabular(folder, {"train": train, "validation": "a,y\n3,0\nX1,1\n99,0\n"})
    data.setup("fit")
    vocabulary = data.schema.vocabularies["a"]
    assert vocabulary.is_text
    assert vocabulary.num_known == 51
    three, word, other = ids(data, "validation")
    assert vocabulary.values(pl.Series([three, word]).to_torch()).to_list() == ["3", "X1"]
    assert (word, other) == (50, 51)


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_a_word_in_another_file_makes_training_strings(folder: Path, stage: str) -> None:
    data = tabular(folder, {"train": "a,y\n7,0\n7,1\n8,1\n", stage: "a,y\nX1,0\n8,1\n7,1\n"})
    data.setup("fit")
    assert data.schema.vocabularies["a"].is_text
    assert ids(data, stage) == [2, 1, 0]


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_an_empty_column_of_a_file_says_nothing(folder: Path, stage: str) -> None:
    for train, is_text in (("a,y\n7,0\n8,1\n7,1\n", False), ("a,y\np,0\nq,1\np,1\n", True)):
        data = tabular(folder, {"train": train, stage: "a,y\n,0\n,1\n"})
        data.setup("fit")
        assert data.schema.vocabularies["a"].is_text is is_text
        assert ids(data, stage) == [2, 2]


def test_integers_stay_integers(folder: Path) -> None:
    data = in_order(tabular(folder, {"train": f"a,y\n7,0\n{2**63 - 1},1\n7,1\n,0\n"}))
    assert data.schema.vocabularies["a"].keys_V.tolist() == [7, 2**63 - 1]
    assert ids(data, "train") == [0, 1, 0, 2]


def test_ids_above_int64_are_strings(folder: Path) -> None:
    data = in_order(tabular(folder, {"train": f"a,y\n{2**63},0\n{2**63},1\n5,1\n"}))
    assert ids(data, "train") == [0, 0, 1]
    raw = in_order(
        tabular(folder, {"train": f"a,y\n{2**64},0\n5,1\n"}, categorical={"a": IdColumn(raw=True)})
    )
    assert [one % 2**64 for one in ids(raw, "train")] == [xxh64(str(2**64)), xxh64("5")]


def test_columns_of_one_numbering_are_decided_together(folder: Path) -> None:
    # The lists hold the integers 7 and 8 alone, but the items have X1 among them.
    files = {"train": "a,h,y\n7,7|8,0\nX1,,1\n7,7,1\n"}
    data = in_order(tabular(folder, files, lists={"h": ListColumn(vocabulary="a")}))
    assert data.schema.columns["h"].is_text
    assert ids(data, "train") == [0, 2, 0]
    assert ids(data, "train", "h") == [0, 1, 0]


@pytest.mark.parametrize("item", ["p", "7"])
def test_a_list_that_is_empty_in_all_rows_of_training_says_nothing(folder: Path, item: str) -> None:
    for cells in (",,", "|".join([item] * 2)):
        files = {
            "train": f"a,h,y\n{item},,0\n{item},,1\n",
            "validation": f"a,h,y\n{item},{item},0\n{item},{cells.strip(',')},1\n",
        }
        data = tabular(folder, files, lists={"h": ListColumn(vocabulary="a")})
        data.setup("fit")
        assert data.schema.columns["h"].is_text is (item == "p")
        assert set(ids(data, "validation", "h")) == {0}


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Float64, pl.Null])
@pytest.mark.parametrize("ids_of_training", [[7, 7, 8], ["x", "x", "z"]])
def test_an_empty_column_of_parquet_says_nothing(
    folder: Path, dtype: Any, ids_of_training: list
) -> None:
    files = {
        "train": pl.DataFrame({"a": ids_of_training, "y": [0, 1, 1]}),
        "validation": pl.DataFrame({"a": pl.Series([None, None], dtype=dtype), "y": [0, 1]}),
    }
    data = tabular(folder, files)
    data.setup("fit")
    assert data.schema.columns["a"].is_text is isinstance(ids_of_training[0], str)
    assert ids(data, "validation") == [2, 2]


def test_empty_lists_of_a_typed_column_say_nothing(folder: Path) -> None:
    empty = pl.Series([[], []], dtype=pl.List(pl.Int64))
    files = {
        "train": pl.DataFrame({"a": ["x", "z"], "h": empty, "y": [0, 1]}),
        "validation": pl.DataFrame({"a": ["x", "z"], "h": [["z"], ["z", "q"]], "y": [0, 1]}),
    }
    data = in_order(tabular(folder, files, lists={"h": ListColumn(vocabulary="a")}))
    assert data.schema.columns["h"].is_text
    first = ids(data, "train")
    assert ids(data, "validation", "h") == [first[1], first[1], 2]


def test_categories_are_read_by_their_text(folder: Path) -> None:
    # The codes of the categories are 0, 1 and 2.
    cells = pl.Series(["9", "8", "8"]).cast(pl.Categorical)
    files = {"train": pl.DataFrame({"a": cells, "h": [[one] for one in cells], "y": [0, 1, 1]})}
    files["train"] = files["train"].with_columns(pl.col("h").cast(pl.List(pl.Categorical)))
    own = {
        "categorical": {"a": IdColumn(type="integer")},
        "lists": {"h": ListColumn(vocabulary="a")},
    }
    data = in_order(tabular(folder, files, **own))
    assert data.schema.vocabularies["a"].keys_V.tolist() == [8, 9]
    assert ids(data, "train") == ids(data, "train", "h") == [1, 0, 0]


def test_tokens_that_look_like_numbers_are_text(folder: Path) -> None:
    data = in_order(tabular(folder, {"train": "a,y\n12e34,0\n12e34,1\n1200e32,1\n"}))
    assert ids(data, "train") == [0, 0, 1]


# Declared types.


def test_a_declared_string_keeps_the_text_of_integers(folder: Path) -> None:
    declared = {"a": IdColumn(type="string", raw=True)}
    for train in ("a,y\n7,0\n8,1\n", pl.DataFrame({"a": [7, 8], "y": [0, 1]})):
        data = in_order(tabular(folder, {"train": train}, categorical=declared))
        assert [one % 2**64 for one in ids(data, "train")] == [xxh64("7"), xxh64("8")]


def test_a_declared_string_joins_files_of_both_types(folder: Path) -> None:
    files = {
        "train": pl.DataFrame({"a": [7, 7, 8], "y": [0, 1, 1]}),
        "validation": pl.DataFrame({"a": ["8", "X", "7"], "y": [0, 1, 1]}),
    }
    expected = "it shares ids with"
    assert expected in rule(tabular(folder, files))
    data = tabular(folder, files, categorical={"a": IdColumn(type="string")})
    data.setup("fit")
    assert ids(data, "validation") == [1, 2, 0]


def test_a_declared_integer_reads_text_as_numbers(folder: Path) -> None:
    declared = {"a": IdColumn(type="integer")}
    files = {
        "train": "a,y\n007,0\n7,1\n8,1\n",
        "test": pl.DataFrame({"a": ["7", "08"], "y": [0, 1]}),
    }
    data = in_order(tabular(folder, files, categorical=declared))
    assert data.schema.vocabularies["a"].keys_V.tolist() == [7, 8]
    assert ids(data, "train") == [0, 0, 1]
    assert ids(data, "test") == [0, 1]


@pytest.mark.parametrize("cell", ["X1", "7.0", "9223372036854775808"])
def test_a_declared_integer_that_is_none_is_refused_by_line(folder: Path, cell: str) -> None:
    declared = {"a": IdColumn(type="integer", min_count=2)}
    data = tabular(folder, {"train": f"a,y\n7,0\n8,1\n{cell},1\n"}, categorical=declared)
    assert rule(data) == (
        f"{folder}/train.csv: column 'a', line 4: ids must be integers, as declared, got {cell!r}"
    )


def test_a_type_is_of_all_columns_of_a_numbering(folder: Path) -> None:
    files = {"train": pl.DataFrame({"a": [7, 8], "h": [[7, 7], [8]], "y": [0, 1]})}
    own = {
        "categorical": {"a": IdColumn(type="string")},
        "lists": {"h": ListColumn(vocabulary="a")},
    }
    data = in_order(tabular(folder, files, **own))
    assert data.schema.columns["h"].is_text
    assert ids(data, "train", "h") == [0, 0, 1]
    own["lists"] = {"h": ListColumn(vocabulary="a", type="integer")}
    assert "columns of one numbering must be of one type, got {'a': 'string', 'h': 'int" in rule(
        tabular(folder, files, **own)
    )


# Attribute files.


def test_an_attribute_file_decides_with_its_key(folder: Path) -> None:
    files = {"train": "a,y\n7,0\n8,1\n7,1\n", "about": "a,tags\n7,t1\nX9,t2\n8,t1|t3\n"}
    attributes = AttributeFile(path="about.csv", key="a", lists={"tags": ListColumn()})
    data = tabular(folder, files, attributes=attributes)
    assert data.schema.vocabularies["a"].is_text
    # t1 is of 7 (twice in training) and 8 (once), t3 of 8; t2 is of nobody.
    assert data.schema.vocabularies["tags"].counts_V.tolist() == [3, 1]
    assert data.schema.attributes["tags"].values_M.tolist() == [0, 0, 1]


@pytest.mark.parametrize("tags", [("1", "2"), ("x", "y")])
def test_an_attribute_file_with_one_tag_per_row(folder: Path, tags: tuple[str, str]) -> None:
    about = f"a,tags\n7,{tags[0]}\n8,{tags[1]}\n9,\n"
    attributes = AttributeFile(path="about.csv", key="a", lists={"tags": ListColumn()})
    files = {"train": "a,y\n7,0\n8,1\n7,1\n9,0\n", "about": about}
    data = tabular(folder, files, attributes=attributes)
    found = data.schema.attributes["tags"]
    assert (found.values_M.tolist(), found.offsets_V.tolist()) == ([0, 1], [0, 1, 2, 2, 2])


def test_attributes_that_share_a_numbering(folder: Path) -> None:
    about = "a,alike\n7,8|7\nX9,7\n8,\n"
    attributes = AttributeFile(
        path="about.csv", key="a", lists={"alike": ListColumn(vocabulary="a")}
    )
    files = {"train": "a,y\n7,0\n8,1\n7,1\n", "about": about}
    data = tabular(folder, files, attributes=attributes)
    assert data.schema.attributes["alike"].values_M.tolist() == [1, 0]
    wrong = AttributeFile(
        path="about.csv", key="a", lists={"alike": ListColumn(vocabulary="a", type="integer")}
    )
    assert "attribute 'alike': its ids are those of column 'a'; declare the type there" in rule(
        tabular(folder, files, attributes=wrong)
    )


# Numbers.


def test_numbers_of_text_files(folder: Path) -> None:
    cells = ["1"] * 10_001 + ["12.5", " -3e1 ", ".5", "true", "False"]
    train = "d,a,y\n" + "".join(f"{cell},7,1\n" for cell in cells)
    dense = {"d": NumberColumn(standardize=False)}
    data = in_order(tabular(folder, {"train": train}, dense=dense, batch_size=20_000))
    (batch,) = data.loader("train")
    assert batch.dense_BK.flatten().tolist()[10_000:] == [1.0, 12.5, -30.0, 0.5, 1.0, 0.0]
    scaled = tabular(
        folder, {"train": "d,a,y\n1,7,1\n2.5,7,0\n5.5,7,1\n"}, dense={"d": NumberColumn()}
    )
    # Mean 3 and the deviation of -2, -.5 and 2.5: the root of 10.5 / 3.
    assert scaled.schema.dense["d"].mean == pytest.approx(3.0)
    assert scaled.schema.dense["d"].scale == pytest.approx(3.5**0.5)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("NA", "values must be numbers, got 'NA'"),
        ("1,5", "a row must have as many cells as the header"),
        ('"1,5"', "values must be numbers, got '1,5'"),
        ("", "a number must not be null; fill it, got None"),
        ("inf", "a number must be finite in float32, got 'inf'"),
        ("1e400", "a number must be finite in float32, got '1e400'"),
    ],
)
def test_a_cell_that_is_no_number_is_refused_by_line(
    folder: Path, cell: str, expected: str
) -> None:
    data = tabular(folder, {"train": f"d,a,y\n1,7,1\n\n{cell},7,0\n"}, dense={"d": NumberColumn()})
    where = ": line 4: " if "row must" in expected else ": column 'd', line 4: "
    assert rule(data).startswith(f"{folder}/train.csv{where}{expected}")


def test_labels_of_text_files(folder: Path) -> None:
    data = in_order(tabular(folder, {"train": "a,y\n7,0.0\n7,1\n7,true\n7,1e0\n"}))
    (batch,) = data.loader("train")
    assert batch.label_B.tolist() == [0.0, 1.0, 1.0, 1.0]
    for cell, expected in (("2", "a label must be 0 or 1"), ("yes", "labels must be numbers")):
        message = rule(tabular(folder, {"train": f"a,y\n7,1\n7,{cell}\n"}))
        assert message == f"{folder}/train.csv: column 'y', line 3: {expected}, got {cell!r}" or (
            message == f"{folder}/train.csv: column 'y', line 3: {expected}, got {cell}"
        )


# What is no reason to lower a minimum count.


def test_ids_above_int64_in_parquet_are_named(folder: Path) -> None:
    for dtype in (pl.UInt64, pl.Int128):
        rows = pl.DataFrame({"a": pl.Series([2**63, 2**63], dtype=dtype), "y": [0, 1]})
        data = tabular(folder, {"train": rows}, categorical={"a": IdColumn(min_count=2)})
        assert rule(data) == (
            f"{folder}/train.parquet: column 'a', row 0: ids must be below 2^63, got {2**63}; "
            "declare type: string"
        )
        declared = {"a": IdColumn(min_count=2, type="string")}
        kept = in_order(tabular(folder, {"train": rows}, categorical=declared))
        assert ids(kept, "train") == [0, 0]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_without_any_value_is_named(folder: Path, form: str) -> None:
    frame = pl.DataFrame({"a": pl.Series([None, None], dtype=pl.Int64), "y": [0, 1]})
    train = "a,y\n,0\n,1\n" if form == "csv" else frame
    assert rule(tabular(folder, {"train": train}, categorical={"a": IdColumn(min_count=2)})) == (
        f"{folder}/train.{form}: column 'a': every value is null in all 2 rows of training; leave "
        "the column out, or fill it"
    )
    lists = {"h": ListColumn()}
    frame = pl.DataFrame(
        {"h": [[], []], "y": [0, 1]}, schema={"h": pl.List(pl.Int64), "y": pl.Int8}
    )
    train = "h,y\n,0\n,1\n" if form == "csv" else frame
    assert "column 'h': every list is empty in all 2 rows" in rule(
        tabular(folder, {"train": train}, categorical={}, lists=lists)
    )


def test_an_attribute_without_any_value_is_named(folder: Path) -> None:
    files = {"train": "a,y\n7,0\n8,1\n", "about": "a,kind,tags\n7,,\n8,,\n"}
    for own in ({"categorical": {"kind": IdColumn()}}, {"lists": {"tags": ListColumn()}}):
        attributes = AttributeFile(path="about.csv", key="a", **own)  # type: ignore[arg-type]
        what = "every value is null" if "categorical" in own else "every list is empty"
        assert what in rule(tabular(folder, files, attributes=attributes))


# Columns that no setting names.


def test_columns_that_nobody_names_do_not_matter(folder: Path) -> None:
    big = 2**63
    data = in_order(tabular(folder, {"train": f"id,a,id,*,y\n{big},7,1,2,0\n{2**100},8,,,1\n"}))
    assert ids(data, "train") == [0, 1]
    odd = pl.DataFrame(
        {
            "a": [7, 8], "y": [0, 1], "wide": pl.Series([2**100, 1], dtype=pl.Int128),
            "price": pl.Series(["1.5", "2"]).cast(pl.Decimal(20, 2)), "b": [b"x", None],
        }
    )  # fmt: skip
    assert ids(in_order(tabular(folder, {"train": odd})), "train") == [0, 1]


def test_names_that_are_patterns_to_polars(folder: Path) -> None:
    settings = {
        "categorical": {"a": IdColumn(column="*"), "b": IdColumn(column="^a.*$")},
        "lists": {"h": ListColumn(column="^.*$")},
        "dense": {"d": NumberColumn(column="^d$")},
    }
    text = "*,^a.*$,^.*$,^d$,abc,y\n7,x,1|2,1.5,9,0\n8,x,1,2.5,9,1\n8,z,,3.5,9,1\n"
    frame = pl.DataFrame(
        {
            "*": [7, 8, 8], "^a.*$": ["x", "x", "z"], "^.*$": [[1, 2], [1], []],
            "^d$": [1.5, 2.5, 3.5], "abc": [9, 9, 9], "y": [0, 1, 1],
        }
    )  # fmt: skip
    for train in (text, frame):
        data = in_order(tabular(folder, {"train": train}, **settings))
        assert ids(data, "train") == [1, 0, 0]
        assert ids(data, "train", "b") == [0, 0, 1]
        assert ids(data, "train", "h") == [0, 1, 0]
        (batch,) = data.loader("train")
        assert batch.dense_BK.flatten().tolist() == pytest.approx([1.5, 2.5, 3.5])


# Literal paths.


def test_a_folder_whose_name_is_a_pattern(folder: Path) -> None:
    for name, cells in (("shop1", "1,2"), ("shop[1]", "3,4"), ("sh*p?", "5,6")):
        (folder / name).mkdir()
        first, second = cells.split(",")
        text = f"a,y\n{first},0\n{second},1\n"
        (folder / name / "train.csv").write_text(text)
        frame = pl.DataFrame({"a": [int(first), int(second)], "y": [0, 1]})
        frame.write_parquet(folder / name / "train.parquet")
    for name, known in (("shop[1]", [3, 4]), ("sh*p?", [5, 6]), ("shop1", [1, 2])):
        for file in ("train.csv", "train.parquet"):
            data = Tabular(
                folder=str(folder / name), label="y", categorical=A, train=file, validation=None,
                test=file,
            )  # fmt: skip
            assert data.schema.vocabularies["a"].keys_V.tolist() == known
            assert sorted(ids(data, "train")) == [0, 1]
