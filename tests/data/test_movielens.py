"""MovieLens-1M as click data: splits by time within a user, histories without the future."""

import os
import random
from pathlib import Path

import polars as pl
import pytest

from recemb.data.columns import IdColumn, ListColumn
from recemb.data.files import data_root
from recemb.data.movielens import (
    FORMAT,
    MovieLens1M,
    describe_movies,
    histories,
    label_and_split,
    prepare,
)
from recemb.errors import RecembError
from recemb.jagged import split_keyed


def ratings(*users: tuple[int, list[tuple[int, int]]]) -> pl.DataFrame:
    """Return ratings of (user, [(movie, stars), ...]), each user's in order of time."""
    rows = [
        {"user": user, "movie": movie, "pos": pos, "rating": stars}
        for user, rated in users
        for pos, (movie, stars) in enumerate(rated)
    ]
    return pl.DataFrame(rows)


def history_by_loop(rows: pl.DataFrame, length: int) -> list[list[int]]:
    """Return the histories by one pass in plain Python."""
    liked: dict[int, list[int]] = {}
    found = []
    for user, movie, label in rows.select("user", "movie", "label").iter_rows():
        before = liked.setdefault(user, [])
        found.append(before[-length:])
        if label == 1:
            before.append(movie)
    return found


@pytest.mark.parametrize(
    ("count", "parts"),
    [
        (10, ["train"] * 8 + ["validation", "test"]),
        (20, ["train"] * 16 + ["validation"] * 2 + ["test"] * 2),
        (5, ["train"] * 4 + ["validation"]),
        (11, ["train"] * 9 + ["validation", "test"]),
        (1, ["train"]),
    ],
)
def test_the_last_tenth_is_test_and_the_one_before_it_validation(
    count: int, parts: list[str]
) -> None:
    rows = label_and_split(ratings((1, [(movie, 5) for movie in range(count)])))
    assert rows["part"].to_list() == parts


def test_each_user_is_split_alone() -> None:
    # The input is shuffled: time is pos, not the order of the rows.
    frame = ratings((1, [(m, 5) for m in range(10)]), (2, [(m, 5) for m in range(20)]))
    rows = label_and_split(frame.sample(fraction=1.0, shuffle=True, seed=3))
    assert rows.select("user", "pos").rows() == [
        *((1, p) for p in range(10)), *((2, p) for p in range(20))
    ]  # fmt: skip
    assert rows.filter(part="test").select("user", "pos").rows() == [(1, 9), (2, 18), (2, 19)]
    assert rows.filter(part="validation")["pos"].to_list() == [8, 16, 17]


def test_four_and_five_stars_are_positive() -> None:
    rows = label_and_split(ratings((1, [(10 + stars, stars) for stars in (1, 2, 3, 4, 5)])))
    assert rows.select("movie", "label").rows() == [(11, 0), (12, 0), (13, 0), (14, 1), (15, 1)]


def test_histories_by_hand() -> None:
    rows = label_and_split(
        ratings((1, [(11, 5), (12, 2), (13, 4), (14, 5)]), (2, [(11, 3), (21, 5), (22, 1)]))
    )
    assert histories(rows).to_list() == [
        [], [11], [11], [11, 13],  # user 1: never the row's own movie
        [], [], [21],  # user 2 starts with nothing
    ]  # fmt: skip
    assert histories(rows).name == "history_movie"


def test_long_histories_keep_the_last_oldest_first() -> None:
    rows = label_and_split(ratings((1, [(movie, 5) for movie in range(1, 61)])))
    found = histories(rows).to_list()
    assert found[50] == list(range(1, 51))
    assert found[51] == list(range(2, 52))
    assert found[59] == list(range(10, 60))
    assert max(map(len, found)) == 50


@pytest.mark.parametrize("length", [1, 3, 50])
def test_histories_equal_a_plain_loop(length: int) -> None:
    draw = random.Random(length)
    users = [
        (
            user,
            [(draw.randrange(1, 200), draw.randrange(1, 6)) for _ in range(draw.randrange(1, 90))],
        )
        for user in range(1, 40)
    ]
    rows = label_and_split(ratings(*users, (40, [(1, 1)] * 5)))
    assert histories(rows, length).to_list() == history_by_loop(rows, length)


def test_no_positive_at_all_means_empty_histories() -> None:
    rows = label_and_split(ratings((1, [(1, 1), (2, 3)])))
    found = histories(rows)
    assert found.to_list() == [[], []]
    assert found.dtype == pl.List(pl.Int64)


