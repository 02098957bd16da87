"""Fronts, the rule by which trials are trained on, and the answer of a goal."""

import itertools

import pytest

from recemb.errors import RecembError
from recemb.sweep.front import dominates, front, rungs, survives
from recemb.sweep.objectives import parse_goal, smallest_within


def test_front_of_a_known_set():
    points = {1: (1.0, 9.0), 2: (2.0, 5.0), 3: (2.0, 6.0), 4: (5.0, 1.0), 5: (6.0, 1.0)}
    assert front(points) == [1, 2, 4]


def test_the_front_dominates_all_others_and_none_of_itself():
    points = {n: (float(n * 7 % 11), float(n * 5 % 13), float(n % 3)) for n in range(60)}
    kept = front(points)
    assert not any(dominates(points[a], points[b]) for a, b in itertools.product(kept, kept))
    for other in set(points) - set(kept):
        assert any(dominates(points[one], points[other]) for one in kept)


def test_equal_points_are_both_on_the_front():
    assert front({1: (1.0, 1.0), 2: (1.0, 1.0)}) == [1, 2]


def test_with_one_number_a_third_survives():
    others = [(float(n),) for n in range(1, 9)]  # nine with its own
    assert [survives((own,), others, 3.0) for own in (0.5, 2.5, 3.5, 8.5)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_what_nothing_dominates_survives_however_bad_one_number_is():
    others = [(float(n), 10.0) for n in range(8)]
    assert survives((99.0, 9.0), others, 3.0)
    assert not survives((99.0, 10.0), others, 3.0)


def test_rungs_grow_and_end_before_the_last_epoch():
    assert rungs(1, 2.0, 9) == [1, 2, 4, 8]
    assert rungs(2, 3.0, 2) == []


def test_the_smallest_within_a_loss():
    points = {0: (0.900, 100.0), 1: (0.8995, 40.0), 2: (0.8985, 20.0), 3: (0.890, 5.0)}
    assert smallest_within(points, 0.900, 0.001, "max") == 1
    assert smallest_within(points, 0.900, 0.002, "max") == 2
    assert smallest_within(points, 0.950, 0.002, "max") is None
    # Of errors the smallest is the best.
    assert smallest_within({0: (0.80, 100.0), 1: (0.81, 10.0)}, 0.80, 0.02, "min") == 1


@pytest.mark.parametrize("goal", ["loss<0.1", "auc<=0.1", "loss<=-1", "loss<=x", "loss<=0.1.2"])
def test_what_is_no_goal_is_refused(goal):
    with pytest.raises(RecembError, match="--goal: must be such as"):
        parse_goal(goal)
