"""Frequency blocks: the ids of a table, ranked by falling training frequency and cut in blocks.

A table's ids are ranked over all its id spaces together. As the ids of each space are numbered by
falling frequency, a block holds consecutive ids of every space: where they begin is all there is to
know, and no id needs a number of its block.

Shapes: S blocks, F features of a kind's module, N ids.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.tables.kind import IdSpace, TableConfig, TableFeature, num_ids


def check_ends(where: str, ends: Sequence[int]) -> None:
    """Raise a :class:`RecembError` if ranks do not ascend."""
    if list(ends) != sorted(set(ends)) or (ends and ends[0] < 1):
        raise RecembError(f"{where}: ends must ascend from 1 or more, got {list(ends)}")


def block_sizes(
    where: str, config: TableConfig, spaces: Sequence[IdSpace], ends: Sequence[int]
) -> list[int]:
    """Return how many ids each block has.

    Args:
        where: Starts the message of an error.
        config: Whose blocks they are.
        spaces: The table's id spaces.
        ends: Ranks at which blocks end; the last block has the rest.

    Raises:
        RecembError: If there are no ids for the last block, or ids cannot be numbered.
    """
    total = num_ids(where, config, spaces)
    if ends and ends[-1] >= total:
        raise RecembError(
            f"{where}: ends must be below the table's number of ids, {total}, got {list(ends)}"
        )
    edges = [0, *ends, total]
    return [end - start for start, end in itertools.pairwise(edges)]


def block_starts(where: str, spaces: Sequence[IdSpace], ends: Sequence[int]) -> list[list[int]]:
    """Return by id space its first id of each block, and last its number of ids: S + 1 numbers.

    Ids that were not counted, as those for unknown values, come after all others, and of equally
    frequent ids those of earlier id spaces first.

    Raises:
        RecembError: If ids of several spaces are to be ranked that were not counted.
    """
    if len(spaces) == 1:
        return [[0, *ends, spaces[0].num_ids or 0]]
    if not ends:
        return [[0, space.num_ids or 0] for space in spaces]
    ranked, owner = [], []
    for number, space in enumerate(spaces):
        if space.counts_V is None:
            raise RecembError(
                f"{where}: blocks of ids by frequency over several id spaces need training "
                f"counts, got none of {space.name!r}; give it a table of its own"
            )
        counts_V = space.counts_V.cpu()
        uncounted = (space.num_ids or 0) - len(counts_V)
        ranked.append(torch.cat([counts_V, counts_V.new_full((uncounted,), -1)]))
        owner.append(torch.full((space.num_ids or 0,), number))
    order = torch.cat(ranked).argsort(descending=True, stable=True)
    owner_V = torch.cat(owner)[order]
    blocks = owner_V.tensor_split(list(ends))
    sizes_SF = torch.stack([torch.bincount(one, minlength=len(spaces)) for one in blocks])
    starts: list[list[int]] = (
        torch.cat([torch.zeros_like(sizes_SF[:1]), sizes_SF]).cumsum(0).T.tolist()
    )
    return starts


def starts_of(feature: TableFeature, ends: Sequence[int]) -> list[int]:
    """Return the first id of each block of a feature's id space, and last its number of ids."""
    place = [space.name for space in feature.spaces].index(feature.space.name)
    return block_starts(f"table {feature.table!r}", feature.spaces, ends)[place]


def ranks(where: str, spaces: Sequence[IdSpace], ends: Sequence[int]) -> Tensor:
    """Return the block of each id of a table, by its number: (V,)."""
    blocks = []
    for starts in block_starts(where, spaces, ends):
        sizes_S = torch.tensor(starts).diff()
        blocks.append(torch.repeat_interleave(torch.arange(len(sizes_S)), sizes_S))
    return torch.cat(blocks)
