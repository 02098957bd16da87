"""The benchmark of table kinds: its rows, its ids and its one split."""

import os
import random
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from recemb.data.files import data_root
from recemb.data.movielens_ratings import FORMAT, MovieLensRatings, label_and_split, prepare
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.jagged import split_keyed

STAGES = ("train", "validation", "test")


def ratings(count: int) -> pl.DataFrame:
    """Return ``count`` ratings of each of 1 to 5 stars, by ten users, in no order of time."""
    stars = [1 + row % 5 for row in range(5 * count)]
    rows = {
        "user": [1 + row % 10 for row in range(5 * count)],
        "movie": [100 + row for row in range(5 * count)],
        "rating": stars,
        "pos": [row // 10 for row in range(5 * count)],
    }
    return pl.DataFrame(rows).reverse()


def test_threes_are_dropped_and_fours_are_good() -> None:
    rows = label_and_split(ratings(20))
    assert dict(rows["movie", "label"].iter_rows()) == {
        100 + row: int(row % 5 > 2) for row in range(100) if row % 5 != 2
    }


@pytest.mark.parametrize(("count", "sizes"), [(20, (64, 8, 8)), (21, (67, 9, 8)), (1, (3, 1, 0))])
def test_parts_are_tenths_of_all_rows(count: int, sizes: tuple[int, ...]) -> None:
    found = Counter(label_and_split(ratings(count))["part"])
    assert tuple(found[stage] for stage in STAGES) == sizes


def test_the_split_is_the_same_whatever_the_order_of_the_file() -> None:
    shuffled = ratings(400).sample(fraction=1.0, shuffle=True, seed=3)
    assert label_and_split(shuffled).equals(label_and_split(ratings(400)))


def permutation(seed: int, count: int) -> list[int]:
    """Return the order of the protocol: Mersenne Twister and Fisher-Yates in plain Python."""
    words = [seed]
    for place in range(1, 624):
        words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + place) % 2**32)
    twister = random.Random()
    twister.setstate((3, (*words, 624), None))
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = count
        while other > last:
            other = twister.getrandbits(32) % 2 ** last.bit_length()
        order[last], order[other] = order[other], order[last]
    return order


def test_the_split_is_that_of_the_protocol() -> None:
    rows = label_and_split(ratings(40))  # 160 without the 3s
    wanted = [""] * 160
    for place, row in enumerate(permutation(2018, 160)):
        wanted[row] = "train" if place < 128 else "validation" if place < 144 else "test"
    assert rows["part"].to_list() == wanted


def test_the_split_is_random_in_user_time_and_label() -> None:
    rows = label_and_split(ratings(2000)).with_row_index("place")
    test = rows.filter(part="test")
    # Of 800 draws a share of one half has a standard deviation of 0.018, a mean place one of 82.
    assert len(test) == 800
    assert abs(test["label"].mean() - 0.5) < 0.06
    assert abs(test["place"].mean() - 3999.5) < 260
    assert test["user"].n_unique() == 8  # users 3 and 8 gave 3 stars alone


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a source folder of 80 ratings that are not 3."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    ratings(20).write_parquet(source / "ratings.parquet")
    users = {
        "user": range(10, 0, -1),
        "gender": ["F", "M"] * 5,
        "age": [1, 18, 25, 35, 45] * 2,
        "occupation": range(10),
        "zip": [f"z{user}" for user in range(10, 0, -1)],
    }
    pl.DataFrame(users).write_parquet(source / "users.parquet")
    return source


