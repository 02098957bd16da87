"""Mini-batch aware regularisation: decay only the vectors that a batch met, rare ids the most.

Shapes: N ids of a batch, D elements of a vector, V ids of the id space.
"""

import torch
from torch import Tensor


def batch_aware_decay(ids_N: Tensor, vectors_ND: Tensor, counts_V: Tensor) -> Tensor:
    """Return sum over the distinct ids of a batch of |w|^2 / (2 n), n the id's training count.

    Its gradient for the vector of an id is w / n, once per batch however often the id occurs. Ids
    that training never counted (those for unknown values) have n = 1.

    Args:
        ids_N: Indices, 0 .. V - 1 or above.
        vectors_ND: Their vectors, equal for equal ids.
        counts_V: Training counts by index.

    Source: Zhou et al., KDD 2018, arXiv:1706.06978, section 5.2.
    """
    known_N = ids_N < counts_V.shape[0]
    count_N = torch.where(known_N, counts_V[ids_N.clamp(max=counts_V.shape[0] - 1)], 1)
    _, place_N, times_U = torch.unique(ids_N, return_inverse=True, return_counts=True)
    # An id that occurs c times contributes c equal terms, each a c-th.
    weight_N = 0.5 / (count_N * times_U[place_N]).to(vectors_ND.dtype)
    decay: Tensor = (weight_N * vectors_ND.square().sum(1)).sum()
    return decay
