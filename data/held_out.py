"""Rows held out of a training file: chosen by a hash of their number, so always the same ones."""

import torch
from torch import Tensor

from recemb.hashing import rows_of

PARTS = 1 << 20
"""A share is met in so many steps."""
SALT = 0x5EA2C4


def rows_of_side(share: float, is_held: bool, first_row: int, count: int) -> Tensor:
    """Return the places, from 0, of the rows of one side among consecutive ones.

    Args:
        share: Of rows that are held out.
        is_held: Which side: the rows held out, or the others.
        first_row: Number of the first row in the file.
        count: How many rows there are.
    """
    number_N = torch.arange(first_row, first_row + count)
    salt_N = torch.full_like(number_N, SALT)
    part_N = rows_of(number_N, salt_N, torch.full_like(number_N, PARTS))
    return torch.nonzero((part_N < share * PARTS) == is_held).squeeze(1)
