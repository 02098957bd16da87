"""Costs: what a table costs each process, in bytes and in seconds per step, however it lies.

Bytes of rows and of optimizer state are exactly those that a rows store keeps. Everything else is
an estimate, from bytes that are moved and the rates at which a process moves them:

    gather     each row that is asked for is read and written as fp32
    exchange   row numbers there, vectors back, gradients there; replicated: gradients to everyone
    update     row numbers are sorted, gradients summed, distinct rows and their state changed

All ids of a batch are taken to be different as far as the table has rows, and to spread evenly over
them: popular ids make a step shorter, and the owner of the most popular ones busier.

Why not TorchRec's ``EmbeddingPerfEstimator``: its kernels are FBGEMM's and ours are not
(:mod:`recemb.rows.torchrec_sharding`). Version 1.8 counts int8 and int4 rows as fp16 (10 rows of 8
as 160 bytes, ours take 120 and 80 with their scales), leaves the optimizer's reads and writes out
of its time, has no kernel ``customized_kernel``, and takes no time for a message.

Shapes: W processes, or 1 where all are alike.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recemb.physical import INTEGERS, PhysicalTable, Sharding
from recemb.rows.optimizers import UpdateRule
from recemb.rows.world import World

PARTS = ("rows", "state", "working", "gather", "exchange", "update")
"""What a cost consists of: three numbers of bytes, then three of seconds."""
MESSAGES: dict[Sharding, int] = {
    "data_parallel": 2,
    "row_wise": 5,
    "table_wise": 5,
    "column_wise": 5,
}
"""Collectives per step and form of rows, counted in a profile: replicated rows gather sizes and
gradients; TorchRec sends sizes, lengths, row numbers, vectors and gradients, all tables of a form
and a sharding together."""

# Passes over a row as fp32, beside reading what is stored, fitted to the local store on a CPU.
DECODE_PASSES = {"fp32": 0, "uint8": 0, "fp16": 3, "bf16": 3} | dict.fromkeys(INTEGERS, 6)
ENCODE_PASSES = {"fp32": 0, "uint8": 0, "fp16": 10, "bf16": 10} | dict.fromkeys(INTEGERS, 20)
SORT_BYTES = 128
"""Of finding the distinct ones among row numbers of 8 bytes, per number: 16 passes."""
STATE_PASSES = 6
"""Selected, changed and written back, each a read and a write."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a table costs each process.

    Attributes:
        each: (6, W), by :data:`PARTS`.
        owner: (6, 1), what the owner of a whole table has beside that; 0 where there is none.
    """

    each: Tensor
    owner: Tensor


def cost_of(table: PhysicalTable, how: Sharding, optimizer: UpdateRule, world: World) -> Cost:
    """Return what a table costs if it lies so."""
    asked = table.reads * world.batch_size / world.size
    total = asked * world.size
    distinct = min(total, float(table.num_rows))
    one = torch.ones(1, dtype=torch.float64, device="cpu")
    is_trained = table.precision != "uint8"
    vector_bytes = table.dim * (4 if is_trained else 1)
    pass_bytes = 8 + vector_bytes * (2 if is_trained else 1)
    asked_working = asked * (16 + (2 if is_trained else 1) * vector_bytes)

    def held(piece: PhysicalTable, rows: Tensor, served: Tensor, reduced: Tensor) -> Tensor:
        """Return the cost of keeping ``rows`` rows of which ``served`` are read in a step."""
        state_bytes = 4 * sum(optimizer.state_dims(piece.dim).values()) if is_trained else 0
        updated = rows * (distinct / table.num_rows)
        wide = 4 * piece.dim
        stored = piece.row_bytes
        gather = served * (8 + stored + wide * (1 + DECODE_PASSES[piece.precision]))
        changed = 2 * stored + 3 * wide + STATE_PASSES * state_bytes
        changed += wide * ENCODE_PASSES[piece.precision]
        update = reduced * (SORT_BYTES + 2 * wide) + updated * changed
        working = reduced * (40 + 2 * wide) + updated * (5 * wide + state_bytes)
        return torch.stack(
            [
                rows * stored + piece.extra_bytes * (rows > 0),
                rows * state_bytes,
                working if is_trained else served * (8 + piece.dim),
                gather / world.rates.memory,
                torch.zeros_like(rows),
                update / world.rates.memory * is_trained,
            ]
        )

    def asks(exchanged: Tensor, working: float = asked_working) -> Tensor:
        """Return the cost of asking, of which ``exchanged`` bytes leave the process."""
        nothing = torch.zeros_like(exchanged)
        seconds = exchanged * world.exchange_s(1.0)
        return torch.stack([nothing, nothing, nothing + working, nothing, seconds, nothing])

    zero = torch.zeros(6, 1, dtype=torch.float64, device="cpu")
    if how == "data_parallel":
        own = min(asked, float(table.num_rows))
        sent = own * world.size * (8 + vector_bytes) if is_trained else 0.0
        replica = held(table, one * table.num_rows, one * asked, one * (asked + own * world.size))
        return Cost(replica + asks(one * sent), zero)
    if how == "table_wise":
        owner = held(table, one * table.num_rows, one * total, one * total)
        more = asks(one * (total - asked) * pass_bytes, 0.0)
        return Cost(asks(one * asked * pass_bytes), owner + more)
    if how == "column_wise":
        piece = replace(table, dim=table.dim // world.size)
        block = held(piece, one * table.num_rows, one * total, one * total)
        return Cost(block + asks(one * (total * 8 + asked * (pass_bytes - 8))), zero)
    block_rows = -(-table.num_rows // world.size)
    firsts = torch.arange(world.size, dtype=torch.float64, device="cpu") * block_rows
    rows = (table.num_rows - firsts).clamp(0, block_rows)
    served = rows * (total / table.num_rows)
    return Cost(
        held(table, rows, served, served) + asks(served.clamp(min=asked) * pass_bytes), zero
    )


def total_cost(
    physical: Mapping[str, PhysicalTable],
    placed: Mapping[str, tuple[Sharding, int]],
    optimizer: UpdateRule,
    world: World,
) -> Tensor:
    """Return what tables cost each process together: (6, W), by :data:`PARTS`.

    Args:
        physical: The tables.
        placed: How each lies, and the first of its owners.
        optimizer: Of the rows.
        world: The processes.
    """
    total = torch.zeros(len(PARTS), world.size, dtype=torch.float64, device="cpu")
    for name, (how, first) in placed.items():
        cost = cost_of(physical[name], how, optimizer, world)
        total += cost.each
        total[:, first : first + 1] += cost.owner
    used = {(physical[name].form, how) for name, (how, _) in placed.items()}
    total[PARTS.index("exchange")] += message_s(used, world)
    return total


def message_s(used: Collection[tuple[object, Sharding]], world: World) -> float:
    """Return the seconds of all messages, of the forms and shardings in use."""
    return sum(MESSAGES[how] for _, how in used) * world.rates.message_s
