"""Pooling: from one vector per id to one vector per bag.

Shapes: N ids, B bags, D elements per vector.
"""

from typing import Literal

from torch import Tensor

from recemb.jagged import Jagged, bag_of_each

Pooling = Literal["sum", "mean", "max", "none"]
"""How a bag becomes a vector; ``none`` keeps the jagged sequence."""


def pool(jagged: Jagged, pooling: Pooling, weights_N: Tensor | None = None) -> Tensor:
    """Return the (B, D) sum, mean or maximum of each bag; an empty bag gives zeros.

    Args:
        jagged: Vectors (N, D) and bag sizes.
        pooling: How they are pooled.
        weights_N: Of a mean: that of each vector. The sum of products is divided by the sum of
            weights, and a bag whose weights add up to 0 gives zeros.

    Raises:
        ValueError: If ``pooling`` is ``none``: there is nothing to pool.
    """
    vectors_ND, lengths_B = jagged
    if pooling == "none":
        raise ValueError("pooling 'none' keeps the sequence; it has no pooled form")
    bags_N = bag_of_each(lengths_B)
    zeros_BD = vectors_ND.new_zeros(lengths_B.shape[0], vectors_ND.shape[1])
    if pooling == "max":
        index_ND = bags_N.unsqueeze(1).expand_as(vectors_ND)
        # include_self=False leaves the zeros of an empty bag as they are.
        return zeros_BD.scatter_reduce(0, index_ND, vectors_ND, "amax", include_self=False)
    if pooling == "mean" and weights_N is not None:
        sums_BD = zeros_BD.index_add(0, bags_N, vectors_ND * weights_N.unsqueeze(1))
        totals_B = zeros_BD.new_zeros(lengths_B.shape[0]).index_add(0, bags_N, weights_N)
        is_none_B = totals_B == 0
        means_BD = sums_BD / totals_B.masked_fill(is_none_B, 1).unsqueeze(1)
        return means_BD.masked_fill(is_none_B.unsqueeze(1), 0)
    sums_BD = zeros_BD.index_add(0, bags_N, vectors_ND)
    if pooling == "sum":
        return sums_BD
    return sums_BD / lengths_B.clamp(min=1).unsqueeze(1).to(vectors_ND.dtype)
