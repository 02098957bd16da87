"""Draw: what rows begin with, the same in any store and on any number of processes.

A table is drawn some rows at a time, each time from a seed of its own. So whoever holds a part of a
table draws that part, and what a table begins with depends on nothing but the seed and its name.

Shapes: R rows of a table, D their width, C rows drawn at a time.
"""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from recemb.physical import PhysicalTable

DRAWN_ELEMENTS = 1 << 22
"""Elements that are drawn at a time; part of what a seed means."""


def new_seed() -> int:
    """Return a seed for a store, from torch's generator."""
    return int(torch.randint(2**62, (), device="cpu"))


def drawn(
    name: str, table: PhysicalTable, seed: int, first: int, end: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the rows from ``first`` to before ``end``: the number of a row, and (C, D) from there.

    Args:
        name: Of the table.
        table: Whose initializer draws.
        seed: Of the store.
        first: Row.
        end: Row.
    """
    size = max(1, DRAWN_ELEMENTS // table.dim)
    before = torch.get_rng_state()
    try:
        for chunk in range(first // size, -(-end // size)):
            start = chunk * size
            key = hashlib.blake2b(f"{seed}/{chunk}/{name}".encode(), digest_size=8).digest()
            # Past torch.manual_seed, which would seed GPUs too.
            torch.default_generator.manual_seed(int.from_bytes(key))
            rows_CD = torch.empty(min(size, table.num_rows - start), table.dim)
            table.initializer(rows_CD)
            from_here = max(first, start)
            yield from_here, rows_CD[from_here - start : end - start]
    finally:
        torch.set_rng_state(before)


def drawn_whole(name: str, table: PhysicalTable, seed: int) -> Tensor:
    """Return all rows of a table, which may have none: (R, D)."""
    rows_RD = torch.empty(table.num_rows, table.dim)
    for first, rows_CD in drawn(name, table, seed, 0, table.num_rows):
        rows_RD[first : first + len(rows_CD)] = rows_CD
    return rows_RD
