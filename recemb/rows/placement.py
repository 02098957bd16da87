"""Placement: which process has which part of each table. Pure planning, without a process group.

Shapes: R rows of a table, D columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from recemb.errors import RecembError
from recemb.physical import INTEGERS, PhysicalTable, Sharding

SMALL_BYTES = 1 << 20
"""Tables up to this size are replicated unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a table on one process."""

    rank: int
    first_row: int
    num_rows: int
    first_column: int
    num_columns: int
    is_narrow: bool
    """Whether it has not all columns."""


@dataclass(frozen=True, slots=True)
class Placement:
    """How a physical table lies on the processes."""

    how: Sharding
    ranks: tuple[int, ...]
    """Owners of its blocks; all processes if it is replicated."""

    def pieces(self, table: PhysicalTable) -> list[Piece]:
        """Return the blocks of a table: as TorchRec cuts it, equal but for the last ones."""
        if self.how == "table_wise":
            return [Piece(self.ranks[0], 0, table.num_rows, 0, table.dim, False)]
        total = table.dim if self.how == "column_wise" else table.num_rows
        block = -(-total // len(self.ranks))
        firsts = [min(number * block, total) for number in range(len(self.ranks) + 1)]
        spans = [(first, end - first) for first, end in pairwise(firsts)]
        if self.how == "column_wise":
            return [
                Piece(rank, 0, table.num_rows, first, count, count < table.dim)
                for rank, (first, count) in zip(self.ranks, spans, strict=True)
            ]
        return [
            Piece(rank, first, count, 0, table.dim, False)
            for rank, (first, count) in zip(self.ranks, spans, strict=True)
        ]


def part_of(entry: Tensor, piece: Piece) -> Tensor:
    """Return a view of a piece's part of a whole table, of its scales or state, or of its step."""
    if entry.ndim == 1:
        return entry
    rows = entry[piece.first_row : piece.first_row + piece.num_rows]
    if not piece.is_narrow:
        return rows
    return rows[:, piece.first_column : piece.first_column + piece.num_columns]


def place(physical: Mapping[str, PhysicalTable], world_size: int) -> dict[str, Placement]:
    """Return where every table goes.

    A table goes where its ``sharding`` says. Where it says nothing, small tables are replicated and
    the others cut by rows, but for those with one quantisation step for the whole table, which stay
    whole; whole tables go to the process with the fewest bytes.

    Args:
        physical: By name.
        world_size: Number of processes.

    Raises:
        RecembError: If a table cannot lie as it says.
    """
    found: dict[str, Placement] = {}
    everywhere = tuple(range(world_size))
    loads = [0] * world_size
    for name, table in sorted(physical.items(), key=lambda item: -item[1].num_bytes):
        has_one_step = table.precision in INTEGERS and table.step == "table"
        how = table.sharding
        if how is None:
            whole: Sharding = "table_wise" if has_one_step else "row_wise"
            how = "data_parallel" if table.num_bytes <= SMALL_BYTES else whole
        if how == "row_wise" and has_one_step:
            raise RecembError(
                f"table {name!r}: its rows have one quantisation step together, so they cannot be "
                "sharded row_wise; set step to row, or sharding to table_wise or data_parallel"
            )
        if how == "column_wise" and table.precision in (*INTEGERS, "uint8"):
            raise RecembError(
                f"table {name!r}: column_wise sharding needs rows in floating point, got "
                f"{table.precision}; use row_wise or table_wise"
            )
        if how == "column_wise" and table.dim % world_size:
            raise RecembError(
                f"table {name!r}: column_wise sharding over {world_size} processes needs a dim "
                f"that they divide, got {table.dim}; use row_wise"
            )
        ranks = everywhere
        if how == "table_wise":
            ranks = (loads.index(min(loads)),)
            loads[ranks[0]] += table.num_bytes
        found[name] = Placement(how, ranks)
    return {name: found[name] for name in physical}
