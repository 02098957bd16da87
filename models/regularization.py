"""Mini-batch aware regularisation: decay only the vectors that a batch met, rare ids the most.

Shapes: N ids of a batch, U distinct ones, D elements of a vector, V ids of the id space.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recemb import collectives, processes


class Met(NamedTuple):
    """The ids of a feature that a batch has met."""

    ids_N: Tensor
    """Indices, 0 .. V - 1 or above."""
    vectors_ND: Tensor
    """Their vectors, equal for equal ids."""
    counts_V: Tensor
    """Training counts by index."""


def batch_aware_decay(met: Sequence[Met]) -> Tensor:
    """Return sum over each feature's distinct ids of |w|^2 / (2 n), n the id's training count.

    Its gradient for the vector of an id is w / n, once per batch however often the id occurs, and
    in however many processes' parts of the batch. Ids that training never counted (those for
    unknown values) have n = 1.

    Args:
        met: By feature; not empty, and as many in all processes.

    Source: Zhou et al., KDD 2018, arXiv:1706.06978, section 5.2.
    """
    distinct = [torch.unique(one.ids_N, return_inverse=True, return_counts=True) for one in met]
    keys = [
        torch.stack([torch.full_like(ids_U, number), ids_U], 1)
        for number, (ids_U, _, _) in enumerate(distinct)
    ]
    # The first process that has an id decays it for all: gradients are averaged over processes.
    share_T = collectives.is_first_holder(torch.cat(keys)) * processes.world_size()
    total = met[0].vectors_ND.new_zeros(())
    for one, (_, place_N, times_U), share_U in zip(
        met, distinct, share_T.split([len(own) for own in keys]), strict=True
    ):
        num_counted = one.counts_V.shape[0]
        known_N = one.ids_N < num_counted
        count_N = torch.where(known_N, one.counts_V[one.ids_N.clamp(max=num_counted - 1)], 1)
        # An id that occurs c times contributes c equal terms, each a c-th.
        weight_N = 0.5 * share_U[place_N] / (count_N * times_U[place_N])
        total = total + (weight_N.to(one.vectors_ND) * one.vectors_ND.square().sum(1)).sum()
    return total
