"""Placement: which process has which part of a table, and how a table may lie.

Shapes: R rows of a table, D columns.
"""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from recemb.errors import RecembError
from recemb.physical import INTEGERS, PhysicalTable, Sharding
from recemb.rows.optimizers import UpdateRule

SHARDINGS: tuple[Sharding, ...] = ("data_parallel", "row_wise", "table_wise", "column_wise")
"""From the one that is taken where several are as good."""


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


def shardings(
    name: str, table: PhysicalTable, optimizer: UpdateRule, world_size: int
) -> list[Sharding]:
    """Return how a table may lie: as its ``sharding`` says, or in every way that is possible.

    Raises:
        RecembError: If it cannot lie as it says.
    """
    has_one_step = table.precision in INTEGERS and table.step == "table"
    whys: dict[Sharding, str] = {}
    if has_one_step:
        whys["row_wise"] = (
            "its rows have one quantisation step together, so they cannot be sharded row_wise; set "
            "step to row, or sharding to table_wise or data_parallel"
        )
    if table.precision in (*INTEGERS, "uint8"):
        whys["column_wise"] = (
            f"column_wise sharding needs rows in floating point, got {table.precision}; use "
            "row_wise or table_wise"
        )
    elif table.dim % world_size:
        whys["column_wise"] = (
            f"column_wise sharding over {world_size} processes needs a dim that they divide, got "
            f"{table.dim}; use row_wise"
        )
    elif world_size > 1 and set(optimizer.state_dims(table.dim).values()) - {table.dim}:
        whys["column_wise"] = (
            "rows_optimizer keeps one number per row, which blocks of columns cannot share; use "
            "adagrad or adam, or row_wise sharding"
        )
    if table.sharding in whys:
        raise RecembError(f"table {name!r}: {whys[table.sharding]}")
    return [table.sharding] if table.sharding else [how for how in SHARDINGS if how not in whys]
