"""Planner: where every table goes. Pure planning, without a process group.

Shapes: W processes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.memory import human_bytes
from recemb.physical import PhysicalTable, Sharding
from recemb.rows.costs import Cost, cost_of, message_s, total_cost
from recemb.rows.optimizers import UpdateRule
from recemb.rows.placement import SHARDINGS, Placement, shardings
from recemb.rows.world import World


def place(
    physical: Mapping[str, PhysicalTable], optimizer: UpdateRule, world: World
) -> dict[str, Placement]:
    """Return where every table goes.

    A table goes where its ``sharding`` says. Where it says nothing, it goes where the slowest
    process is estimated to be slowed least and no process gets more than it may hold: replicated,
    cut by rows or by columns, or whole to the least busy process. Tables are placed one after the
    other, from the largest; those of one form use such shardings as make the fewest messages worth
    their while. If that does not fit, memory decides before time.

    Every process computes this by itself and must come to the same result. So there are only sums,
    products and comparisons in a fixed order here, which are the same on every machine.

    Args:
        physical: By name.
        optimizer: Of the rows; its state takes memory and time.
        world: The processes.

    Raises:
        RecembError: If a table cannot lie as it says.
        DoesNotFitError: If no placement was found in which every process has room.
    """
    options = {
        name: shardings(name, table, optimizer, world.size) for name, table in physical.items()
    }
    for by_memory in (False, True):
        trial = _assign(physical, options, optimizer, world, by_memory)
        if not trial.excess(world):
            return {name: trial.placements(world)[name] for name in physical}
    raise DoesNotFitError(physical, trial.placements(world), optimizer, world)


class DoesNotFitError(RecembError):
    """No placement was found in which every process holds what it gets.

    Attributes:
        loads: (6, W), what the processes would have had to hold (:data:`recemb.rows.costs.PARTS`).
    """

    def __init__(
        self,
        physical: Mapping[str, PhysicalTable],
        placements: Mapping[str, Placement],
        optimizer: UpdateRule,
        world: World,
    ) -> None:
        self.loads = loads_of(physical, placements, optimizer, world)
        rank = int(self.loads[:3].sum(0).argmax())
        rows, state, working = (int(own) for own in self.loads[:3, rank])
        own = {name: own_bytes(name, physical, placements, optimizer, rank) for name in placements}
        largest = max(own, key=lambda name: own[name])
        super().__init__(
            f"rows: process {rank} of {world.size} would hold {human_bytes(rows + state + working)}"
            f" ({human_bytes(rows)} of rows, {human_bytes(state)} of optimizer state, "
            f"{human_bytes(working)} for a batch), more than the "
            f"{human_bytes(int(world.limit_bytes))} it may ({world.share:g} of "
            f"{human_bytes(world.memory_bytes or 0)}); the largest part there is "
            f"{human_bytes(own[largest])} of table {largest!r}, {placements[largest].how}"
        )


def own_bytes(
    name: str,
    physical: Mapping[str, PhysicalTable],
    placements: Mapping[str, Placement],
    optimizer: UpdateRule,
    rank: int,
) -> int:
    """Return the bytes of rows and optimizer state that a process has of a table."""
    table = physical[name]
    found = 0
    for piece in placements[name].pieces(table):
        if piece.rank == rank:
            part = replace(table, num_rows=piece.num_rows, dim=piece.num_columns)
            state = (
                0 if table.precision == "uint8" else sum(optimizer.state_dims(part.dim).values())
            )
            found += part.num_bytes + 4 * state * part.num_rows
    return found


def loads_of(
    physical: Mapping[str, PhysicalTable],
    placements: Mapping[str, Placement],
    optimizer: UpdateRule,
    world: World,
) -> Tensor:
    """Return what all tables cost each process: (6, W), by :data:`recemb.rows.costs.PARTS`."""
    placed = {name: (one.how, one.ranks[0]) for name, one in placements.items()}
    return total_cost(physical, placed, optimizer, world)


@dataclass(slots=True)
class _Trial:
    """A placement in the making.

    Attributes:
        memory_W: Bytes of each process so far.
        time_W: Seconds of each process so far, without messages.
        used: Forms and shardings in use.
        found: How each table lies, and the first of its owners.
    """

    memory_W: Tensor
    time_W: Tensor
    used: set[tuple[object, Sharding]]
    found: dict[str, tuple[Sharding, int]]

    def excess(self, world: World) -> float:
        """Return the bytes above the limit, of the fullest process."""
        return max(0.0, float(self.memory_W.max()) - world.limit_bytes)

    def rank_by(self, world: World, by_memory: bool) -> tuple[float, float, float]:
        """Return what a better trial has less of."""
        memory, time = float(self.memory_W.max()), float(self.time_W.max())
        time += message_s(self.used, world)
        return (self.excess(world), *((memory, time) if by_memory else (time, memory)))

    def placements(self, world: World) -> dict[str, Placement]:
        """Return what was found."""
        everywhere = tuple(range(world.size))
        return {
            name: Placement(how, (first,) if how == "table_wise" else everywhere)
            for name, (how, first) in self.found.items()
        }


def _assign(
    physical: Mapping[str, PhysicalTable],
    options: Mapping[str, Sequence[Sharding]],
    optimizer: UpdateRule,
    world: World,
    by_memory: bool,
) -> _Trial:
    """Place all tables, form by form."""
    costs = {
        (name, how): _Burden.of(cost_of(physical[name], how, optimizer, world))
        for name, hows in options.items()
        for how in hows
    }
    forms: dict[object, list[str]] = {}
    for name in sorted(physical, key=lambda name: -physical[name].num_bytes):
        forms.setdefault(physical[name].form, []).append(name)
    nothing = torch.zeros(world.size, dtype=torch.float64, device="cpu")
    trial = _Trial(nothing, nothing, set(), {})
    for form, names in forms.items():
        free = sorted({how for name in names for how in options[name]}, key=SHARDINGS.index)
        subsets = [one for size in range(len(free)) for one in combinations(free, size + 1)]
        trials = [
            _assign_form(trial, form, names, options, costs, subset, world, by_memory)
            for subset in subsets
            if all(set(subset) & set(options[name]) for name in names)
        ]
        trial = min(trials, key=lambda one: one.rank_by(world, by_memory))
    return trial


@dataclass(frozen=True, slots=True)
class _Burden:
    """A cost as bytes and seconds: of every process (W or 1,), and what its owner has more."""

    memory: Tensor
    time: Tensor
    owner_memory: float
    owner_time: float

    @classmethod
    def of(cls, cost: Cost) -> "_Burden":
        each, owner = cost.each, cost.owner
        return cls(
            each[0] + each[1] + each[2],
            each[3] + each[4] + each[5],
            float(owner[0] + owner[1] + owner[2]),
            float(owner[3] + owner[4] + owner[5]),
        )


def _assign_form(
    before: _Trial,
    form: object,
    names: Sequence[str],
    options: Mapping[str, Sequence[Sharding]],
    costs: Mapping[tuple[str, Sharding], _Burden],
    allowed: Sequence[Sharding],
    world: World,
    by_memory: bool,
) -> _Trial:
    """Place the tables of a form, largest first, by some shardings only."""
    memory_W, time_W = before.memory_W, before.time_W
    used, found = set(before.used), dict(before.found)
    for name in names:
        best: tuple[tuple[float, float, float], Tensor, Tensor, Sharding, int] | None = None
        for how in allowed:
            if how not in options[name]:
                continue
            burden = costs[name, how]
            own_memory_W, own_time_W = memory_W + burden.memory, time_W + burden.time
            first = 0
            if how == "table_wise":
                # The least busy one with room; if none has, the emptiest.
                has_room_W = own_memory_W + burden.owner_memory <= world.limit_bytes
                if by_memory or not bool(has_room_W.any()):
                    first = int(own_memory_W.argmin())
                else:
                    first = int(own_time_W.where(has_room_W, torch.inf).argmin())
                own_memory_W[first] += burden.owner_memory
                own_time_W[first] += burden.owner_time
            fullest, slowest = float(own_memory_W.max()), float(own_time_W.max())
            excess = max(0.0, fullest - world.limit_bytes)
            key = (excess, fullest, slowest) if by_memory else (excess, slowest, fullest)
            if best is None or key < best[0]:
                best = key, own_memory_W, own_time_W, how, first
        assert best is not None
        _, memory_W, time_W, how, first = best
        used.add((form, how))
        found[name] = how, first
    return _Trial(memory_W, time_W, used, found)
