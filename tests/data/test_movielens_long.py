"""MovieLens-1M with long histories: the small facts of its preparation, and the real files."""

import os
from dataclasses import replace

import polars as pl
import pytest

from recemb.data.files import data_root
from recemb.data.long_histories import Protocol
from recemb.data.movielens_long import MovieLensLong, prepare
from recemb.errors import RecembError

SMALL = Protocol(
    history_length=5, min_behaviours=10, targets=4, first_target=2, negatives=1, unmet=True
)


@pytest.fixture
def source(tmp_path):
    """User 3 rates movies 100 ... 111 in the order of pos, which is not that of the rows."""
    ratings = pl.DataFrame(
        {
            "user": [3] * 12 + [4] * 9 + [5] * 12,
            "movie": [100 + i for i in range(12)] + list(range(9)) + [104 + i for i in range(12)],
            "rating": 1,
            "pos": [*range(12), *range(9), *range(12)],
        }
    )
    ratings.reverse().write_parquet(tmp_path / "ratings.parquet")
    movies = pl.DataFrame(
        {"movie": range(130), "title": "A (1990)", "genres": [["Drama", "War"], ["War"]] * 65}
    )
    movies.write_parquet(tmp_path / "movies.parquet")
    return tmp_path


def test_ratings_are_behaviours_whatever_their_stars(source, tmp_path):
    folder = prepare(source, tmp_path / "cache", SMALL)
    test = pl.read_parquet(folder / "test.parquet")
    assert test["user"].to_list() == [3, 3, 5, 5]
    assert test["item"][0] == 111
    assert test["history_item"][0].to_list() == [106, 107, 108, 109, 110]
    assert "history_seconds" not in test.columns
    items = dict(pl.read_parquet(folder / "items.parquet").iter_rows())
    assert (items[100], items[101]) == ("Drama", "War")


def test_other_protocols_are_other_folders(source, tmp_path):
    folder = prepare(source, tmp_path / "cache", SMALL)
    before = (folder / "test.parquet").stat().st_mtime_ns
    assert prepare(source, tmp_path / "cache", SMALL) == folder
    assert (folder / "test.parquet").stat().st_mtime_ns == before
    other = prepare(source, tmp_path / "cache", replace(SMALL, targets=2))
    assert other != folder


def test_missing_files_are_named(tmp_path):
    with pytest.raises(RecembError, match=r"ratings.parquet: MovieLens-1M is not there"):
        prepare(tmp_path, tmp_path / "cache", SMALL)


@pytest.mark.skipif("RECEMB_DATA" not in os.environ, reason="RECEMB_DATA is not set")
def test_the_papers_protocol_on_the_real_files():
    data = MovieLensLong()
    data.prepare_data()
    ratings = pl.read_parquet(data_root() / "ml-1m/ratings.parquet")
    users = ratings.group_by("user").len().filter(pl.col("len") >= 210)["user"]
    for stage in ("train", "validation", "test"):
        frame = pl.read_parquet(data.folder / f"{stage}.parquet")
        assert set(frame["user"]) == set(users)
        assert frame["label"].mean() == pytest.approx(1 / 3)
        assert frame["history_item"].list.len().max() == 200
        # No negative is a movie that its user rates, before or after.
        negatives = frame.filter(pl.col("label") == 0).select("user", movie="item")
        pairs = ratings.select("user", pl.col("movie").cast(pl.Int64))
        negatives = negatives.with_columns(pl.col("user").cast(ratings["user"].dtype))
        assert negatives.join(pairs, on=["user", "movie"]).is_empty()
    positives = frame.filter(pl.col("label") == 1).sort("user")
    last = ratings.sort("user", "pos").group_by("user", maintain_order=True).last()
    wanted = last.filter(pl.col("user").is_in(users.implode())).sort("user")["movie"]
    assert positives["item"].to_list() == wanted.to_list()
