"""Parallel histories: list columns that say different things of the same events, one by one.

Shapes: B samples.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.jagged import Jagged, is_tracing
from recemb.serving.checks import asserted


def common_lengths(bags: Mapping[str, Jagged]) -> Tensor:
    """Return the lengths that parallel histories have in common: (B,).

    Args:
        bags: By column, at least one.

    Raises:
        RecembError: If lengths differ in a row; a traced program raises a ``RuntimeError``.
    """
    message = (
        f"columns {list(bags)}: parallel histories must have equal lengths in every row; align them"
    )
    lengths_B, *others = (bag.lengths for bag in bags.values())
    for other_B in others:
        if is_tracing():
            lengths_B = asserted(lengths_B, (other_B == lengths_B).all(), message)
        elif not torch.equal(other_B, lengths_B):
            raise RecembError(message)
    return lengths_B
