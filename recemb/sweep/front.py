"""Fronts: what is best where several numbers count, none of which is worth so much of another.

Points are tuples of numbers of which smaller is better.
"""

import math
from collections.abc import Mapping, Sequence

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Return whether a point is nowhere worse than another, and somewhere better.

    Example:
        >>> dominates((1, 2), (1, 3)), dominates((1, 2), (1, 2))
        (True, False)
    """
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def front(points: Mapping[int, Point]) -> list[int]:
    """Return the keys of the points that none dominates, by their first number."""
    kept = [
        key
        for key, own in points.items()
        if not any(dominates(other, own) for other in points.values())
    ]
    return sorted(kept, key=lambda key: (points[key], key))


def survives(own: Point, others: Sequence[Point], reduction: float) -> bool:
    """Return whether a trial is trained on: successive halving by fronts.

    Of the n points of one rung, the trial's own among them, one in ``reduction`` goes on. The ones
    that no other dominates are the first front, those that only the first dominates the second, and
    so on; a trial goes on if the fronts before its own hold fewer than ceil(n / reduction) points.
    With one number that is the usual rule of ranks.

    Args:
        own: Of the trial, at the rung.
        others: Of all other trials that have been there.
        reduction: Above 1.

    Source: Li et al., MLSys 2020, arXiv:1810.05934 (asynchronous successive halving); fronts in the
    place of ranks: Schmucker et al. 2021, arXiv:2106.12639.
    """
    left = dict(enumerate((own, *others)))
    room = math.ceil(len(left) / reduction)
    before = 0
    while True:
        first = front(left)
        if 0 in first:
            return before < room
        before += len(first)
        for key in first:
            del left[key]


def rungs(first: int, reduction: float, last: int) -> list[int]:
    """Return the epochs after which trials are compared: each ``reduction`` times the one before.

    Example:
        >>> rungs(2, 3, 20)
        [2, 6, 18]
    """
    found = []
    epoch = float(first)
    while epoch < last:
        found.append(math.ceil(epoch))
        epoch *= reduction
    return found
