"""Weights: how much of what trials differ in a parameter explains by itself."""

import math
from collections.abc import Sequence
from typing import Any

from recemb.sweep.trials import Trial

BINS, LEAST = 4, 8


def explained(values: Sequence[Any], outcomes: Sequence[float]) -> float:
    """Return the share of the variance of outcomes that a parameter explains: epsilon squared.

    Values are grouped, numbers into at most four groups of equal size, and

        1 - (sum of squares within groups / (n - k)) / (sum of squares / (n - 1)),

    at least 0: without the two corrections a parameter of no influence would get (k - 1) / (n - 1).

    Args:
        values: Of the parameter, by trial.
        outcomes: Of the objective, by trial.
    """
    groups = _groups(values)
    number, kinds = len(outcomes), len(set(groups))
    mean = math.fsum(outcomes) / number
    total = math.fsum((one - mean) ** 2 for one in outcomes)
    if kinds < 2 or number <= kinds or total == 0:
        return 0.0
    within = 0.0
    for group in set(groups):
        own = [outcome for outcome, of in zip(outcomes, groups, strict=True) if of == group]
        middle = math.fsum(own) / len(own)
        within += math.fsum((one - middle) ** 2 for one in own)
    return max(0.0, 1 - (within / (number - kinds)) / (total / (number - 1)))


def _groups(values: Sequence[Any]) -> list[Any]:
    distinct = sorted(set(values), key=str)
    are_numbers = all(isinstance(one, int | float) for one in values)
    if not are_numbers or len(distinct) <= BINS:
        return list(values)
    ordered = sorted(values)
    cuts = [ordered[len(ordered) * place // BINS] for place in range(1, BINS)]
    return [sum(value >= cut for cut in cuts) for value in values]


def weights(trials: Sequence[Trial], outcomes: Sequence[float]) -> dict[str, float]:
    """Return what each parameter explains among the complete trials that drew it, most first.

    Parameters that fewer than eight trials drew are left out.
    """
    found = {}
    for name in dict.fromkeys(name for one in trials for name in one.params):
        pairs = [
            (one.params[name], value)
            for one, value in zip(trials, outcomes, strict=True)
            if name in one.params
        ]
        if len(pairs) >= LEAST:
            found[name] = explained([a for a, _ in pairs], [b for _, b in pairs])
    return dict(sorted(found.items(), key=lambda one: -one[1]))
