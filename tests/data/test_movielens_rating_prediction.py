"""Rating prediction: all rows, their stars, and one split."""

import os
from collections import Counter

import polars as pl
import pytest

from recemb.data.movielens_rating_prediction import MovieLensRatingPrediction, prepare, split
from recemb.errors import RecembError
from tests.data.test_movielens_ratings import ratings

STAGES = ("train", "validation", "test")


def test_parts_are_tenths_of_all_rows_with_their_stars() -> None:
    rows = split(ratings(40))
    assert Counter(rows["part"]) == {"train": 160, "validation": 20, "test": 20}
    stars = {100 + row: 1 + row % 5 for row in range(200)}
    assert dict(rows["movie", "rating"].iter_rows()) == stars


def test_the_split_is_the_same_whatever_the_order_of_the_file() -> None:
    shuffled = ratings(400).sample(fraction=1.0, shuffle=True, seed=3)
    assert split(shuffled).equals(split(ratings(400)))


def test_without_the_files_there_is_one_line(tmp_path) -> None:
    with pytest.raises(RecembError, match=r"ratings\.parquet: MovieLens-1M is not there"):
        prepare(tmp_path, tmp_path / "cache")


@pytest.mark.skipif(not os.environ.get("RECEMB_DATA"), reason="RECEMB_DATA is not set")
def test_on_the_real_files(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path))
    data = MovieLensRatingPrediction()
    batch = next(iter(data.train_dataloader()))
    assert set(batch.label_B.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}
    folder = data.folder
    rows = [pl.read_parquet(folder / f"{stage}.parquet") for stage in STAGES]
    assert [len(one) for one in rows] == [800_167, 100_021, 100_021]
    assert float(rows[0]["rating"].mean()) == pytest.approx(3.5816, abs=0.002)  # GroupLens: 3.58
