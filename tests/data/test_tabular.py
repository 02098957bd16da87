"""The data module: all that is learned comes from training, all files are checked before it."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recemb.data.columns import AttributeFile, IdColumn, ListColumn, NumberColumn
from recemb.data.tabular import Tabular
from recemb.errors import RecembError
from recemb.jagged import split_keyed

TRAIN = pl.DataFrame({"a": [1, 1, 2, 2], "d": [0.0, 2.0, 0.0, 2.0], "y": [0, 1, 0, 1]})
OTHER = pl.DataFrame({"a": [3, 3, 3, 1], "d": [50.0, 50.0, 50.0, 50.0], "y": [0, 1, 0, 1]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the three files of a data set."""
    TRAIN.write_parquet(tmp_path / "train.parquet", row_group_size=2)
    OTHER.write_parquet(tmp_path / "validation.parquet", row_group_size=2)
    OTHER.write_parquet(tmp_path / "test.parquet", row_group_size=2)
    return tmp_path


def tabular(folder: Path, **changed: Any) -> Tabular:
    chosen = {
        "label": "y",
        "categorical": {"a": IdColumn()},
        "dense": {"d": NumberColumn()},
        **changed,
    }
    return Tabular(folder=str(folder), **chosen)


def test_the_schema_is_learned_from_training_alone(folder: Path) -> None:
    data = tabular(folder)
    data.setup("fit")
    assert data.schema.vocabularies["a"].keys_V.tolist() == [1, 2]
    assert data.schema.vocabularies["a"].counts_V.tolist() == [2, 2]
    assert (data.schema.dense["d"].mean, data.schema.dense["d"].scale) == (1.0, 1.0)
    (batch,) = data.val_dataloader()
    assert split_keyed(batch.ids)["a"].values.tolist() == [2, 2, 2, 0]


def test_ids_of_other_files_are_known_where_a_protocol_says_so(folder: Path) -> None:
    rare = pl.DataFrame({"a": [9, 7, 2, 2], "d": [0.0] * 4, "y": [0, 1, 0, 1]})
    rare.write_parquet(folder / "test.parquet")
    data = tabular(
        folder, known_from=("train", "test"), categorical={"a": IdColumn(unknown="hash")}
    )
    vocabulary = data.schema.vocabularies["a"]
    # Trained on 1 and 2, twice each; 7 and 9 are of the test file, 3 of validation alone.
    assert vocabulary.lookup(torch.tensor([1, 2, 7, 9, 3])).tolist() == [0, 1, 2, 3, 4]
    assert vocabulary.counts_V.tolist() == [2, 2, 0, 0]
    assert (data.schema.dense["d"].mean, data.schema.dense["d"].scale) == (1.0, 1.0)


def test_the_minimum_count_is_that_of_all_files_that_ids_are_known_from(folder: Path) -> None:
    # 1 is seen 2 + 1 + 1 times, 2 twice, 3 in the other files 3 + 3 times.
    for stages, known in ((("train",), [1, 2]), (("train", "validation", "test"), [1, 3])):
        column = IdColumn(min_count=2 if stages == ("train",) else 3)
        data = tabular(folder, known_from=stages, categorical={"a": column})
        assert data.schema.vocabularies["a"].keys_V.tolist() == known


@pytest.mark.parametrize("stages", [(), ("test",), ("train", "predict")])
def test_ids_are_known_from_training_and_other_stages(folder: Path, stages: tuple) -> None:
    with pytest.raises(RecembError, match=r"^data: known_from must be 'train' and any of"):
        tabular(folder, known_from=stages)


def test_files_that_ids_are_known_from_need_the_columns(folder: Path) -> None:
    OTHER.drop("d").write_parquet(folder / "test.parquet")
    with pytest.raises(RecembError, match=r"/test\.parquet: column 'd' is missing"):
        _ = tabular(folder, known_from=("train", "test")).schema


