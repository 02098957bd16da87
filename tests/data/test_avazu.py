"""Avazu: the hour in three parts, -1 as a value, from every form of the raw file."""

import datetime
import os
from pathlib import Path

import polars as pl
import pytest
import xxhash

from recemb.data.avazu import Avazu, prepare
from recemb.data.files import data_root
from recemb.errors import RecembError

STAGES = ("train", "validation", "test")
TEXTS = ["site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category",
         "device_id", "device_ip", "device_model"]  # fmt: skip
NUMBERS = ["C1", "banner_pos", "device_type", "device_conn_type", "C14", "C15", "C16", "C17",
           "C18", "C19", "C20", "C21"]  # fmt: skip


def raw(count: int) -> pl.DataFrame:
    """Return rows as Kaggle's ``train.csv`` has them, one per hour from 21 October 2014 on."""
    start = datetime.datetime(2014, 10, 21)
    rows = []
    for row in range(count):
        when = start + datetime.timedelta(hours=row)
        one: dict[str, object] = {"id": 10**18 + row, "click": row % 2}
        one["hour"] = int(when.strftime("%y%m%d%H"))
        one |= {name: f"{(row * place) % 13:08x}" for place, name in enumerate(TEXTS)}
        one |= {name: 1000 + (row * place) % 7 for place, name in enumerate(NUMBERS)}
        one["C20"] = -1 if row % 3 else 100_000 + row % 5
        rows.append(one)
    return pl.DataFrame(rows)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a raw file of 300 rows."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    raw(300).write_csv(tmp_path / "train.csv")
    return tmp_path / "train.csv"


def test_rows_by_hand(source: Path, tmp_path: Path) -> None:
    folder = prepare(source, tmp_path / "cache")
    found = {stage: pl.read_parquet(folder / f"{stage}.parquet").to_dicts() for stage in STAGES}
    for number, wanted in enumerate(raw(300).to_dicts()):
        when = datetime.datetime(2014, 10, 21) + datetime.timedelta(hours=number)
        wanted |= {"hour": when.hour, "weekday": when.isoweekday()}
        wanted |= {"weekend": int(when.isoweekday() in (6, 7)), "C20": str(wanted["C20"])}
        del wanted["id"]
        tenth = xxhash.xxh64_intdigest(str(number).encode()) % 10
        assert found[STAGES[max(tenth - 7, 0)]].pop(0) == wanted
    assert found == {"train": [], "validation": [], "test": []}


def test_parquet_gives_the_same_as_csv(source: Path, tmp_path: Path) -> None:
    raw(300).drop("id").write_parquet(tmp_path / "other.parquet")
    folders = [prepare(one, tmp_path / "cache") for one in (source, tmp_path / "other.parquet")]
    for stage in STAGES:
        one, other = (pl.read_parquet(folder / f"{stage}.parquet") for folder in folders)
        assert one.equals(other)


def test_the_module_knows_every_value_seen_twice(source: Path) -> None:
    data = Avazu(source=str(source), batch_size=1000)
    data.setup("fit")
    assert set(data.schema.columns) == {"hour", "weekday", "weekend", *TEXTS, *NUMBERS}
    (batch,) = data.train_dataloader()
    train = [row for row in range(300) if xxhash.xxh64_intdigest(str(row).encode()) % 10 < 8]
    assert batch.label_B.sum() == sum(row % 2 for row in train)
    known = {name: one.num_known for name, one in data.schema.vocabularies.items()}
    assert (known["hour"], known["weekday"], known["weekend"]) == (24, 7, 2)
    assert known["C20"] == 6
    assert data.schema.vocabularies["C20"].counts_V[0] == sum(row % 3 > 0 for row in train)


def test_values_below_the_minimum_are_unknown(source: Path) -> None:
    train = [row for row in range(300) if xxhash.xxh64_intdigest(str(row).encode()) % 10 < 8]
    counts = [sum(row % 24 == hour for row in train) for hour in range(24)]
    known = sum(count >= 11 for count in counts)
    assert 0 < known < 24
    data = Avazu(source=str(source), min_count=11)
    assert data.schema.vocabularies["hour"].num_known == known


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    raw(30).drop("device_ip").write_csv(tmp_path / "train.csv")
    with pytest.raises(RecembError, match=r"/train\.csv: column 'device_ip' is missing"):
        prepare(tmp_path / "train.csv", tmp_path / "cache")


@pytest.mark.parametrize("wrong", [14102199, 14102124, 14133005, 14023005, -14102105, 141021050])
def test_an_hour_that_is_none_is_refused_by_line(wrong: int, tmp_path: Path) -> None:
    rows = raw(30)
    rows[7, "hour"] = wrong
    rows.write_csv(tmp_path / "train.csv")
    rows.write_parquet(tmp_path / "train.parquet")
    for name, place in (("train.csv", "line 9"), ("train.parquet", "row 7")):
        said = rf"/{name}: column 'hour', {place}: must be an hour as YYMMDDHH, got {wrong}; mend"
        with pytest.raises(RecembError, match=said):
            prepare(tmp_path / name, tmp_path / "cache")


# The real data.


@pytest.fixture(scope="module")
def real() -> pl.DataFrame:
    """Return 10,000 random rows of Avazu."""
    if not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set")
    source = data_root() / "avazu_10k" / "avazu_random10k.parquet"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    return pl.read_parquet(source)


def test_real_rows_are_all_there(real: pl.DataFrame) -> None:
    data = Avazu(source="avazu_10k/avazu_random10k.parquet")
    data.setup("fit")
    found = pl.concat(pl.read_parquet(data.folder / f"{stage}.parquet") for stage in STAGES)
    assert len(found) == len(real) == 10_000
    assert found["click"].sum() == real["click"].sum()
    assert found.null_count().sum_horizontal().item() == 0
    days = [datetime.datetime.strptime(str(one), "%y%m%d%H") for one in real["hour"]]
    assert found["weekend"].sum() == sum(day.isoweekday() > 5 for day in days)
    assert found["hour"].sum() == sum(day.hour for day in days)
    assert (found["C20"] == "-1").sum() == (real["C20"] == -1).sum() > 0
