"""Remedies: what would make tables fit that do not, each planned before it is said."""

from collections.abc import Mapping
from dataclasses import replace

from recemb.errors import RecembError
from recemb.memory import human_bytes
from recemb.physical import BITS, PhysicalTable, Precision
from recemb.rows.optimizers import RowWiseAdagrad, UpdateRule
from recemb.rows.planner import loads_of, place
from recemb.rows.world import World

MOST_PROCESSES = 1 << 14
"""More are not tried."""
SMALLER: tuple[Precision, ...] = ("fp16", "int8", "int4")
"""Precisions to try, from the one that changes least; integers with a scale and a bias per row."""

Tables = Mapping[str, PhysicalTable]


def fits(physical: Tables, optimizer: UpdateRule, world: World, dense_bytes: int = 0) -> bool:
    """Return whether the planner finds room for tables.

    Args:
        physical: The tables.
        optimizer: Of the rows.
        world: The processes.
        dense_bytes: What each process has beside rows and their batch.
    """
    least = sum(_whole_bytes(table, optimizer) for table in physical.values())
    if least > world.limit_bytes * world.size:
        return False
    try:
        placements = place(physical, optimizer, world)
    except RecembError:  # no room, or a forced sharding that this world does not allow
        return False
    fullest = float(loads_of(physical, placements, optimizer, world)[:3].sum(0).max())
    return world.memory_bytes is None or fullest + dense_bytes <= world.memory_bytes


def remedies(
    physical: Tables, optimizer: UpdateRule, world: World, dense_bytes: int = 0
) -> list[str]:
    """Return single changes after which the planner finds room; see :func:`fits`."""

    def has_room(
        tables: Tables = physical, rule: UpdateRule = optimizer, other: World = world
    ) -> bool:
        return fits(tables, rule, other, dense_bytes)

    found = []
    count = _fewest_processes(physical, optimizer, world, dense_bytes)
    if count is not None:
        found.append(f"{count} processes")
    for names in _forced(physical):
        freed = {name: replace(physical[name], sharding=None) for name in names}
        if has_room({**physical, **freed}):
            hows = place({**physical, **freed}, optimizer, world)
            changes = [
                f"sharding {hows[name].how} of table {name!r} and not {physical[name].sharding}"
                for name in names
            ]
            found.append(" with ".join(changes))
            break
    rule = RowWiseAdagrad(learning_rate=optimizer.learning_rate)
    tables: Tables = physical
    if _state_bytes(physical, rule) < _state_bytes(physical, optimizer) and has_room(rule=rule):
        found.append("rows_optimizer of kind rowwise_adagrad, with one number per row")
    largest = max(physical, key=lambda name: _whole_bytes(physical[name], optimizer))
    for names, whose in (([largest], f"of table {largest!r}"), (list(physical), "of all tables")):
        precision = next(
            (one for one in SMALLER if has_room(_narrowed(physical, names, one))), None
        )
        if precision is not None:
            step = "" if precision == "fp16" else ", step row,"
            found.append(f"precision {precision}{step} {whose}")
            break
    table = physical[largest]
    low, high = 0, table.num_rows
    while high - low > max(1, table.num_rows // 1000):
        middle = (low + high) // 2
        tables = {**physical, largest: replace(table, num_rows=middle)}
        low, high = (middle, high) if has_room(tables) else (low, middle)
    if low:
        budget = human_bytes(replace(table, num_rows=low).num_bytes)
        found.append(
            f"a kind with fewer rows for table {largest!r}: a budget of {budget}, which is {low:,} "
            f"of its rows (now {table.num_rows:,})"
        )
    if not found:
        tables = _narrowed(physical, list(physical), "int4")
        count = _fewest_processes(tables, rule, world, dense_bytes)
        if count is not None:
            found.append(
                f"precision int4, step row, of all tables with rows_optimizer rowwise_adagrad and "
                f"{count} processes together"
            )
    return found


def _fewest_processes(
    physical: Tables, optimizer: UpdateRule, world: World, dense_bytes: int
) -> int | None:
    """Return the fewest processes that hold the tables, whole machines if there are several."""
    unit = world.local_size if world.size > world.local_size else 1

    def has_room(units: int) -> bool:
        return fits(physical, optimizer, replace(world, size=units * unit), dense_bytes)

    low = world.size // unit
    high = low
    while not has_room(high):
        low, high = high, high * 2
        if high * unit > MOST_PROCESSES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if has_room(middle) else (middle, high)
    return high * unit


def _forced(physical: Tables) -> list[list[str]]:
    """Return tables whose sharding could be left to the planner: the k largest, for each k."""
    forced = [name for name, table in physical.items() if table.sharding not in (None, "row_wise")]
    forced.sort(key=lambda name: -physical[name].num_bytes)
    return [forced[: count + 1] for count in range(len(forced))]


def _narrowed(physical: Tables, names: list[str], precision: Precision) -> Tables:
    """Return tables of which some have a smaller precision."""
    changed = {
        name: replace(physical[name], precision=precision, step="row")
        for name in names
        if BITS[physical[name].precision] > BITS[precision] and physical[name].precision != "uint8"
    }
    return {**physical, **changed}


def _whole_bytes(table: PhysicalTable, optimizer: UpdateRule) -> int:
    return table.num_bytes + _state_bytes({"": table}, optimizer)


def _state_bytes(physical: Tables, optimizer: UpdateRule) -> int:
    """Return the bytes of the optimizer state of whole tables."""
    return sum(
        4 * table.num_rows * sum(optimizer.state_dims(table.dim).values())
        for table in physical.values()
        if table.precision != "uint8"
    )
