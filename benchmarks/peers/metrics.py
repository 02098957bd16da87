"""AUC and log loss of saved predictions, as plain numpy.

Shapes: N rows.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating] | NDArray[np.integer]

EPSILON = 1e-15
"""Predictions are kept this far from 0 and 1, so that no single row makes the log loss infinite."""


def area_under_curve(label_N: Numbers, score_N: Numbers) -> float:
    """Return the chance that a positive row scores above a negative one, a tie counting half.

    With the mean rank of tied scores, ``AUC = (sum of positive ranks - P (P + 1) / 2) / (P Q)``
    for P positive and Q negative rows (Mann and Whitney).

    Args:
        label_N: 0 or 1 for each row.
        score_N: Any increasing function of the predicted probability.

    Raises:
        ValueError: If the labels are all equal; the value is then undefined.

    Example:
        >>> area_under_curve(np.array([0, 1, 1]), np.array([0.1, 0.9, 0.1]))
        0.75
    """
    positive_N = label_N > 0
    num_positive = int(positive_N.sum())
    num_negative = len(label_N) - num_positive
    if num_positive == 0 or num_negative == 0:
        raise ValueError(f"labels: both classes are needed, got {num_positive} positive rows")
    _, group_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count) - (count - 1) / 2)[group_N]
    above = rank_N[positive_N].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def log_loss(label_N: Numbers, probability_N: Numbers) -> float:
    """Return the mean negative log likelihood, in nats.

    Example:
        >>> round(log_loss(np.array([0, 1]), np.array([0.5, 0.5])), 6)
        0.693147
    """
    clipped_N = np.clip(probability_N.astype(np.float64), EPSILON, 1 - EPSILON)
    return float(-np.where(label_N > 0, np.log(clipped_N), np.log1p(-clipped_N)).mean())