def test_the_year_is_that_of_the_last_brackets() -> None:
    movies = pl.DataFrame(
        {
            "movie": [1, 2, 3, 4, 5],
            "title": [
                "Toy Story (1995)", "1984 (1956) (1984) ", "No Year", "(1999) A Title", "Odd (95)"
            ],
            "genres": [["Comedy"], [], ["A", "B"], ["C"], ["D"]],
        }
    )  # fmt: skip
    described = describe_movies(movies)
    assert described.columns == ["movie", "year", "genres"]
    assert described["year"].to_list() == [1995, 1984, None, None, None]
    assert described["movie"].to_list() == [1, 2, 3, 4, 5]
    assert described["genres"].to_list() == movies["genres"].to_list()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a source folder of two users with ten ratings each."""
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "source"
    source.mkdir()
    rated = [(movie, 5 if movie % 2 else 1) for movie in range(1, 11)]
    ratings((7, rated), (8, rated)).write_parquet(source / "ratings.parquet")
    users = pl.DataFrame({"user": [8, 7], "gender": ["M", "F"]})
    users.write_parquet(source / "users.parquet")
    movies = pl.DataFrame(
        {"movie": range(1, 11), "title": ["T (1990)"] * 10, "genres": [["g"]] * 10}
    )
    movies.write_parquet(source / "movies.parquet")
    return source


def test_prepared_files_hold_every_rating_once(tiny: Path, tmp_path: Path) -> None:
    folder = prepare(tiny, tmp_path / "cache")
    assert folder.name.startswith(f"movielens1m-{FORMAT}-")
    parts = {p: pl.read_parquet(folder / f"{p}.parquet") for p in ("train", "validation", "test")}
    assert {part: len(rows) for part, rows in parts.items()} == {
        "train": 16, "validation": 2, "test": 2
    }  # fmt: skip
    assert parts["test"].select("user", "movie", "label", "gender", "history_movie").rows() == [
        (7, 10, 0, "F", [1, 3, 5, 7, 9]),
        (8, 10, 0, "M", [1, 3, 5, 7, 9]),
    ]
    assert pl.read_parquet(folder / "movies.parquet")["year"].to_list() == [1990] * 10


def test_nothing_is_prepared_twice(tiny: Path, tmp_path: Path) -> None:
    folder = prepare(tiny, tmp_path / "cache")
    stamp = (folder / "train.parquet").stat().st_mtime_ns
    assert prepare(tiny, tmp_path / "cache") == folder
    assert (folder / "train.parquet").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("name", ["ratings", "users", "movies"])
def test_missing_source_file_is_named(tiny: Path, tmp_path: Path, name: str) -> None:
    (tiny / f"{name}.parquet").unlink()
    with pytest.raises(RecembError, match=rf"/source/{name}\.parquet: MovieLens-1M is not there"):
        prepare(tiny, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_module_prepares_on_first_use(tiny: Path) -> None:
    data = MovieLens1M(
        label="label",
        categorical={"user": IdColumn(), "movie": IdColumn()},
        lists={"history_movie": ListColumn(vocabulary="movie")},
        source=str(tiny),
    )
    data.setup("fit")
    (batch,) = data.test_dataloader()
    assert split_keyed(batch.ids)["history_movie"].lengths.tolist() == [5, 5]
    # Trained on movies 1 to 8, and in histories on 1, 3, 5 and 7; 9 and 10 are unknown (index 8).
    assert split_keyed(batch.ids)["movie"].values.tolist() == [8, 8]
    assert split_keyed(batch.ids)["history_movie"].values.tolist() == [0, 1, 2, 3, 8] * 2


# The real data.


@pytest.fixture(scope="module")
def real() -> pl.DataFrame:
    """Return all rows of MovieLens-1M with their histories."""
    if not os.environ.get("RECEMB_DATA"):
        pytest.skip("RECEMB_DATA is not set")
    source = data_root() / "ml-1m" / "ratings.parquet"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    rows = label_and_split(pl.read_parquet(source))
    return rows.with_columns(history_movie=histories(rows))


def test_real_split_sizes(real: pl.DataFrame) -> None:
    sizes = dict(real.group_by("part").len().rows())
    assert sizes == {"train": 802_553, "validation": 100_273, "test": 97_383}
    assert len(real) == 1_000_209


def test_no_real_history_holds_the_future(real: pl.DataFrame) -> None:
    draw = random.Random(1)
    chosen = draw.sample(sorted(real["user"].unique()), 60)
    rows = real.filter(pl.col("user").is_in(chosen))
    assert rows["history_movie"].to_list() == history_by_loop(rows, 50)
    when = {(user, movie): pos for user, movie, pos in rows["user", "movie", "pos"].iter_rows()}
    liked = {(user, movie) for user, movie in rows.filter(label=1)["user", "movie"].iter_rows()}
    for user, pos, history in rows["user", "pos", "history_movie"].iter_rows():
        assert all(when[user, movie] < pos and (user, movie) in liked for movie in history)


def test_real_parts_follow_each_other_in_time(real: pl.DataFrame) -> None:
    spans = real.group_by("user", "part").agg(first=pl.min("pos"), last=pl.max("pos"))
    at = {(user, part): (first, last) for user, part, first, last in spans.iter_rows()}
    for user in real["user"].unique():
        (_, trained), (start, end) = at[user, "train"], at[user, "validation"]
        assert trained < start
        assert end < at[user, "test"][0]