def test_attributes_of_ids_of_other_files_are_known_too(folder: Path) -> None:
    about = pl.DataFrame({"a": [1, 2, 3], "tags": [[7], [7], [8, 7]]})
    about.write_parquet(folder / "about.parquet")
    attributes = AttributeFile(
        path="about.parquet", key="a", lists={"tags": ListColumn(unknown="error")}
    )
    data = tabular(folder, attributes=attributes, known_from=("train", "test"))
    assert data.schema.attributes["tags"].values_M.tolist() == [0, 0, 1, 0]
    assert data.schema.vocabularies["tags"].counts_V.tolist() == [4, 0]


@pytest.mark.parametrize("stage", ["validation", "test"])
@pytest.mark.parametrize(
    ("column", "rule"),
    [
        (pl.Series("a", [1, 1, 1, -4]), "column 'a', row 3: ids must not be negative, got -4"),
        (pl.Series("y", [0, 1, 0, 5]), "column 'y', row 3: a label must be 0 or 1, got 5"),
        (pl.Series("d", [0.0, 0.0, None, 0.0]), "column 'd', row 2: a number must not be null"),
    ],
    ids=["id", "label", "number"],
)
def test_fit_checks_the_other_files_before_training(
    folder: Path, stage: str, column: pl.Series, rule: str
) -> None:
    OTHER.with_columns(column).write_parquet(folder / f"{stage}.parquet", row_group_size=2)
    with pytest.raises(RecembError, match=rf"/{stage}\.parquet: {rule}"):
        tabular(folder).setup("fit")


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
def test_fit_needs_all_three_files(folder: Path, stage: str) -> None:
    (folder / f"{stage}.parquet").unlink()
    with pytest.raises(RecembError, match=rf"/{stage}\.parquet: there is no such file"):
        tabular(folder).setup("fit")


@pytest.mark.parametrize("stage", ["train", "validation", "test"])
def test_fit_needs_all_columns_in_all_files(folder: Path, stage: str) -> None:
    pl.read_parquet(folder / f"{stage}.parquet").drop("d").write_parquet(
        folder / f"{stage}.parquet"
    )
    with pytest.raises(RecembError, match=rf"/{stage}\.parquet: column 'd' is missing"):
        tabular(folder).setup("fit")


@pytest.mark.parametrize(("verb", "unneeded"), [("validate", "test"), ("test", "validation")])
def test_other_verbs_open_only_what_they_need(folder: Path, verb: str, unneeded: str) -> None:
    (folder / f"{unneeded}.parquet").unlink()
    tabular(folder).setup(verb)


@pytest.mark.parametrize("label", [None, "absent", "click"])
def test_predict_reads_the_test_file_without_its_label(folder: Path, label: str | None) -> None:
    schema = tabular(folder).schema
    rows = OTHER.drop("y")
    if label != "absent":
        rows = rows.with_columns(y=pl.lit(label, pl.String))
    rows.write_parquet(folder / "test.parquet")
    (folder / "train.parquet").unlink()
    data = tabular(folder)
    data.schema = schema
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert split_keyed(batch.ids)["a"].values.tolist() == [2, 2, 2, 0]
    with pytest.raises(RecembError, match=r"test\.parquet: column 'y'"):
        data.test_dataloader()


def test_columns_are_kept_in_the_order_of_the_file(folder: Path) -> None:
    data = tabular(folder)
    assert data.kept_columns([]).columns == []
    kept = data.kept_columns(["y", "a", "y"])
    assert kept.rows() == [(0, 3), (1, 3), (0, 3), (1, 1)]
    with pytest.raises(RecembError, match=r"test\.parquet: column 'b' is missing; the file has"):
        data.kept_columns(["b"])
    data.keys = {"a": "account", "none": "other"}
    assert data.kept_columns(["d", "account", "a"]).columns == ["account", "d"]