def test_all_ids_are_known_by_training_counts_and_nothing_else_is(tiny: Path) -> None:
    data = MovieLensRatings(source=str(tiny), batch_size=64)
    data.setup("fit")
    sizes = {name: one.num_ids for name, one in data.schema.vocabularies.items()}
    # Users 3 and 8 gave 3 stars alone: they, their zips and their occupations are not there.
    assert sizes == {
        "user": 8, "movie": 80, "zip": 8, "gender": 2, "age": 4, "occupation": 8,
    }  # fmt: skip
    assert data.schema.vocabularies["movie"].counts_V.tolist() == [1] * 64 + [0] * 16
    for loader in (data.val_dataloader(), data.test_dataloader()):
        (batch,) = loader
        assert (split_keyed(batch.ids)["movie"].values >= 64).all()
        assert (split_keyed(batch.ids)["movie"].values < 80).all()


def test_raw_ids_are_those_of_the_file_and_need_no_vocabulary(tiny: Path) -> None:
    data = MovieLensRatings(source=str(tiny), batch_size=64, raw=True)
    data.setup("fit")
    assert data.schema.vocabularies == {}
    (batch,) = data.train_dataloader()
    movies = split_keyed(batch.ids)["movie"].values.tolist()
    # Movies are numbered as the ratings are, from 100; of 100 ratings 20 have 3 stars.
    assert len(set(movies)) == 64
    assert {movie for movie in movies if (movie - 100) % 5 == 2} == set()
    assert 100 <= min(movies) < max(movies) < 200
    zips = set(split_keyed(batch.ids)["zip"].values.tolist())
    assert zips <= {hash_string(f"z{user}") for user in range(1, 11)}


def test_the_seed_of_a_run_shuffles_training_and_leaves_the_split_alone(tiny: Path) -> None:
    found = []
    for seed in (1, 2):
        data = MovieLensRatings(source=str(tiny), seed=seed, batch_size=64)
        data.setup("fit")
        (train,), (test,) = data.train_dataloader(), data.test_dataloader()
        found.append(
            (
                split_keyed(train.ids)["movie"].values.tolist(),
                split_keyed(test.ids)["movie"].values.tolist(),
            )
        )
    assert found[0][0] != found[1][0]
    assert sorted(found[0][0]) == sorted(found[1][0])
    assert found[0][1] == found[1][1]


def test_nothing_is_prepared_twice(tiny: Path, tmp_path: Path) -> None:
    folder = prepare(tiny, tmp_path / "cache")
    assert folder.name.startswith(f"movielens1m-{FORMAT}-")
    stamp = (folder / "train.parquet").stat().st_mtime_ns
    assert prepare(tiny, tmp_path / "cache") == folder
    assert (folder / "train.parquet").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["ratings", "users"])
def test_missing_source_file_is_named(tiny: Path, tmp_path: Path, name: str) -> None:
    (tiny / f"{name}.parquet").unlink()
    with pytest.raises(RecembError, match=rf"/source/{name}\.parquet: MovieLens-1M is not there"):
        prepare(tiny, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


# The real data.


@pytest.fixture(scope="module")
def real() -> MovieLensRatings:
    """Return the benchmark's data."""
    if not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set")
    source = data_root() / "ml-1m" / "ratings.parquet"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    return MovieLensRatings()


def test_real_ids_are_those_of_the_protocol(real: MovieLensRatings) -> None:
    sizes = {name: one.num_ids for name, one in real.schema.vocabularies.items()}
    assert sizes == {
        "user": 6040, "movie": 3668, "zip": 3439, "gender": 2, "age": 7, "occupation": 21,
    }  # fmt: skip
    assert sum(sizes.values()) == 13_177


def test_real_rows_are_those_of_the_protocol(real: MovieLensRatings) -> None:
    parts = {stage: pl.read_parquet(real.folder / f"{stage}.parquet") for stage in STAGES}
    sizes = {stage: len(rows) for stage, rows in parts.items()}
    assert sizes == {"train": 591_210, "validation": 73_901, "test": 73_901}
    rows = pl.concat(parts.values())
    assert len(rows) == 739_012
    assert rows.select("user", "movie").n_unique() == 739_012
    # GroupLens counts 348,971 ratings of 4 stars and 226,310 of 5.
    assert rows["label"].sum() == 348_971 + 226_310
