"""Data of frames: what the data modules make of a frame is what they make of its file."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from recemb.data.behaviour_log import BehaviourLog
from recemb.data.columns import AttributeFile, IdColumn, ListColumn, NumberColumn
from recemb.data.interactions import Interactions
from recemb.data.long_histories import Protocol
from recemb.data.pair_sources import Baskets
from recemb.data.sequences import Sequences
from recemb.data.tabular import Tabular
from recemb.errors import RecembError

CLICKS = pl.DataFrame(
    {
        "clicked": [1, 0, 1, 0],
        "user": ["a", "b", "a", None],
        "brand": pl.Series(["x", "y", "x", "x"], dtype=pl.Categorical),
        "seen": [[3], [], [3, 4], [5]],
        "price": [1.0, 3.0, 1.0, 3.0],
    }
)
EVENTS = pl.DataFrame({"user": [1] * 6 + [2] * 6, "item": [*range(6), *range(3, 9)]})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))


def clicks(**settings: Any) -> Tabular:
    return Tabular(
        **{
            "label": "clicked",
            "categorical": {"user": IdColumn(), "brand": IdColumn()},
            "lists": {"seen": ListColumn()},
            "dense": {"price": NumberColumn()},
            "train": CLICKS,
            "validation": None,
            "test": None,
            **settings,
        }
    )


def known(data: Tabular, space: str) -> list[Any]:
    vocabulary = data.schema.vocabularies[space]
    return vocabulary.values(torch.arange(vocabulary.num_known)).to_list()


def test_rows_of_frames_are_encoded_as_those_of_files() -> None:
    data = clicks(test=CLICKS.lazy().head(3))
    data.setup("fit")
    assert known(data, "user") == ["a", "b"]
    (batch,) = data.test_dataloader()
    # The most frequent user first; the label and the mean price as they stand.
    assert batch.label_B.tolist() == [1, 0, 1]
    assert batch.dense_BK.flatten().tolist() == [1, 3, 1]
    assert data.schema.dense["price"].mean == 2
    assert data.kept_columns(["user", "brand"])["brand"].to_list() == ["x", "y", "x"]


def test_attributes_may_be_a_frame() -> None:
    about = pl.DataFrame({"user": ["a", "b"], "city": ["Rome", "Oslo"]})
    described = AttributeFile(path=about, key="user", categorical={"city": IdColumn()})
    assert known(clicks(attributes=described), "city") == ["Rome", "Oslo"]
    twice = AttributeFile(path=pl.concat([about, about]), key="user")
    with pytest.raises(RecembError, match=r"^frame attributes: column 'user', row 0: keys must be"):
        clicks(attributes=twice).setup("fit")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (pl.col("clicked") * 2, "frame train: column 'clicked', row 0: a label must be 0 or 1"),
        (pl.lit(None, pl.Float64).alias("price"), "frame train: column 'price', row 0: a number"),
        (pl.col("user").alias("price"), "frame train: column 'price': values must be numbers, got"),
        (pl.col("price").alias("user"), "frame train: column 'user': ids must be integers or stri"),
    ],
)
def test_a_wrong_value_is_named_by_frame_and_row(change: pl.Expr, wanted: str) -> None:
    with pytest.raises(RecembError) as caught:
        clicks(train=CLICKS.with_columns(change)).setup("fit")
    assert str(caught.value).startswith(wanted)


def test_a_missing_column_and_no_rows_are_named_by_frame() -> None:
    with pytest.raises(RecembError) as caught:
        clicks(validation=CLICKS.drop("clicked")).setup("fit")
    wanted = "frame validation: column 'clicked' is missing; the frame has ['user', 'brand',"
    assert str(caught.value).startswith(wanted)
    with pytest.raises(RecembError, match=r"^frame train: the frame has no rows$"):
        clicks(train=CLICKS.head(0)).setup("fit")


def test_interactions_of_frames() -> None:
    data = Interactions(source=EVENTS, test=pl.DataFrame({"user": [1, 2], "item": [8, 0]}))
    rows = pl.read_parquet(data.file("test").path).select("user", "item").rows()
    assert rows == [(1, 8), (2, 0)]
    wrong = Interactions(source=EVENTS.with_columns(item=pl.lit(None, pl.Int64)))
    with pytest.raises(RecembError, match=r"^frame source: column 'item', row 0: a pair must have"):
        wrong.prepare_data()
    few = Interactions(source=EVENTS.head(1))
    with pytest.raises(RecembError, match=r"^frame source: there are no pairs for test"):
        few.prepare_data()


def test_sequences_of_frames() -> None:
    about = pl.DataFrame({"item": range(9), "kind": ["even", "odd"] * 4 + ["even"]})
    described = AttributeFile(path=about, key="item", categorical={"kind": IdColumn()})
    data = Sequences(source=EVENTS.lazy(), attributes=described)
    assert pl.read_parquet(data.file("test").path)["item"].to_list() == [5, 8]
    assert set(known(data, "kind")) == {"even", "odd"}
    column, keys, history = data.sessions(pl.DataFrame({"user": [7, 7], "item": [3, 4]}))
    items = data.schema.vocabularies["item"].values(history.values)
    assert (column, keys.to_list(), items.to_list()) == ("user", [7], [3, 4])
    with pytest.raises(RecembError, match=r"^frame sessions: column 'item' is missing; the frame"):
        data.sessions(pl.DataFrame({"user": [7]}))


def test_logs_of_behaviours_and_baskets_may_be_frames() -> None:
    log = EVENTS.with_columns(time=pl.int_range(pl.len()))
    protocol = Protocol(history_length=2, min_behaviours=4, targets=2, first_target=1, negatives=1)
    data = BehaviourLog(
        source=log, columns={"category": None, "behaviour": None}, protocol=protocol
    )
    rows = pl.read_parquet(data.file("test").path).filter(pl.col("label") == 1)
    assert rows["item"].to_list() == [5, 8]
    assert rows["history_item"].to_list() == [[3, 4], [6, 7]]
    assert Path(Baskets(path=log).path).is_file()
    wrong = BehaviourLog(source=log, protocol=protocol)
    with pytest.raises(
        RecembError, match=r"^frame source: column 'category' is missing; the frame has"
    ):
        wrong.prepare_data()