def test_nothing_is_predicted_without_a_file(folder: Path) -> None:
    data = tabular(folder, test=None)
    with pytest.raises(RecembError, match=r"^data: there is no file to predict; give test"):
        data.setup("predict")


@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size"])
@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_must_be_positive(folder: Path, name: str, size: int) -> None:
    with pytest.raises(RecembError, match=f"data: {name} must be at least 1, got {size}"):
        tabular(folder, **{name: size})


def test_training_is_shuffled_and_the_rest_is_not(tmp_path: Path) -> None:
    rows = pl.DataFrame({"a": range(100), "y": [0, 1] * 50})
    for stage in ("train", "validation", "test"):
        rows.write_parquet(tmp_path / f"{stage}.parquet", row_group_size=30)
    data = tabular(
        tmp_path, categorical={"a": IdColumn(raw=True)}, dense=None, batch_size=10,
        eval_batch_size=15,
    )  # fmt: skip
    data.setup("fit")
    seen = {
        stage: [batch.ids.values() for batch in loader]
        for stage, loader in (
            ("train", data.train_dataloader()),
            ("validation", data.val_dataloader()),
            ("test", data.test_dataloader()),
        )
    }
    assert [len(batch) for batch in seen["train"]] == [10] * 10
    assert [len(batch) for batch in seen["validation"]] == [15] * 6 + [10]
    rows = {stage: torch.cat(batches).tolist() for stage, batches in seen.items()}
    assert rows["train"] != list(range(100))
    assert sorted(rows["train"]) == list(range(100))
    assert rows["validation"] == rows["test"] == list(range(100))


def test_files_may_be_text_and_have_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    TRAIN.write_csv(tmp_path / "learn.csv")
    OTHER.write_csv(tmp_path / "tune.tsv", separator="\t")
    OTHER.write_parquet(tmp_path / "judge.parquet")
    data = tabular(tmp_path, train="learn.csv", validation="tune.tsv", test="judge.parquet")
    data.setup("fit")
    (validation,), (test,) = data.val_dataloader(), data.test_dataloader()
    assert validation.ids.values().tolist() == test.ids.values().tolist() == [2, 2, 2, 0]
    assert validation.dense_BK.tolist() == test.dense_BK.tolist() == [[50.0]] * 4


def test_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert tabular(Path("~")).file("train").num_rows == 4


def test_attributes_lie_in_the_data_folder(folder: Path) -> None:
    about = pl.DataFrame({"a": [1, 2], "tags": [[7], [7, 8]]})
    about.write_parquet(folder / "about.parquet")
    attributes = AttributeFile(path="about.parquet", key="a", lists={"tags": ListColumn()})
    found = tabular(folder, attributes=attributes).schema.attributes["tags"]
    assert found.values_M.tolist() == [0, 0, 1]
    assert found.offsets_V.tolist() == [0, 1, 3, 3]


def test_a_relative_folder_is_of_the_current_one_or_of_the_root(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    monkeypatch.setenv("RECEMB_DATA", str(folder.parent))
    about = pl.DataFrame({"a": [1, 2], "tags": [[7], [7, 8]]})
    about.write_parquet(folder / "about.parquet")
    attributes = AttributeFile(path="about.parquet", key="a", lists={"tags": ListColumn()})
    (here / folder.name).mkdir()  # it has the name, but none of the files
    found = tabular(Path(folder.name), attributes=attributes)
    assert found.file("train").num_rows == 4
    assert found.schema.attributes["tags"].values_M.tolist() == [0, 0, 1]
    OTHER.write_parquet(here / folder.name / "train.parquet")
    # One folder holds all files: those of another are not taken for those that are missing.
    with pytest.raises(RecembError, match=rf"^{folder.name}/test\.parquet: there is no such file"):
        tabular(Path(folder.name)).file("test")
    with pytest.raises(RecembError) as refused:
        tabular(Path("shop")).setup("fit")
    for root in (here, folder.parent):
        assert f"{root}/shop/train.parquet" in str(refused.value)
