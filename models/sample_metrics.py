"""Metrics over samples: AUC of logits and means, both in double precision.

Shapes: B samples of a batch, N of all batches, G groups of equal scores.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def auc(score_N: Tensor, is_positive_N: Tensor) -> float:
    """Return the share of pairs (positive, negative) in the right order, of equal scores half.

    It is NaN where there are no such pairs: where all samples are of one class.

    Args:
        score_N: Any numbers that rise with the probability; logits tell apart what their rounded
            probabilities do not.
        is_positive_N: The labels.

    Example:
        >>> auc(torch.tensor([40.0, 30.0, 20.0]), torch.tensor([True, False, False]))
        1.0
    """
    score_N, order_N = score_N.sort()
    _, count_G = torch.unique_consecutive(score_N, return_counts=True)
    ends_G = count_G.cumsum(0) - 1
    upto_G = is_positive_N[order_N].long().cumsum(0)[ends_G]  # positives up to the group's end
    positive_G = upto_G.diff(prepend=upto_G.new_zeros(1)).double()
    negative_G = count_G - positive_G
    below_G = negative_G.cumsum(0) - negative_G
    right = (positive_G * (below_G + negative_G / 2)).sum()
    return float(right / (positive_G.sum() * negative_G.sum()))


class Auc(Metric):
    """AUC of all samples; scores are kept as they are.

    Attributes:
        undefined: Once computed, why there is no AUC; None where there is one.
    """

    full_state_update = False
    score_B: list[Tensor]
    is_positive_B: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("score_B", [], dist_reduce_fx="cat")
        self.add_state("is_positive_B", [], dist_reduce_fx="cat")
        self.undefined: str | None = None

    def update(self, score_B: Tensor, label_B: Tensor) -> None:
        """Count samples."""
        score_B = score_B.detach()
        self.score_B.append(score_B if score_B.dtype == torch.float64 else score_B.float())
        self.is_positive_B.append(label_B > 0.5)

    def compute(self) -> float:
        """Return the AUC, or NaN."""
        score_N, is_positive_N = (
            torch.cat(own) if isinstance(own, list) else own
            for own in (self.score_B, self.is_positive_B)
        )
        labels = is_positive_N.unique().tolist()
        self.undefined = None
        if len(labels) < 2:
            only = f"all {len(score_N):,} labels are {int(labels[0])}" if labels else "no sample"
            self.undefined = f"{only}, and it takes both classes"
        return auc(score_N, is_positive_N)


class Mean(Metric):
    """The mean of all values."""

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(name, zero, dist_reduce_fx="sum")

    def update(self, value_B: Tensor) -> None:
        """Count values."""
        self.total = self.total + value_B.detach().double().sum()
        self.count = self.count + value_B.numel()

    def compute(self) -> Any:
        """Return the mean; NaN of nothing."""
        return self.total / self.count
