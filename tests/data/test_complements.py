"""Pairs of items: which go into which stage, from baskets and relations, and what is made up."""

import os
from pathlib import Path

import polars as pl
import pytest

from recemb.data.complements import Complements
from recemb.data.files import TableFile
from recemb.data.grocery import Grocery
from recemb.data.pair_sources import Baskets, Relations, basket_parts
from recemb.data.synthetic_pairs import Synthetic, Vectors
from recemb.errors import RecembError
from tests.data.ties import tie

Pairs = list[tuple[int, int]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECEMB_CACHE", str(tmp_path / "cache"))


def events(path: Path, rows: list[tuple[int, int, int]]) -> Path:
    pl.DataFrame(rows, schema=["basket", "item", "time"], orient="row").write_parquet(path)
    return path


def pairs_in(data: Complements, stage: str, label: int = 1) -> Pairs:
    rows = pl.read_parquet(data.file(stage).path).filter(pl.col("label") == label)
    return sorted(rows.select("item", "context").iter_rows())


def unordered(pairs: Pairs) -> set[tuple[int, int]]:
    return {(min(pair), max(pair)) for pair in pairs}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"window": 1}, [(2, 1), (1, 3), (2, 1)]),
        ({"window": 2}, [(2, 1), (1, 3), (2, 3), (2, 1)]),
        ({"window": 9}, [(2, 1), (1, 3), (2, 3), (2, 1)]),
        ({"window": 2, "longest": 10}, [(2, 1), (2, 1)]),
        ({"window": 1, "directions": "both"}, [(2, 1), (1, 2), (1, 3), (3, 1), (1, 2), (2, 1)]),
    ],
)
@pytest.mark.parametrize("part", [4_000_000, 2])
def test_pairs_of_baskets_follow_time(
    settings: dict,
    wanted: Pairs,
    part: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("recemb.data.pair_sources.PART_EVENTS", part)
    # Basket 7 is 2, 1, 3 by time; basket 8 has 1 and 2 at once, of which the hash puts 2 first, and
    # 9 one item twice, which is no pair.
    assert tie(8, 2) < tie(8, 1)
    rows = [(7, 1, 20), (7, 3, 99), (8, 1, 5), (9, 4, 1), (9, 4, 2), (7, 2, 10), (8, 2, 5)]
    path = events(tmp_path / "log.parquet", rows)
    baskets = Baskets(path=str(path), time="time", **settings)
    found = pl.concat(list(basket_parts(TableFile(path), baskets, False)))
    assert sorted(found.iter_rows()) == sorted(wanted)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_longest_is_in_seconds_where_times_are_dates(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    times = ["2026-01-28T10:00:00", "2026-01-28T10:00:59.5", "2026-01-28T10:02:00"]
    frame = pl.DataFrame({"basket": 1, "item": [5, 6, 7], "time": times})
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    pairs = {}
    for longest in (59, 60, 61):
        baskets = Baskets(path=str(path), time="time", longest=longest)
        parts = basket_parts(TableFile(path), baskets, False)
        pairs[longest] = sorted(pl.concat(list(parts)).iter_rows())
    assert pairs == {59: [], 60: [(5, 6)], 61: [(5, 6), (6, 7)]}


def test_ids_of_all_files_are_of_one_type(tmp_path: Path) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.parquet"
    pl.DataFrame({"basket": range(40), "item": range(40)}).write_csv(log)
    words = [str(number) for number in range(40)]
    table = {"item": words, "complements": [[words[n - 1], words[n - 2]] for n in range(40)]}
    pl.DataFrame(table).write_parquet(items)
    relations, baskets = Relations(path=str(items)), Baskets(path=str(log))
    # A text file says the text of its integers, so they are the same ids.
    data = Complements(baskets=baskets, relations=relations, sources="relations")
    assert data.schema.vocabularies["item"].num_known == 40
    # A parquet file says that its ids are integers.
    pl.DataFrame({"basket": range(40), "item": range(40)}).write_parquet(tmp_path / "log.parquet")
    baskets = Baskets(path=str(tmp_path / "log.parquet"))
    message = (
        r"items\.parquet: column 'item': it shares ids with .*log\.parquet: column 'item', but"
    )
    with pytest.raises(RecembError, match=message):
        Complements(baskets=baskets, relations=relations).prepare_data()


@pytest.mark.parametrize(
    ("lists", "rule"),
    [
        ([[2], [3, -1]], "column 'complements', row 1: ids must not be negative, got -1"),
        ([[1.2], [1.9]], r"'complements': ids must be integers or strings, got type List\(Float64"),
    ],
)
def test_what_is_no_id_in_a_list_is_refused(tmp_path: Path, lists: list, rule: str) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"item": [1, 2], "complements": lists}).write_parquet(path)
    with pytest.raises(RecembError, match=rf"items\.parquet: {rule}" if "row" in rule else rule):
        Complements(relations=Relations(path=str(path))).prepare_data()


