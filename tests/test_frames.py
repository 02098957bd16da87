"""Frames: the file that a frame becomes has its values, whichever library the frame is of."""

import datetime
import re
from pathlib import Path
from typing import Any

import numpy
import polars as pl
import pyarrow as pa
import pytest

from recemb.errors import RecembError
from recemb.frames import path_of, shown

DAY = datetime.date(2026, 1, 28)
MOMENT = datetime.datetime(2026, 1, 28, 10, 30)
WANTED = {
    "text": ["007", None, "héllo"],
    "kind": ["b", "a", "b"],
    "nullable": [1, None, 3],
    "large": [2**64 - 1, 0, 5],
    "list": [["x", "y"], [], ["z"]],
    "day": [DAY, None, DAY],
    "moment": [MOMENT, MOMENT, None],
    "number": [0.5, None, -1.25],
}
POLARS = {
    "text": pl.String, "kind": pl.Categorical, "nullable": pl.Int32, "large": pl.UInt64,
    "list": pl.List(pl.Categorical), "day": pl.Date, "moment": pl.Datetime("us"),
    "number": pl.Float64,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def values(frame: object) -> dict[str, list[Any]]:
    return pl.read_parquet(path_of(frame, "train")).to_dict(as_series=False)


def arrow() -> pa.Table:
    columns = {name: pa.array(one) for name, one in WANTED.items() if name not in ("kind", "large")}
    columns["kind"] = pa.array(WANTED["kind"]).dictionary_encode()
    columns["large"] = pa.array(WANTED["large"], pa.uint64())
    return pa.table(columns).select(list(WANTED))


class Dataset:
    """As a data set of Hugging Face that has been shuffled: rows are in another order below."""

    features: dict[str, object] = {}

    def __init__(self, table: pa.Table, is_arrow: bool = False) -> None:
        self.table, self.is_arrow = table, is_arrow

    def with_format(self, name: str) -> "Dataset":
        return Dataset(self.table, name == "arrow")

    def iter(self, batch_size: int) -> Any:
        assert self.is_arrow
        for row in (2, 0, 1):
            yield self.table.slice(row, 1)


def test_frames_of_polars_keep_their_values() -> None:
    frame = pl.DataFrame(WANTED, schema=POLARS)
    assert values(frame) == WANTED
    assert values(frame.lazy()) == WANTED
    assert pl.read_parquet_schema(path_of(frame, "train"))["list"] == pl.List(pl.String)


def test_tables_of_arrow_keep_their_values() -> None:
    assert values(arrow()) == WANTED
    assert values(arrow().to_batches()[0]) == WANTED


def test_data_sets_are_read_in_their_own_order() -> None:
    wanted = {name: [one[2], one[0], one[1]] for name, one in WANTED.items()}
    assert values(Dataset(arrow())) == wanted


def test_frames_of_pandas_keep_their_values() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "text": pd.Series(WANTED["text"], dtype=object),
            "kind": pd.Categorical(WANTED["kind"]),
            "nullable": pd.array(WANTED["nullable"], dtype="Int64"),
            "large": numpy.array(WANTED["large"], dtype=numpy.uint64),
            "list": pd.Series(WANTED["list"], dtype=object),
            "day": pd.Series(WANTED["day"], dtype=object),
            "moment": pd.to_datetime(pd.Series(WANTED["moment"])),
            "number": [0.5, float("nan"), -1.25],
        }
    ).set_index(pd.Index([30, 10, 20]))
    assert values(frame) == WANTED
    backed = pd.DataFrame(
        {
            "text": pd.array(WANTED["text"], dtype=pd.ArrowDtype(pa.string())),
            "numbers": pd.Categorical([30, 10, 30]),
            "maybe": pd.array([True, None, False], dtype="boolean"),
            7: [1, 2, 3],
        }
    )
    wanted = {"text": WANTED["text"], "numbers": [30, 10, 30], "maybe": [True, None, False]}
    assert values(backed) == {**wanted, "7": [1, 2, 3]}


def test_a_wrong_value_of_pandas_is_named_by_its_row() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"user": pd.Series([1, 2, None, "x", 4], dtype=object)})
    with pytest.raises(RecembError, match=r"^frame train: column 'user', row 3: .* got 'x'"):
        path_of(frame, "train")
    frame = pd.DataFrame([[1, 2]], columns=["user", "user"])
    with pytest.raises(RecembError, match="frame train: column 'user' is there more than once"):
        path_of(frame, "train")


def test_a_data_set_of_hugging_face_that_is_shuffled_and_filtered() -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset(arrow())
    assert values(whole) == WANTED
    assert values(whole.select([2, 1]))["nullable"] == [3, None]


def test_equal_frames_are_one_file_and_others_another(cache: Path) -> None:
    first = path_of(pl.DataFrame({"a": [1]}), "train")
    assert path_of(pl.DataFrame({"a": [1]}), "train") == first
    assert path_of(pl.DataFrame({"a": [2]}), "train") != first
    assert path_of(pl.DataFrame({"a": [1]}), "test") != first
    assert len(list((cache / "frames").iterdir())) == 3
    Path(first).write_bytes(b"damaged")
    path_of(pl.DataFrame({"a": [1]}), "train")
    assert pl.read_parquet(first)["a"].to_list() == [1]


def test_paths_are_taken_as_they_are_and_frames_are_shown_by_their_argument() -> None:
    assert path_of("shop/train.csv", "train") == path_of(Path("shop/train.csv"), "train")
    assert shown(Path("shop/train.parquet")) == Path("shop/train.parquet")
    assert str(shown(Path(path_of(pl.DataFrame({"a": [1]}), "test")))) == "frame test"


@pytest.mark.parametrize(
    "wrong", [[1, 2], {"a": [1]}, None, pl.Series([1]), pl.DataFrame, 3, pa.chunked_array([[1]])]
)
def test_what_is_no_frame_is_refused(wrong: object) -> None:
    with pytest.raises(RecembError, match=r"^train: must be a file or a frame"):
        path_of(wrong, "train")


def test_a_lazy_frame_that_cannot_be_computed_is_refused(cache: Path) -> None:
    missing = pl.LazyFrame({"a": [1]}).select("b")
    with pytest.raises(RecembError, match=r"^frame train: the frame cannot be computed"):
        path_of(missing, "train")
    with pytest.raises(RecembError, match=r"^frame train: the frame cannot be computed"):
        path_of(pl.scan_parquet(cache / "no.parquet"), "train")
    late = pl.LazyFrame({"a": ["1", "x"]}).with_columns(pl.col("a").cast(pl.Int64))
    with pytest.raises(RecembError, match=r"^frame train: the frame cannot be computed"):
        path_of(late, "train")
    assert list((cache / "frames").iterdir()) == []


def test_objects_are_refused_by_their_column() -> None:
    frame = pl.DataFrame({"a": [1], "b": pl.Series([object()], dtype=pl.Object)})
    for one in (frame, frame.lazy()):
        with pytest.raises(RecembError, match=re.escape("frame train: column 'b': values must")):
            path_of(one, "train")


def test_names_that_are_patterns_to_polars_are_names() -> None:
    frame = pl.DataFrame({"*": ["x"], "^a.*$": ["y"]}, schema_overrides={"*": pl.Enum(["x"])})
    assert values(frame) == {"*": ["x"], "^a.*$": ["y"]}
