"""Sampled candidates: the softmax of a large catalogue over a few of its items.

The candidates of a step are the items that its batch came to, and others drawn at random. An item j
is among them with probability

    pi_j = 1 - (1 - p_j)^n (1 - 1 / V)^m

(p_j its share of training clicks, n targets, m draws), so a sum over candidates of exp(s_j) / pi_j
has the sum over all items as its expectation: -log pi_j is added to the logits of all candidates
but a position's own target, which is among them whatever is drawn.

Shapes: N positions, C candidates, V items.

Source: the correction of Bengio and Senecal, IEEE TNN 2008; for items of the batch, Yi et al.,
"Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """The items over which a step's softmax runs.

    Attributes:
        ids_C: Distinct, ascending.
        target_N: Where each position's target is among them.
        bias_C: Added to logits, but for a position's own target; None: nothing is.
    """

    ids_C: Tensor
    target_N: Tensor
    bias_C: Tensor | None


def all_candidates(target_N: Tensor, num_items: int) -> Candidates:
    """Return all of the first ``num_items`` items."""
    return Candidates(torch.arange(num_items, device=target_N.device), target_N, None)


def sampled_candidates(target_N: Tensor, counts_V: Tensor, num_sampled: int) -> Candidates:
    """Return the items of the batch and ``num_sampled`` drawn at random, each as likely.

    Args:
        target_N: 0 .. V - 1.
        counts_V: Training clicks.
        num_sampled: m.
    """
    drawn_M = torch.randint(len(counts_V), (num_sampled,), device=target_N.device)
    ids_C = torch.unique(torch.cat([target_N, drawn_M]))
    share_C = counts_V[ids_C].double() / counts_V.sum()
    # Of the logarithm of what is left out: a probability of 1e-9 would be lost in 1 - (1 - p)^n.
    left_out_C = len(target_N) * torch.log1p(-share_C.clamp(max=1 - 1e-12))
    left_out_C = left_out_C + num_sampled * torch.log1p(-share_C.new_tensor(1 / len(counts_V)))
    bias_C = -torch.log(-torch.expm1(left_out_C))
    return Candidates(ids_C, torch.searchsorted(ids_C, target_N), bias_C.float())