def as_csv(path: Path, separator: str) -> Path:
    """The same table as text, lists joined."""
    frame = pl.read_parquet(path)
    lists = [name for name in frame.columns if isinstance(frame[name].dtype, pl.List)]
    texts = [pl.col(name).cast(pl.List(pl.String)).list.join(separator) for name in lists]
    frame.with_columns(texts).write_csv(path.with_suffix(".csv"))
    return path.with_suffix(".csv")


@pytest.mark.parametrize("separator", ["|", ";"])
def test_relations_and_vectors_are_read_from_csv_too(
    items: Path, tmp_path: Path, separator: str
) -> None:
    frame = pl.DataFrame({"item": range(60), "vector": [[n / 60, 1.0] for n in range(60)]})
    frame.write_parquet(tmp_path / "vectors.parquet")
    lonely = {"item": [*range(60), 60], "goes": [*pl.read_parquet(items)["goes"].to_list(), []]}
    pl.DataFrame(lonely).write_parquet(tmp_path / "lonely.parquet")
    also = pl.DataFrame({"item": [60], "vector": [[1.0, 1.0]]})
    pl.concat([frame, also]).write_parquet(tmp_path / "vectors.parquet")
    found = []
    for relations, vectors in (
        (tmp_path / "lonely.parquet", tmp_path / "vectors.parquet"),
        (
            as_csv(tmp_path / "lonely.parquet", separator),
            as_csv(tmp_path / "vectors.parquet", separator),
        ),
    ):
        data = Complements(
            relations=Relations(path=str(relations), complements="goes", separator=separator),
            synthetic=Synthetic(vectors=Vectors(path=str(vectors), separator=separator)),
        )
        found.append([pairs_in(data, stage) for stage in ("train", "validation", "test")])
    assert found[0] == found[1]
    assert any(item == 60 for item, _ in found[0][0])


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Sixty items in a ring, related to the next three; some relations are stored both ways."""
    numbers = list(range(60))
    table = {
        "item": numbers,
        "goes": [
            [(n + k) % 60 for k in (1, 2, 3)] + ([(n - 1) % 60] if n % 2 else []) for n in numbers
        ],
        # Two of these are complements too.
        "like": [[(n + 1) % 60, (n + 10) % 60, (n - 1) % 60] for n in numbers],
    }
    path = tmp_path / "items.parquet"
    pl.DataFrame(table).write_parquet(path)
    return path


def of_items(path: Path, **settings: object) -> Complements:
    relations = Relations(path=str(path), complements="goes", substitutes="like")
    return Complements(relations=relations, **settings)


def test_what_is_held_out_is_in_training_in_no_order(items: Path) -> None:
    data = of_items(items, validation_share=0.2, test_share=0.2)
    stages = {stage: pairs_in(data, stage) for stage in ("train", "validation", "test")}
    sets = {stage: unordered(pairs) for stage, pairs in stages.items()}
    wanted = {(min(n, (n + k) % 60), max(n, (n + k) % 60)) for n in range(60) for k in (1, 2, 3)}
    assert set().union(*sets.values()) == wanted
    assert sum(len(one) for one in sets.values()) == len(wanted) == 180
    for stage, pairs in stages.items():
        # Both orders, once each.
        assert pairs == sorted({*sets[stage], *((b, a) for a, b in sets[stage])})
    assert 20 <= len(sets["validation"]) <= 52
    assert 20 <= len(sets["test"]) <= 52


def test_substitutes_are_no_complements_of_training(items: Path) -> None:
    data = of_items(items, validation_share=0.2, test_share=0.2)
    alike = {(min(n, (n + k) % 60), max(n, (n + k) % 60)) for n in range(60) for k in (1, 10)}
    trained = unordered(pairs_in(data, "train"))
    found = {stage: unordered(pairs_in(data, stage, 0)) for stage in ("validation", "test")}
    assert found["validation"] | found["test"] == alike - trained
    assert not found["validation"] & found["test"]
    assert min(len(one) for one in found.values()) > 20
    assert pairs_in(data, "train", 0) == []
    apart = of_items(items, validation_share=0.2, test_share=0.2, exclusive=True)
    found = {stage: unordered(pairs_in(apart, stage, 0)) for stage in ("validation", "test")}
    assert found["validation"] | found["test"] == {
        (min(n, (n + 10) % 60), max(n, (n + 10) % 60)) for n in range(60)
    }
    assert pairs_in(apart, "test") == pairs_in(data, "test")


def test_seen_is_the_item_and_its_contexts_of_training(items: Path) -> None:
    data = of_items(items)
    schema = data.schema
    vocabulary = schema.vocabularies["item"]
    raw = dict(zip(vocabulary.index_V.tolist(), vocabulary.keys_V.tolist(), strict=True))
    seen = schema.attributes["seen"]
    found = {
        (raw[index], raw[one])
        for index in raw
        for one in seen.values_M[seen.offsets_V[index] : seen.offsets_V[index + 1]].tolist()
    }
    assert found == {(n, n) for n in range(60)} | set(pairs_in(data, "train"))
    assert len(seen.values_M) == len(found)


def test_events_never_bring_back_what_relations_hold_out(items: Path, tmp_path: Path) -> None:
    # Baskets have every pair of neighbours in the ring, the wrong way round, and one that is new.
    rows = [(n, (n + k) % 60, -k) for n in range(60) for k in (0, 1, 30)]
    log = events(tmp_path / "log.parquet", rows)
    baskets = Baskets(path=str(log), time="time")
    relations = Relations(path=str(items), complements="goes")
    plain = of_items(items)
    both = Complements(baskets=baskets, relations=relations)
    held = unordered(pairs_in(plain, "validation") + pairs_in(plain, "test"))
    assert unordered(pairs_in(both, "validation") + pairs_in(both, "test")) == held
    trained = pairs_in(both, "train")
    assert not unordered(trained) & held
    assert len({(a, b) for a, b in unordered(trained) if b - a == 30}) > 10
    only = Complements(baskets=baskets, relations=relations, sources="baskets")
    assert not unordered(pairs_in(only, "train")) & held
    assert unordered(pairs_in(only, "test")) == unordered(pairs_in(plain, "test"))
    assert len(pairs_in(only, "train")) == len(trained) - len(pairs_in(plain, "train"))


def test_baskets_alone_hold_out_their_own_pairs(tmp_path: Path) -> None:
    rows = [(n, item, item) for n in range(40) for item in (n, n + 1, n + 2)]
    rows += [(100, 900, 0)]  # alone in its basket, and yet an item
    data = Complements(baskets=Baskets(path=str(events(tmp_path / "log.csv.parquet", rows))))
    found = {stage: pairs_in(data, stage) for stage in ("train", "validation", "test")}
    sets = {stage: unordered(pairs) for stage, pairs in found.items()}
    wanted = {(n, n + k) for n in range(41) for k in (1, 2) if n + k <= 41}
    assert set().union(*sets.values()) == wanted
    assert not sets["train"] & (sets["validation"] | sets["test"])
    assert not sets["validation"] & sets["test"]
    # Training is in the order of time, as often as it happens: n, n + 1 are in two baskets.
    assert all(item < context for item, context in found["train"])
    assert max(found["train"].count(pair) for pair in sets["train"]) == 2
    assert int(data.schema.vocabularies["item"].num_known) == 43


def test_ids_may_be_strings(tmp_path: Path) -> None:
    table = {
        "item": [f"i{n}" for n in range(60)],
        "complements": [[f"i{(n + k) % 60}" for k in (1, 2, 3)] for n in range(60)],
    }
    path = tmp_path / "items.parquet"
    pl.DataFrame(table).write_parquet(path)
    data = Complements(relations=Relations(path=str(path)))
    assert data.schema.vocabularies["item"].is_text
    stages = [unordered(pairs_in(data, stage)) for stage in ("train", "validation", "test")]
    assert sum(len(one) for one in stages) == len(set().union(*stages)) == 180


@pytest.fixture
def lonely(tmp_path: Path) -> Path:
    """Items 0 to 59 in a ring; 100 shares its maker with 0 and 1 alone; 101 has nothing."""
    table = {
        "item": [*range(60), 100, 101],
        "complements": [[(n + k) % 60 for k in (1, 2, 3)] for n in range(60)] + [[], []],
        "maker": [["m", "all"], ["m", "all"], *[[f"n{n}", "all"] for n in range(2, 60)],
                  ["m", "all"], None],
    }  # fmt: skip
    path = tmp_path / "items.parquet"
    pl.DataFrame(table).write_parquet(path)
    return path


def test_items_without_pairs_borrow_from_those_they_share_most_with(lonely: Path) -> None:
    relations = Relations(path=str(lonely))
    plain = Complements(relations=relations)
    synthetic = Synthetic(columns=["maker"], num_similar=2, num_pairs=50)
    data = Complements(relations=relations, synthetic=synthetic)
    lent = {b for a, b in pairs_in(plain, "train") if a in (0, 1)}
    made = [pair for pair in pairs_in(data, "train") if pair not in pairs_in(plain, "train")]
    assert sorted(made) == sorted((100, one) for one in lent)
    schema = data.schema
    index = schema.vocabularies["item"].lookup(pl.Series([100, 101, 5]).to_torch())
    counts = {name: one.offsets_V.diff()[index] for name, one in schema.attributes.items()}
    assert counts["synthetic"].tolist() == [len(lent), 0, 0]
    # What is made up is not seen: it may be the right answer.
    assert counts["seen"].tolist()[:2] == [1, 1]
    for stage in ("validation", "test"):
        assert pairs_in(data, stage) == pairs_in(plain, stage)


def test_the_best_contexts_are_those_of_the_most_similar(lonely: Path, tmp_path: Path) -> None:
    # 100 points as 20 does, a little as 40 does, and against 10; 101 has no vector.
    vectors = {20: [1.0, 0.0], 40: [0.8, 0.6], 10: [-1.0, 0.0], 100: [3.0, 0.0]}
    path = tmp_path / "vectors.parquet"
    pl.DataFrame({"item": list(vectors), "vector": list(vectors.values())}).write_parquet(path)
    relations = Relations(path=str(lonely))
    plain = pairs_in(Complements(relations=relations), "train")
    of = {item: {b for a, b in plain if a == item} for item in (20, 40)}
    for count in (len(of[20]), len(of[20]) + len(of[40]), 50):
        synthetic = Synthetic(vectors=Vectors(path=str(path)), num_similar=3, num_pairs=count)
        data = Complements(relations=relations, synthetic=synthetic)
        made = {b for a, b in pairs_in(data, "train") if a == 100}
        assert made == (of[20] if count == len(of[20]) else of[20] | of[40])
    bad = path.with_name("bad.parquet")
    pl.DataFrame({"item": [100, 20], "vector": [[1.0], [1.0, 2.0]]}).write_parquet(bad)
    synthetic = Synthetic(vectors=Vectors(path=str(bad)))
    with pytest.raises(RecembError, match=r"bad.parquet: column 'vector': vectors must be equally"):
        Complements(relations=relations, synthetic=synthetic).prepare_data()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"^data: sources='both' needs baskets or relations, got \[\]"),
        ({"sources": "baskets"}, r"^data: sources='baskets' needs baskets, got \[\]"),
        ({"baskets": Baskets(path="x", window=0)}, r"^baskets: window must be at least 1, got 0"),
        ({"baskets": Baskets(path="x", longest=3)}, r"^baskets: longest must be at least 0 and"),
        ({"relations": Relations(path="x"), "test_share": 0.5}, r"^data: test_share must be above"),
        (
            {"relations": Relations(path="x"), "synthetic": Synthetic()},
            r"^synthetic: items must be alike by vectors, or by columns and baskets",
        ),
        (
            {"relations": Relations(path="x"), "synthetic": Synthetic(baskets=True)},
            r"^synthetic: baskets=true needs data.baskets",
        ),
        (
            {"relations": Relations(path="x"), "synthetic": Synthetic(columns=["a"], num_pairs=0)},
            r"^synthetic: num_pairs must be at least 1, got 0",
        ),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=message):
        Complements(**settings)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"basket": [1, 1], "item": [2, None]}).write_parquet(path)
    with pytest.raises(RecembError, match=r"column 'item', row 1: an event must have it, got null"):
        Complements(baskets=Baskets(path=str(path))).prepare_data()
    with pytest.raises(RecembError, match=r"column 'complements' is missing"):
        Complements(relations=Relations(path=str(path))).prepare_data()
    pl.DataFrame({"basket": [1, 1], "item": [2, 3], "at": ["a", "b"]}).write_parquet(path)
    baskets = Baskets(path=str(path), time="at", longest=3)
    with pytest.raises(
        RecembError, match=r"column 'at', row 0: a time must be ISO 8601; .*, got 'a'"
    ):
        Complements(baskets=baskets).prepare_data()
    pl.DataFrame({"item": [1], "complements": [2]}).write_parquet(path)
    with pytest.raises(RecembError, match=r"'complements': values must be lists, got type Int64"):
        Complements(relations=Relations(path=str(path))).prepare_data()


@pytest.mark.skipif(not os.environ.get("RECEMB_DATA"), reason="RECEMB_DATA is not set")
def test_grocery_has_its_sizes_and_no_leak() -> None:
    data = Grocery(synthetic=False)
    frames = {
        stage: pl.read_parquet(data.file(stage).path)
        .filter(pl.col("label") == 1)
        .select(low=pl.min_horizontal("item", "context"), high=pl.max_horizontal("item", "context"))
        for stage in ("train", "validation", "test")
    }
    # Each pair is there in both orders, of one stage.
    assert [len(one) for one in frames.values()] == [2 * one.n_unique() for one in frames.values()]
    assert pl.concat(frames.values()).n_unique() == sum(len(one) for one in frames.values()) // 2
    assert sum(len(one) for one in frames.values()) == 2 * 199_576
    assert data.schema.vocabularies["item"].num_known == 8_713
