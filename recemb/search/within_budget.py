"""Within a budget: which dimensions of which blocks stay, or which elements.

Shapes: V ids of a table, S blocks, D dimensions, M elements.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.search.supernet import Searched
from recemb.tables.kind import FP32_BYTES, TableConfig

Keep = dict[str, list[list[int]]]
"""By table, the dimensions that each block keeps."""


def by_magnitude(table: Searched) -> Tensor:
    """Return the mean square of the elements of each block and dimension: (S, D)."""
    return _means(table, table.rows_VD.square())


def by_reads(table: Searched) -> Tensor:
    """Return the same with each element counted as often as its id was read in training: (S, D)."""
    return _means(table, table.rows_VD.square() * table.counts_V.unsqueeze(1))


def by_rank(table: Searched) -> Tensor:
    """Return the mean square over the square of its rank in its block, 1 for the largest: (S, D).

    The largest of all tables would be those of a few blocks and leave others none; that is why kind
    ``pruned`` divides by ranks too.
    """
    return _over_ranks(by_magnitude(table))


def _over_ranks(worth_SD: Tensor) -> Tensor:
    rank_SD = worth_SD.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    return worth_SD / rank_SD.square()


def by_shared_rank(tables: Mapping[str, Searched]) -> dict[str, Tensor]:
    """Return a block's mean square over the square of a dimension's rank in all tables: (S, D).

    So all blocks keep the first dimensions of one order, those with larger elements more of them.
    Where vectors of two tables are multiplied, as in matrix factorisation and in factorisation
    machines, a dimension that the one keeps is of no use unless the other keeps it too. The order
    is that of the mean squares that samples read, over all tables of the same dim.
    """
    read: dict[int, Tensor] = {}
    for one in tables.values():
        reads = one.counts_V.sum().clamp(min=1)
        read_D = (one.rows_VD.square() * one.counts_V.unsqueeze(1)).sum(0) / reads
        read[one.config.dim] = read.get(one.config.dim, torch.zeros_like(read_D)) + read_D
    rank = {
        dim: own.argsort(descending=True, stable=True).argsort() + 1 for dim, own in read.items()
    }
    return {
        name: by_magnitude(one).mean(1, keepdim=True) / rank[one.config.dim].square()
        for name, one in tables.items()
    }


def _each(
    score: Callable[[Searched], Tensor],
) -> Callable[[Mapping[str, Searched]], dict[str, Tensor]]:
    return lambda tables: {name: score(one) for name, one in tables.items()}


SCORES: dict[str, Callable[[Mapping[str, Searched]], dict[str, Tensor]]] = {
    "magnitude": _each(by_magnitude),
    "reads": _each(by_reads),
    "ranked": _each(by_rank),
    "shared": by_shared_rank,
}
"""What the dimensions of blocks may be worth, by name: (S, D) by table."""


def _means(table: Searched, values_VD: Tensor) -> Tensor:
    """Return the mean of each block and dimension."""
    sums_SD = values_VD.new_zeros(table.num_blocks, values_VD.shape[1])
    sums_SD.index_add_(0, table.block_V, values_VD)
    return sums_SD / torch.bincount(table.block_V, minlength=table.num_blocks).unsqueeze(1)


def best_columns(tables: Mapping[str, Searched], worth: Mapping[str, Tensor], budget: int) -> Keep:
    """Return the dimensions that are worth most per byte and fit, those of all tables together.

    The most that fit in the order of their worth are taken, then further ones that still fit.

    Args:
        tables: The searched ones.
        worth: (S, D) by table. Columns of worth 0 come last, those of frequent ids first: what a
            budget has room for may be of use when it is trained.
        budget: Serving bytes of these tables together.

    Raises:
        RecembError: If not a single dimension fits.
    """
    columns = [
        (float(value), name, block, dimension)
        for name, own_SD in worth.items()
        for block, own_D in enumerate(own_SD.tolist())
        for dimension, value in enumerate(own_D)
    ]
    columns.sort(key=lambda one: -one[0])
    low, high = 0, len(columns)
    while low < high:
        middle = (low + high + 1) // 2
        fits = _bytes(tables, _keep(tables, columns[:middle])) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    taken = columns[:low]
    size = _bytes(tables, _keep(tables, taken))
    for column in columns[low:]:
        _, name, block, _ = column
        # Rows have scales of their own where a block has none yet: counted below, exactly.
        if int((tables[name].block_V == block).sum()) * _least_bytes(tables[name]) > budget - size:
            continue
        larger = _bytes(tables, _keep(tables, [*taken, column]))
        if larger <= budget:
            taken, size = [*taken, column], larger
    if not taken:
        least = min(_bytes(tables, _keep(tables, [column])) for column in columns)
        raise RecembError(
            f"search: a budget of {budget:,} bytes is too small for the tables that are searched; "
            f"one dimension of their smallest block takes {least:,}; raise it"
        )
    return _keep(tables, taken)


def _least_bytes(table: Searched) -> float:
    """Return the bytes of an element, at least."""
    return {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int16": 2.0, "int8": 1.0}.get(
        table.config.precision, 0.5
    )


def _keep(tables: Mapping[str, Searched], columns: list[tuple[float, str, int, int]]) -> Keep:
    keep: Keep = {name: [[] for _ in range(one.num_blocks)] for name, one in tables.items()}
    for _, name, block, dimension in columns:
        keep[name][block].append(dimension)
    return {name: [sorted(kept) for kept in own] for name, own in keep.items()}


def _bytes(tables: Mapping[str, Searched], keep: Keep) -> int:
    return sum(
        one.selected(keep[name]).serving_bytes(one.where, one.spaces)
        for name, one in tables.items()
    )


def random_columns(tables: Mapping[str, Searched], budget: int, generator: torch.Generator) -> Keep:
    """Return dimensions drawn at random that fill a budget."""
    worth = {
        name: torch.rand(one.num_blocks, one.config.dim, generator=generator) + 1e-6
        for name, one in tables.items()
    }
    return best_columns(tables, worth, budget)


def largest_elements(
    tables: Mapping[str, Searched], budget: int, sizes: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the places of the largest elements of all tables, as many as fit.

    Places number the elements of a table row by row. Every table keeps one element at least.

    Args:
        tables: The searched ones.
        budget: Serving bytes of these tables together.
        sizes: What makes an element large, (V, D) by table; by default its magnitude.

    Raises:
        RecembError: If the budget has no room for an element of each table.
    """
    count = num_elements(
        {name: (one.config, len(one.rows_VD)) for name, one in tables.items()}, budget
    )
    if sizes is None:
        sizes = {name: one.rows_VD.abs() for name, one in tables.items()}
    flat = [sizes[name].flatten().clone() for name in tables]
    for own in flat:
        own[own.argmax()] = torch.inf
    place = torch.cat(flat).topk(count).indices.sort().values
    found, start = {}, 0
    for name, own in zip(tables, flat, strict=True):
        found[name] = place[(place >= start) & (place < start + len(own))] - start
        start += len(own)
    return found


def num_elements(tables: Mapping[str, tuple[TableConfig, int]], budget: int) -> int:
    """Return how many elements of all tables together fit a budget in kind ``pruned``.

    Args:
        tables: Configuration and number of ids, by name.
        budget: Serving bytes of these tables together.

    Raises:
        RecembError: If there is no room for an element of each table.
    """
    none = sum(_sparse_bytes(config, total, 0) for config, total in tables.values())
    element = max(
        _sparse_bytes(config, total, 1) - _sparse_bytes(config, total, 0)
        for config, total in tables.values()
    )
    count = (budget - none) // element
    if count < len(tables):
        raise RecembError(
            f"search: a budget of {budget:,} bytes is too small for the sparse form, which needs "
            f"{none + element * len(tables):,} for one element of each table; raise it"
        )
    return min(count, sum(total * config.dim for config, total in tables.values()))


def _sparse_bytes(config: TableConfig, num_ids: int, num_values: int) -> int:
    width = 1 if config.dim <= 256 else FP32_BYTES
    projection = config.dim * (config.project or 0) * FP32_BYTES
    return num_values * (FP32_BYTES + width) + (num_ids + 1) * FP32_BYTES + projection
