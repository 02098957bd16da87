"""Rows of long histories: against the protocol told user by user in plain loops."""

import collections
import itertools
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recemb.data.long_histories import Negatives, Protocol, read_log, target_places, write_rows
from recemb.errors import RecembError
from tests.data.ties import tie

STAGES = ("train", "validation", "test")


def behaviours(counts=(12, 30, 9, 25), num_items=60, repeats=False) -> pl.DataFrame:
    """Return behaviours of users 70, 71, ... in no order of rows; user 71 has equal times.

    ``place`` is where a behaviour belongs: by time and, at one time, by the hash.
    """
    draw = random.Random(0)
    rows = []
    for number, count in enumerate(counts):
        items = [draw.randrange(num_items) for _ in range(count)]
        if not repeats:
            items = draw.sample(range(num_items), count)
        user = 70 + number
        timed = [
            (1000 + (place // 2 if number == 1 else place) * 7, tie(user, 500 + item), 500 + item)
            for place, item in enumerate(items)
        ]
        rows += [(user, item, time, place) for place, (time, _, item) in enumerate(sorted(timed))]
    draw.shuffle(rows)
    return pl.DataFrame(rows, schema=["user", "item", "time", "place"], orient="row")


PROTOCOL = Protocol(
    history_length=8, min_behaviours=10, targets=5, first_target=3, negatives=2, unmet=True
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    write_rows(read_log(behaviours(), Path("log"), 10), PROTOCOL, folder)
    return {stage: pl.read_parquet(folder / f"{stage}.parquet") for stage in STAGES}


def sequences():
    """Return by user the items in the order of time and their times."""
    found = collections.defaultdict(list)
    for user, item, time, place in behaviours().iter_rows():
        found[user].append((place, item, time))
    return {user: sorted(rows) for user, rows in found.items()}


def test_users_with_too_few_behaviours_are_left_out(written):
    for frame in written.values():
        assert set(frame["user"]) == {70, 71, 73}


def test_last_is_test_and_the_one_before_is_validation(written):
    for stage, back in (("test", -1), ("validation", -2)):
        positives = written[stage].filter(pl.col("label") == 1)
        found = dict(positives["user", "item"].iter_rows())
        assert found == {user: rows[back][1] for user, rows in sequences().items() if user != 72}


def test_training_targets_are_spread_and_end_before_validation(written):
    positives = written["train"].filter(pl.col("label") == 1)
    for user, rows in sequences().items():
        place_of = {item: place for place, item, _ in rows}
        own = [place_of[item] for item in positives.filter(pl.col("user") == user)["item"]]
        if user == 72:
            assert not own
            continue
        first, last = 3, len(rows) - 3
        assert own == sorted(set(own))
        assert own[0] == first
        assert own[-1] <= last
        steps = {b - a for a, b in itertools.pairwise(own)}
        span = last - first + 1
        assert len(own) == min(5, span)
        assert steps <= {span // 5, span // 5 + 1}


def test_a_user_with_few_places_has_them_all():
    places = target_places(np.array([7, 5, 4]), Protocol(targets=5, first_target=2))
    users, own = places["train"]
    assert users.tolist() == [0, 0, 0, 1]
    assert own.tolist() == [2, 3, 4, 2]


def test_history_is_what_came_before_the_target(written):
    own = sequences()
    for stage in STAGES:
        positives = written[stage].filter(pl.col("label") == 1)
        for user, item, history, seconds in positives[
            "user", "item", "history_item", "history_seconds"
        ].iter_rows():
            rows = own[user]
            at = next(place for place, one, _ in rows if one == item)
            wanted = rows[max(0, at - 8) : at]
            assert list(history) == [one for _, one, _ in wanted]
            assert list(seconds) == [rows[at][2] - time for _, _, time in wanted]


def test_two_negatives_follow_each_positive_with_its_history(written):
    for frame in written.values():
        assert frame["label"].to_list() == [1, 0, 0] * (len(frame) // 3)
        histories = frame["history_item"].to_list()
        for first in range(0, len(frame), 3):
            assert histories[first] == histories[first + 1] == histories[first + 2]


def test_negatives_are_items_that_their_user_never_meets(written):
    met = {user: {item for _, item, _ in rows} for user, rows in sequences().items()}
    for frame in written.values():
        for user, item in frame.filter(pl.col("label") == 0)["user", "item"].iter_rows():
            assert item not in met[user]


def test_negatives_are_drawn_by_frequency_before_validation():
    # Items 1, 2 and 3 occur 60, 30 and 10 times before the last two behaviours; 4 only there.
    items = [1] * 60 + [2] * 30 + [3] * 10
    random.Random(1).shuffle(items)
    log = read_log(
        pl.DataFrame({"user": 5, "item": [*items, 4, 4], "time": range(102)}), Path("log"), 10
    )
    draws = Negatives(log, unmet=False, seed=3)
    nothing = np.full(20_000, 9)
    found = collections.Counter(draws.draw(np.zeros(20_000, dtype=np.int64), nothing).tolist())
    assert set(found) == {1, 2, 3}
    # Standard deviations of the counts are below 70.
    for item, wanted in ((1, 12_000), (2, 6_000), (3, 2_000)):
        assert abs(found[item] - wanted) < 350
    positive = np.ones(5_000, dtype=np.int64)
    other = collections.Counter(draws.draw(np.zeros(5_000, dtype=np.int64), positive).tolist())
    assert set(other) == {2, 3}
    assert abs(other[2] - 3_750) < 200


def test_nothing_left_to_draw_is_said():
    frame = pl.DataFrame({"user": [1] * 12, "item": [1, 2] * 6, "time": range(12)})
    log = read_log(frame, Path("log"), 10)
    with pytest.raises(RecembError, match=r"negatives were not found .* met nearly all items"):
        Negatives(log, unmet=True, seed=0).draw(np.zeros(3, dtype=np.int64), np.zeros(3))


def test_rows_do_not_depend_on_chunks(tmp_path, monkeypatch, written):
    monkeypatch.setattr("recemb.data.long_histories.CHUNK_IDS", 50)
    write_rows(read_log(behaviours(), Path("log"), 10), PROTOCOL, tmp_path)
    for stage in STAGES:
        positive = pl.col("label") == 1
        found = pl.read_parquet(tmp_path / f"{stage}.parquet").filter(positive)
        assert found.equals(written[stage].filter(positive))


def test_a_log_without_long_users_is_refused():
    with pytest.raises(RecembError, match=r"shop: no user has 31 behaviours, the most is 30"):
        read_log(behaviours(), Path("shop"), 31)


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(RecembError, match="protocol: negatives must be at least 1, got 0"):
        Protocol(negatives=0).check()
    with pytest.raises(RecembError, match="no user has a training target at place 90 or later"):
        write_rows(read_log(behaviours(), Path("log"), 10), Protocol(first_target=90), tmp_path)
