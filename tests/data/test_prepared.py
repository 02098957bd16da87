"""Every data module that prepares files: each source has its own, and they are what was written."""

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recemb.data.avazu import INTEGERS, TEXTS, Avazu
from recemb.data.beauty import Beauty
from recemb.data.behaviour_log import BehaviourLog
from recemb.data.columns import IdColumn
from recemb.data.complements import Complements
from recemb.data.criteo import CATEGORIES, NUMBERS, Criteo
from recemb.data.diginetica import Diginetica
from recemb.data.gowalla import Gowalla
from recemb.data.grocery import Grocery
from recemb.data.interactions import Interactions
from recemb.data.long_histories import Protocol
from recemb.data.movielens import MovieLens1M
from recemb.data.movielens_long import MovieLensLong
from recemb.data.movielens_rating_prediction import MovieLensRatingPrediction
from recemb.data.movielens_ratings import MovieLensRatings
from recemb.data.movielens_sequences import MovieLensSequences
from recemb.data.pair_sources import Baskets, Relations
from recemb.data.prepared import Prepared
from recemb.data.sequences import Sequences

Make = Callable[[Path], Prepared]
NUM_ITEMS = 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path, seed: int) -> Path:
    """Write raw files of all data sets, of one content per seed and as many bytes in each."""
    draw = random.Random(seed)
    folder.mkdir()

    def lists(count: int, length: int) -> list[list[int]]:
        return [draw.sample(range(NUM_ITEMS), length) for _ in range(count)]

    events = [(user, item) for user, own in enumerate(lists(30, 20)) for item in own]
    tables = {
        "Beauty": {"items": lists(30, 8)},
        "Beauty_item2attributes": {"item": range(NUM_ITEMS), "attributes": lists(NUM_ITEMS, 2)},
        "train_sessions": {"session": lists(60, 5)},
        # Tests of Diginetica, and of Gowalla.
        "test": {
            "prefix": lists(9, 3), "target": [draw.randrange(NUM_ITEMS) for _ in range(9)],
            "user": range(9), "item": range(seed * 100, seed * 100 + 9),
        },
        "train": {
            "user": [user for user, _ in events], "item": [item for _, item in events],
            "user_id": [user for user, _ in events], "item_id": [item for _, item in events],
            "time": range(len(events)),
        },
        "item_meta": {
            "item_id": range(NUM_ITEMS), "i_category": range(NUM_ITEMS),
            "r_complement": lists(NUM_ITEMS, 9), "r_substitute": lists(NUM_ITEMS, 9),
        },
        "ratings": {
            "user": [user for user, _ in events], "movie": [item for _, item in events],
            "rating": [draw.choice((1, 2, 3, 4, 5)) for _ in events],
            "pos": [place % 20 for place in range(len(events))],
        },
        "users": {
            "user": range(30), "gender": ["F"] * 30, "age": [1] * 30, "occupation": [1] * 30,
            "zip": ["1"] * 30,
        },
        "movies": {
            "movie": range(NUM_ITEMS), "title": ["A (1990)"] * NUM_ITEMS,
            "genres": [["g"]] * NUM_ITEMS,
        },
        "sequences_5core": {"items": lists(30, 8)},
        "criteo": {
            "label": [row % 2 for row in range(100)],
            **{name: [draw.randrange(9) for _ in range(100)] for name in NUMBERS},
            **{name: [str(draw.randrange(9)) for _ in range(100)] for name in CATEGORIES},
        },
        "avazu": {
            "click": [row % 2 for row in range(100)], "hour": [14102100] * 100,
            **{name: [draw.randrange(9) for _ in range(100)] for name in INTEGERS},
            **{name: [str(draw.randrange(9)) for _ in range(100)] for name in TEXTS},
        },
    }  # fmt: skip
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    (folder / "grocery").mkdir()
    for name in ("train", "item_meta"):
        (folder / f"grocery/{name}.parquet").hardlink_to(folder / f"{name}.parquet")
    numbered = pl.DataFrame(tables["train"]).select("user", "item", "time")
    # Times of four digits: as many bytes for every seed.
    numbered.with_columns(pl.col("user", "item") + 100, pl.col("time") + 1000).write_csv(
        folder / "events.csv"
    )
    return folder


def movielens_long(folder: Path) -> MovieLensLong:
    data = MovieLensLong(source=str(folder))
    data.protocol = SHORT
    return data


SHORT = Protocol(history_length=5, min_behaviours=8, targets=3, first_target=2, negatives=1)
MODULES: dict[str, Make] = {
    "avazu": lambda folder: Avazu(source=str(folder / "avazu.parquet")),
    "beauty": lambda folder: Beauty(source=str(folder)),
    "behaviour_log": lambda folder: BehaviourLog(
        source=str(folder / "events.csv"), columns={"category": None}, protocol=SHORT
    ),
    "baskets": lambda folder: Complements(
        baskets=Baskets(path=str(folder / "events.csv"), basket="user", time="time")
    ),
    "criteo": lambda folder: Criteo(source=str(folder / "criteo.parquet")),
    "diginetica": lambda folder: Diginetica(source=str(folder)),
    "gowalla": lambda folder: Gowalla(source=str(folder)),
    "grocery": lambda _: Grocery(synthetic=False),
    "interactions": lambda folder: Interactions(source=str(folder / "events.csv"), time="time"),
    "movielens": lambda folder: MovieLens1M(
        label="label", categorical={"movie": IdColumn()}, source=str(folder)
    ),
    "movielens_long": movielens_long,
    "movielens_rating_prediction": lambda folder: MovieLensRatingPrediction(source=str(folder)),
    "movielens_ratings": lambda folder: MovieLensRatings(source=str(folder)),
    "movielens_sequences": lambda folder: MovieLensSequences(source=str(folder)),
    "relations": lambda folder: Complements(
        relations=Relations(
            path=str(folder / "item_meta.parquet"), item="item_id", complements="r_complement"
        )
    ),
    "sequences": lambda folder: Sequences(source=str(folder / "events.csv"), time="time"),
}


def rows(data: Prepared) -> dict[str, list[object]]:
    """Return the rows of all files of a data set."""
    data.prepare_data()
    return {path.name: pl.read_parquet(path).rows() for path in data.folder.glob("*.parquet")}


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "one", 1), write(tmp_path / "two", 2)


@pytest.mark.parametrize("name", MODULES)
def test_another_source_is_another_data_set(
    name: str, sources: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    def found(folder: Path) -> dict[str, list[object]]:
        monkeypatch.setenv("RECEMB_DATA", str(folder))
        return rows(MODULES[name](folder))

    one, two = found(sources[0]), found(sources[1])
    assert one.keys() == two.keys()
    assert one["test.parquet"] != two["test.parquet"]
    # In the same place of the same names, and as large: what was there before is not read.
    moved = sources[0].rename(sources[0].parent / "three")
    sources[1].rename(sources[0])
    assert found(sources[0]) == two
    # Moved elsewhere it is what it was: nothing is written again.
    before = set(cache.iterdir())
    assert found(moved) == one
    assert set(cache.iterdir()) == before


@pytest.mark.parametrize("name", MODULES)
def test_a_bit_flipped_in_a_prepared_file_is_never_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "one", 1)
    monkeypatch.setenv("RECEMB_DATA", str(source))
    data = MODULES[name](source)
    before = rows(data)
    path = data.folder / "test.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    path.write_bytes(damaged)
    assert rows(data) == before
    assert "test.parquet: damaged" in capsys.readouterr().err
