"""Frequency blocks: where the blocks of ids begin in each id space."""

import pytest
import torch

from recemb.errors import RecembError
from recemb.tables.frequency_blocks import block_sizes, block_starts, ranks
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace

# By falling count: a0 9, b0 8, a1 7, b1 7 (a's first), a2 3, b2 1, and a3, not counted.
SPACES = [
    IdSpace("a", 4, torch.tensor([9, 7, 3])),
    IdSpace("b", 3, torch.tensor([8, 7, 1])),
]


def test_ids_of_several_spaces_are_ranked_together() -> None:
    assert block_starts("t", SPACES, [1, 3, 6]) == [[0, 1, 2, 3, 4], [0, 0, 1, 3, 3]]
    assert block_starts("t", SPACES, [4]) == [[0, 2, 4], [0, 2, 3]]
    assert block_starts("t", SPACES, []) == [[0, 4], [0, 3]]
    assert ranks("t", SPACES, [1, 3, 6]).tolist() == [0, 1, 2, 3, 1, 2, 2]


def test_one_space_needs_no_counts() -> None:
    assert block_starts("t", [IdSpace("a", 9)], [2, 5]) == [[0, 2, 5, 9]]


def test_several_spaces_need_counts() -> None:
    with pytest.raises(
        RecembError, match=r"^t: blocks of ids by frequency over several id spaces "
    ):
        block_starts("t", [SPACES[0], IdSpace("c", 9)], [2])


def test_sizes_and_what_has_none() -> None:
    assert block_sizes("t", Full(dim=1), SPACES, [1, 3, 6]) == [1, 2, 3, 1]
    with pytest.raises(RecembError, match=r"^t: ends must be below the table's number of ids, 7, "):
        block_sizes("t", Full(dim=1), SPACES, [1, 7])
