"""Spread: the first draws of a study, each setting evenly over its range.

Independent draws leave gaps and clusters where they are few. Here any 16 trials that follow one
another draw a setting once from each sixteenth of its range, in an order of the setting's own
(Latin hypercube: McKay et al., Technometrics 1979).

optuna is imported here, so this is imported where a study is.
"""

import math
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study
from optuna.trial import FrozenTrial

STRATA = 16


class SpreadSampler(optuna.samplers.BaseSampler):
    """Draws the settings of one trial; what it draws depends on nothing else.

    Args:
        seed: Of the study, at least 0.
        number: Of the trial.
    """

    def __init__(self, seed: int, number: int) -> None:
        self.seed, self.number = seed, number

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return nothing: each setting is drawn for itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing, as above."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of a setting."""
        return value_at(share_of(self.seed, param_name, self.number), param_distribution)


def share_of(seed: int, name: str, number: int) -> float:
    """Return where in its range a setting lies in a trial, in 0 .. 1 (1 not included)."""
    block, position = divmod(number, STRATA)
    # Seeded by a hash of all of these: seeds that follow one another have nothing in common.
    generator = np.random.default_rng([seed, block, *name.encode()])
    strata = generator.permutation(STRATA)
    inside = generator.random(STRATA)
    return float((strata[position] + inside[position]) / STRATA)


def value_at(share: float, distribution: BaseDistribution) -> Any:
    """Return the value that has a share of a distribution below it.

    Example:
        >>> value_at(0.5, FloatDistribution(0.0, 3.0))
        1.5
        >>> value_at(0.5, IntDistribution(2, 6, step=2)), value_at(0.9, IntDistribution(1, 10))
        (4, 10)
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        # A whole number stands for half a one on either side.
        edge = 0.5 if isinstance(distribution, IntDistribution) else 0.0
        start, end = math.log(low - edge), math.log(high + edge)
        value = math.exp(start + share * (end - start))
    elif step is not None:
        value = low + step * int(share * (round((high - low) / step) + 1))
    else:
        value = low + share * (high - low)
    value = min(max(value, low), high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
