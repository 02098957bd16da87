"""What the verb ``plan`` reports: tables and processes, as text and as JSON."""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.memory import human_bytes
from recemb.physical import PhysicalTable
from recemb.results import versions
from recemb.rows.costs import PARTS
from recemb.rows.optimizers import UpdateRule
from recemb.rows.placement import Placement
from recemb.rows.world import World

MOST_GROUPS = 16
"""Lines for processes that differ; JSON has all of them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan and what it was made for.

    Attributes:
        world: The processes.
        placements: By physical table.
        loads: (6, W), by :data:`recemb.rows.costs.PARTS`.
        dense_bytes: The network of each process: parameters, gradients, Adam's moments, buffers.
        dense_s: Averaging its gradients.
    """

    world: World
    placements: Mapping[str, Placement]
    loads: Tensor
    dense_bytes: int
    dense_s: float


def table_report(
    placements: Mapping[str, Placement],
    physical: Mapping[str, PhysicalTable],
    optimizer: UpdateRule,
    embeddings: Embeddings,
) -> dict[str, dict[str, Any]]:
    """Return what is to be said of each physical table."""
    table_of = {
        own: name for name, parts in embeddings.physical_of.items() for own in parts.values()
    }
    found = {}
    for name, placement in placements.items():
        table = physical[name]
        state = 0 if table.precision == "uint8" else sum(optimizer.state_dims(table.dim).values())
        first = placement.pieces(table)[0]
        cuts = {
            "data_parallel": "a copy each",
            "row_wise": f"{first.num_rows:,} rows each",
            "table_wise": "whole",
            "column_wise": f"{first.num_columns} columns each",
        }
        found[name] = {
            "kind": embeddings.tables[table_of[name]].kind_name,
            "rows": table.num_rows,
            "dim": table.dim,
            "precision": table.precision,
            "bytes": table.num_bytes,
            "state_bytes": 4 * state * table.num_rows,
            "reads_per_sample": table.reads,
            "sharding": placement.how,
            "ranks": _span(placement.ranks),
            "cut": cuts[placement.how],
        }
    return found


def _span(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"


def as_json(plan: Plan, tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return everything: of each table what :func:`table_report` says, and of each process."""
    kept = [[int(one) for one in plan.loads[part].tolist()] for part in range(3)]
    spent = [[one * 1000 for one in plan.loads[part].tolist()] for part in range(3, 6)]
    names = [*(f"{part}_bytes" for part in PARTS[:3]), *(f"{part}_ms" for part in PARTS[3:])]
    return {
        "verb": "plan",
        "versions": versions(),
        "world": asdict(plan.world),
        "tables": tables,
        "dense_bytes": plan.dense_bytes,
        "dense_exchange_ms": plan.dense_s * 1000,
        "ranks": [dict(zip(names, one, strict=True)) for one in zip(*kept, *spent, strict=True)],
    }


def as_text(plan: Plan, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table of tables and one of processes."""
    world = plan.world
    memory = "no limit of memory"
    if world.memory_bytes is not None:
        memory = (
            f"{human_bytes(world.memory_bytes)} each, {human_bytes(int(world.limit_bytes))} of it "
            "for rows and their batch"
        )
    head = (
        f"{world.size} processes, {world.local_size} on a machine, {memory}; batches of "
        f"{world.batch_size:,} samples\n"
    )
    titles = [
        "table",
        "kind",
        "rows",
        "dim",
        "precision",
        "bytes",
        "state",
        "sharding",
        "ranks",
        "cut",
    ]
    cells = [
        [
            name,
            one["kind"],
            f"{one['rows']:,}",
            str(one["dim"]),
            one["precision"],
            human_bytes(one["bytes"]),
            human_bytes(one["state_bytes"]),
            one["sharding"],
            one["ranks"],
            one["cut"],
        ]
        for name, one in tables.items()
    ]
    notes = [
        f"Each process also has {human_bytes(plan.dense_bytes)} of network (parameters, "
        f"gradients, two moments, buffers), whose gradients take {plan.dense_s * 1000:.2f} ms to "
        "average.",
        "Bytes of rows and state are exact. Batch and times are estimates from the bytes that "
        "move, as if all ids of a batch were different; layers and activations are not in them.",
    ]
    width = shutil.get_terminal_size((120, 24)).columns
    return "\n".join(
        [
            head,
            aligned(titles, cells),
            "",
            _ranks_text(plan),
            "",
            *(textwrap.fill(note, width) for note in notes),
        ]
    )


def _ranks_text(plan: Plan) -> str:
    """Return a line per group of neighbouring processes that are alike as far as it shows."""
    groups: list[tuple[int, int, list[str]]] = []
    kept = plan.loads[:3].to(torch.int64).T.tolist()
    spent = (plan.loads[3:] * 1000).T.tolist()
    for rank, (own, times) in enumerate(zip(kept, spent, strict=True)):
        total = sum(own) + plan.dense_bytes
        memory = plan.world.memory_bytes
        share = "" if memory is None else f"{total / memory:.1%}"
        cells = [*map(human_bytes, own), human_bytes(total), share]
        cells += [f"{one:.2f}" for one in (*times, sum(times))]
        if groups and groups[-1][2] == cells:
            groups[-1] = groups[-1][0], rank, cells
        else:
            groups.append((rank, rank, cells))
    titles = ["processes", "rows", "state", "batch", "total", "of memory", "gather ms"]
    titles += ["exchange ms", "update ms", "together ms"]
    lines = [[_span(sorted({first, last})), *cells] for first, last, cells in groups]
    text = aligned(titles, lines[:MOST_GROUPS])
    if len(lines) > MOST_GROUPS:
        bytes_W, seconds_W = plan.loads[:3].sum(0), plan.loads[3:].sum(0)
        text += (
            f"\n... and others (--json has all). The fullest is {int(bytes_W.argmax())} with "
            f"{human_bytes(int(bytes_W.max()) + plan.dense_bytes)}, the slowest "
            f"{int(seconds_W.argmax())} with {float(seconds_W.max()) * 1000:.2f} ms."
        )
    return text


def aligned(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with columns as wide as what is in them; numbers end, words begin together.

    Example:
        >>> print(aligned(["table", "rows"], [["user", "1,000"], ["item", "20"]]))
        table   rows
        user   1,000
        item      20
    """
    columns = list(zip(titles, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [any(cell[:1].isdigit() for cell in column[1:]) for column in columns]
    lines = []
    for row in (titles, *rows):
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
