"""Evolution: the best is the best, and no fault of the public code is here."""

import copy
import random

import pytest

from recemb.errors import RecembError
from recemb.search.evolution import (
    Evolution,
    EvolutionSettings,
    Widths,
    affordable,
    filled,
)

DIMS = [8, 8, 3, 16, 1]
TARGET = (2, 7, 1, 11, 1)


def fitness(widths: Widths) -> float:
    return -float(sum(abs(a - b) for a, b in zip(widths, TARGET, strict=True)))


def evolved(seed: int, **settings: int) -> tuple[Evolution, list[Widths]]:
    """Return an evolution that is over, and the candidates in the order of their scoring."""
    asked: list[Widths] = []

    def scored(widths: Widths) -> float:
        asked.append(widths)
        return fitness(widths)

    evolution = Evolution(DIMS, EvolutionSettings(**settings), seed)
    while not evolution.is_over:
        evolution.step(scored)
    return evolution, asked


@pytest.mark.parametrize("seed", range(20))
def test_the_returned_best_is_the_best_by_re_evaluation(seed: int) -> None:
    evolution, asked = evolved(seed, rounds=3)
    best = evolution.fittest()[0]
    assert fitness(best) == max(fitness(one) for one in asked)
    # And all are in order.
    values = [fitness(one) for one in evolution.fittest()]
    assert values == sorted(values, reverse=True)
    assert len(asked) == len(set(asked)) == len(values)


def test_it_finds_the_target() -> None:
    assert evolved(1)[0].fittest()[0] == TARGET


def test_rounds_are_as_large_as_they_are_said_to_be() -> None:
    sizes = []
    evolution = Evolution(DIMS, EvolutionSettings(rounds=2), 3)
    while not evolution.is_over:
        evolution.step(fitness)
        sizes.append(len(evolution.scores))
    assert sizes == [20, 40, 60]


def test_nothing_that_was_scored_changes() -> None:
    evolution = Evolution(DIMS, EvolutionSettings(rounds=5), 3)
    evolution.step(fitness)
    while not evolution.is_over:
        before = copy.deepcopy(evolution.scores)
        evolution.step(fitness)
        assert {one: evolution.scores[one] for one in before} == before
    assert all(fitness(one) == value for one, value in evolution.scores.items())


def test_mutants_reach_every_width_and_no_other() -> None:
    evolution = Evolution(DIMS, EvolutionSettings(probability=1.0), 0)
    source = random.Random(1)
    parent = (8, 8, 3, 16, 1)
    mutants = [evolution.mutant(parent, source) for _ in range(2000)]
    for place, dim in enumerate(DIMS):
        assert {one[place] for one in mutants} == set(range(1, dim + 1))
    assert {one[3] for one in [evolution.draw(source) for _ in range(2000)]} == set(range(1, 17))


def test_mutants_change_a_tenth() -> None:
    evolution = Evolution([1000] * 10, EvolutionSettings(), 0)
    source, parent = random.Random(1), (500,) * 10
    changed = sum(
        a != b
        for _ in range(1000)
        for a, b in zip(evolution.mutant(parent, source), parent, strict=True)
    )
    # Of 10,000 draws with a tenth: a deviation of 30.
    assert abs(changed - 1000) < 120


def test_crosses_are_cut_at_every_feature() -> None:
    """The public code draws the place from the number of dimensions."""
    evolution = Evolution([64] * 4, EvolutionSettings(), 0)
    source = random.Random(1)
    crosses = {evolution.cross((1, 2, 3, 4), (5, 6, 7, 8), source) for _ in range(200)}
    assert crosses == {(1, 6, 7, 8), (1, 2, 7, 8), (1, 2, 3, 8)}
    assert evolution.cross((1,), (2,), source) == (1,)


def test_an_evolution_goes_on_as_if_it_had_not_been_interrupted() -> None:
    whole, asked = evolved(5, rounds=4)
    first, _ = evolved(5, rounds=2)
    again: list[Widths] = []
    second = Evolution(DIMS, EvolutionSettings(rounds=4), 5, scores=first.scores, round=first.round)
    while not second.is_over:
        second.step(lambda one: again.append(one) or fitness(one))  # type: ignore[func-returns-value]
    assert second.scores == whole.scores
    assert again == asked[60:]


def test_candidates_are_repaired_before_they_are_scored() -> None:
    def capped(widths: Widths, source: random.Random) -> Widths:
        return tuple(min(one, 4) for one in widths)

    evolution = Evolution(DIMS, EvolutionSettings(rounds=3), 1, capped)
    while not evolution.is_over:
        evolution.step(fitness)
    assert max(max(one) for one in evolution.scores) == 4
    assert evolution.fittest()[0][:3] == (2, 4, 1)


def test_widths_too_large_for_a_budget_keep_their_proportions() -> None:
    sizes = [[100 * width for width in range(1, 65)]] * 3
    assert filled((40, 20, 10), sizes, 1400, random.Random(1)) == (8, 4, 2)
    # The room that is left goes to whichever width is first in a random order.
    seen = {filled((10, 10, 10), sizes, 1000, random.Random(seed)) for seed in range(30)}
    assert seen == {(4, 3, 3), (3, 4, 3), (3, 3, 4)}
    # A width of 1 stays, however large the others are.
    assert filled((64, 64, 1), sizes, 500, random.Random(1)) == (2, 2, 1)


def test_a_budget_is_filled_until_no_width_fits() -> None:
    source = random.Random(3)
    for _ in range(50):
        costs = [source.randint(1, 50) for _ in range(4)]
        sizes = [[cost * width for width in range(1, 17)] for cost in costs]
        budget = source.randint(sum(costs), 16 * sum(costs))
        found = filled(tuple(source.randint(1, 16) for _ in costs), sizes, budget, source)
        assert all(1 <= width <= 16 for width in found)
        room = budget - sum(cost * width for cost, width in zip(costs, found, strict=True))
        assert room >= 0
        assert all(width == 16 or cost > room for cost, width in zip(costs, found, strict=True))


def test_the_widest_that_a_budget_allows() -> None:
    sizes = [[10, 20, 30], [1, 2, 3]]
    assert affordable(sizes, 24) == [2, 3]
    assert affordable(sizes, 21) == [2, 3]
    assert affordable(sizes, 20) == [1, 3]
    assert affordable(sizes, 11) == [1, 1]
    # One that fits nothing is refused elsewhere.
    assert affordable(sizes, 5) == [1, 1]


def test_few_candidates_are_all_scored() -> None:
    evolution = Evolution([2, 1], EvolutionSettings(rounds=2), 1)
    while not evolution.is_over:
        evolution.step(sum)
    assert evolution.scores == {(1, 1): 2, (2, 1): 3}
    assert evolution.fittest()[0] == (2, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": -1}, "rounds must be at least 0, got -1"),
        ({"population": 0}, "population must be at least 1, got 0"),
        ({"parents": 0}, "parents must be at least 1, got 0"),
        ({"probability": 0.0}, "probability must be above 0 and at most 1, got 0.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(RecembError, match=f"^evolution: {message}"):
        Evolution(DIMS, EvolutionSettings(**settings), 1)
