"""The first draws of a study are spread over the ranges, whatever the seed."""

import math
from pathlib import Path

import pytest

from recemb.sweep.objectives import Objective
from recemb.sweep.rules import SAMPLERS, Rules
from recemb.sweep.space import read_space
from recemb.sweep.study import Study

optuna = pytest.importorskip("optuna")
from recemb.sweep.spread import share_of, value_at  # noqa: E402 - needs optuna

SPACE = """
rate: {float: [0.0001, 0.1], log: true}
dim: {int: [4, 64]}
kind: {choice: [a, b, c, d]}
"""


def first_draws(sampler: str, seed: int, folder: Path, count: int = 16) -> list[dict]:
    rules = Rules(sampler=sampler, pruner="none", first_epochs=1, reduction=2.0, seed=seed)
    objectives = [Objective("quality", "val/auc", "max"), Objective("bytes", "bytes", "min")]
    (folder / "space.yaml").write_text(SPACE)
    study = Study("sqlite:///:memory:", "s", objectives, rules, folder, {})
    drawn = []
    while (claim := study.claim(read_space(folder / "space.yaml"), 64)) and len(drawn) < count:
        drawn.append(claim.drawn)
        study.tell(claim, "complete", [claim.drawn["dim"], 1.0], {})
    return drawn


def distance(shares: list[float]) -> float:
    """The largest distance of their distribution from the even one (Kolmogorov and Smirnov)."""
    ordered = sorted(shares)
    n = len(ordered)
    return max(max(x - i / n, (i + 1) / n - x) for i, x in enumerate(ordered))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_first_draws_of_a_study(sampler, seed, tmp_path):
    if sampler == "gp":
        pytest.importorskip("scipy")
    drawn = first_draws(sampler, seed, tmp_path, 16 if sampler in ("tpe", "random") else 8)
    rates = [math.log(one["rate"] / 0.0001) / math.log(1000) for one in drawn]
    dims = [(one["dim"] - 3.5) / 61 for one in drawn]
    # 16 independent draws are within .33 in 19 of 20 cases, 8 within .45; here at most 1/16.
    bound = 1 / 16 + 0.01 if sampler in ("tpe", "random") else 0.6
    assert distance(rates) < bound
    assert distance(dims) < bound
    assert len({one["kind"] for one in drawn}) > 2


def test_settings_are_drawn_apart_from_each_other_and_from_the_seeds_beside_them():
    for seed in range(51):
        rates = [share_of(seed, "rate", number) for number in range(32)]
        assert distance(rates[:16]) <= 1 / 16
        assert distance(rates[16:]) <= 1 / 16
        assert rates[:16] != rates[16:]
        others = [share_of(seed + 1, "rate", number) for number in range(32)]
        dims = [share_of(seed, "dim", number) for number in range(32)]
        for other in (others, dims):
            assert abs(correlation(rates, other)) < 0.65


def correlation(xs: list[float], ys: list[float]) -> float:
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    both = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return both / math.sqrt(sum((a - x) ** 2 for a in xs) * sum((b - y) ** 2 for b in ys))


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (optuna.distributions.IntDistribution(1, 4), [1, 2, 3, 4]),
        (optuna.distributions.IntDistribution(2, 8, step=2), [2, 4, 6, 8]),
        (optuna.distributions.FloatDistribution(0.0, 0.75, step=0.25), [0.0, 0.25, 0.5, 0.75]),
        (optuna.distributions.CategoricalDistribution(["a", "b", "c", "d"]), list("abcd")),
    ],
)
def test_values_have_equal_shares(distribution, values):
    assert [value_at(share, distribution) for share in (0.0, 0.25, 0.5, 0.75)] == values
    assert [value_at(share, distribution) for share in (0.24, 0.49, 0.74, 0.999)] == values


def test_whole_numbers_of_a_scale_end_where_the_range_does():
    scale = optuna.distributions.IntDistribution(1, 100, log=True)
    assert (value_at(0.0, scale), value_at(0.9999, scale)) == (1, 100)
    assert value_at(0.5, scale) == 7  # exp of the middle of log .5 and log 100.5: 7.09
