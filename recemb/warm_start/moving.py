"""Moving: rows go to where the same ids read them now, with the optimizer's state, bit for bit.

Whether that can be done is read from what ids read: rows can be moved if no row would have to be
two others at once. So it covers every kind in which ids have rows of their own, and any hashed
table whose ids and size are as they were.

Shapes: R rows of a physical table, M rows moved, D elements per row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recemb.physical import BITS, INTEGERS, PhysicalTable, zeros
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD
from recemb.warm_start.fitting import Lesson
from recemb.warm_start.reading import TableReader


@dataclass(frozen=True, slots=True)
class Move:
    """Rows of one old physical table and where they go; each row is gone to once."""

    old: str
    old_M: Tensor
    new_M: Tensor


Moves = dict[str, list[Move]]
"""By new physical table."""


def find_moves(
    teacher: TableReader, reader: TableReader, table: str, lessons: Sequence[Lesson]
) -> Moves | None:
    """Return how rows move so that all ids read what they did, or None if they cannot."""
    old_physical = teacher.embeddings.rows.physical
    new_physical = reader.embeddings.rows.physical
    number_of = {name: number for number, name in enumerate(old_physical)}
    first = _starts([one.num_rows for one in old_physical.values()])
    # Which old row, of all old tables one after the other, each new one is to become.
    source = {name: torch.full((one.num_rows,), -1) for name, one in new_physical.items()}
    for lesson in lessons:
        read_before = teacher.rows_read(lesson.old_table, lesson.old_space, lesson.pairs.old_K)
        read_now = reader.rows_read(table, lesson.space, lesson.pairs.new_K)
        if len(read_before) != len(read_now):
            return None
        for (old, old_Kr), (new, new_Kr) in zip(read_before.items(), read_now.items(), strict=True):
            is_alike = old_physical[old].dim == new_physical[new].dim
            is_code = "uint8" in (old_physical[old].precision, new_physical[new].precision)
            if is_code and old_physical[old].precision != new_physical[new].precision:
                return None
            if not is_alike or old_Kr.shape != new_Kr.shape:
                return None
            is_read_M = new_Kr.flatten() >= 0
            if not torch.equal(is_read_M, old_Kr.flatten() >= 0):
                return None
            # Reads of equally many rows correspond one by one.
            wanted = old_Kr.flatten()[is_read_M] + first[number_of[old]]
            new_M = new_Kr.flatten()[is_read_M]
            known = source[new][new_M]
            if bool(((known >= 0) & (known != wanted)).any()):
                return None
            source[new][new_M] = wanted
            if not torch.equal(source[new][new_M], wanted):
                return None
    return {name: _moves(source_R, list(old_physical), first) for name, source_R in source.items()}


def _moves(source_R: Tensor, names: list[str], first: list[int]) -> list[Move]:
    (new_M,) = torch.nonzero(source_R >= 0, as_tuple=True)
    place_M = source_R[new_M]
    owner_M = torch.bucketize(place_M, torch.tensor(first), right=True) - 1
    found = []
    for number in owner_M.unique().tolist():
        is_own_M = owner_M == number
        found.append(Move(names[number], place_M[is_own_M] - first[number], new_M[is_own_M]))
    return found


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:number]) for number in range(len(sizes))]


def moved_values(values_RD: Tensor, moves: Sequence[Move], old: Mapping[str, Tensor]) -> Tensor:
    """Return values (R, D) with the rows that move in their new places.

    Args:
        values_RD: What the other rows are.
        moves: Of this table.
        old: Values by old physical table.
    """
    found = values_RD.clone()
    for move in moves:
        found[move.new_M] = old[move.old][move.old_M]
    return found


def is_identity(moves: Moves) -> bool:
    """Return whether every row stays where it was."""
    return all(
        move.old == name and torch.equal(move.old_M, move.new_M)
        for name, own in moves.items()
        for move in own
    )


def moved_entries(
    target: tuple[str, PhysicalTable],
    values_RD: Tensor,
    moves: Sequence[Move],
    physical: Mapping[str, PhysicalTable],
    stored: Mapping[str, Tensor],
) -> dict[str, Tensor] | None:
    """Return what a store keeps of a table in which some rows are old ones, bit for bit.

    Args:
        target: The name of the new physical table, and it.
        values_RD: What the other rows are; they are rounded to the nearest.
        moves: Of this table.
        physical: The old ones.
        stored: What the old store keeps, under its own names.

    Returns:
        Entries by name; None where rows come from tables that are stored in other ways, or with
        several steps where one is to be, so that they have to be rounded anew.
    """
    name, table = target
    if any(physical[move.old].form != table.form for move in moves):
        return None
    if table.precision in INTEGERS and table.step == "table":
        return (
            _entries_of_step(name, table, values_RD, moves[0], stored) if len(moves) == 1 else None
        )
    entries = _stored(name, table, values_RD)
    for move in moves:
        for entry, rows in entries.items():
            rows[move.new_M] = stored[move.old + entry[len(name) :]][move.old_M]
    return entries


def _entries_of_step(
    name: str,
    table: PhysicalTable,
    values_RD: Tensor,
    move: Move,
    stored: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the entries of a table with one step, which stays that of the old one."""
    step = stored[f"{move.old}.step"]
    reach = step * (2 ** (BITS[table.precision] - 1) - 1)
    # One row more, whose value makes the store choose the old step for the others.
    guard_1D = torch.zeros(1, table.dim)
    guard_1D[0, 0] = reach
    guarded_XD = torch.cat([values_RD.clamp(-reach, reach), guard_1D])
    codes_XD = _stored(name, replace(table, num_rows=len(guarded_XD)), guarded_XD)[name]
    codes_RD = codes_XD[:-1].clone()
    codes_RD[move.new_M] = stored[move.old][move.old_M]
    return {name: codes_RD, f"{name}.step": step.clone()}


def _stored(name: str, table: PhysicalTable, values_RD: Tensor) -> dict[str, Tensor]:
    """Return what a store keeps of a table with given values."""
    store = LocalRowsStore({name: replace(table, initializer=zeros)}, SGD())
    store.assign(name, values_RD)
    return store.tables()


def moved_state(
    wanted: Mapping[str, Tensor], moves: Moves, old: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the rows optimizer's state of tables whose rows have moved.

    Args:
        wanted: State of the new tables, by ``table/key``, for its shapes.
        moves: By new physical table.
        old: The old state.

    Returns:
        By ``table/key``, zeros for rows that are new; without what ``old`` does not have.
    """
    found = {}
    for entry, state_RS in wanted.items():
        name, _, key = entry.rpartition("/")
        sources = [(move, old.get(f"{move.old}/{key}")) for move in moves[name]]
        moved_RS = torch.zeros_like(state_RS, device="cpu")
        for move, source in sources:
            if source is None or source.shape[1] != moved_RS.shape[1]:
                break
            moved_RS[move.new_M] = source[move.old_M]
        else:
            found[entry] = moved_RS
    return found
