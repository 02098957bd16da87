"""Cases of sharded rows, and what is asked of a store in each: the same on any number of processes.

A case is run for some steps; in each, every process asks for its share of a global batch. What one
process makes of the whole batch in a local store is what all processes together must make of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recemb.physical import PhysicalTable, Sharding, Uniform
from recemb.rows.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad, UpdateRule
from recemb.rows.store import RowsStore

NUM_STEPS = 6
SAMPLES = 12
"""Of a global batch: 1, 2 and 4 divide it."""
RESET_AFTER = 4
"""The step of a world after which some rows of each table begin anew."""
BLOCKS = ("long", "short", "long", "odd", "small")
"""What is asked for together: one table twice, in an order that is not that of the tables."""


def tables(**settings: object) -> dict[str, PhysicalTable]:
    """Return tables of one form; 3 rows are fewer than 4 processes, and 13 no multiple of them."""
    sizes = {"small": 7, "odd": 13, "short": 3, "long": 40}
    return {
        name: PhysicalTable(num_rows=rows, dim=4, initializer=Uniform(0.5), **settings)  # type: ignore[arg-type]
        for name, rows in sizes.items()
    }


def all_as(how: Sharding) -> dict[str, Sharding]:
    """Return every table sharded alike."""
    return dict.fromkeys(("small", "odd", "short", "long"), how)


MIXED: dict[str, Sharding] = {
    "small": "data_parallel",
    "odd": "row_wise",
    "short": "table_wise",
    "long": "column_wise",
}


@dataclass(frozen=True)
class ShardedCase:
    """Tables, their optimizer and how they lie."""

    shardings: Mapping[str, Sharding]
    optimizer: UpdateRule = field(default_factory=lambda: Adam(learning_rate=0.05))
    tables: Mapping[str, PhysicalTable] = field(default_factory=tables)

    @property
    def physical(self) -> dict[str, PhysicalTable]:
        """The tables, with how they lie."""
        return {
            name: replace(table, sharding=self.shardings.get(name))
            for name, table in self.tables.items()
        }


LEARNED = tables(precision="int8", step="learned")
NO_COLUMNS: dict[str, Sharding] = {**MIXED, "long": "row_wise"}
# Not Adam, which makes a whole step of a rounding where a gradient is about 0.
SLOW = SGD(learning_rate=0.02)
CASES: dict[str, ShardedCase] = {
    "row_wise": ShardedCase(all_as("row_wise")),
    "table_wise": ShardedCase(all_as("table_wise")),
    "column_wise": ShardedCase(all_as("column_wise")),
    "data_parallel": ShardedCase(all_as("data_parallel")),
    "mixed": ShardedCase(MIXED),
    "default": ShardedCase({}),
    "sgd": ShardedCase(MIXED, SGD(learning_rate=0.5)),
    "adagrad": ShardedCase(MIXED, Adagrad(learning_rate=0.1)),
    "rowwise_adagrad": ShardedCase(NO_COLUMNS, RowWiseAdagrad(learning_rate=0.1)),
    "fp16": ShardedCase(MIXED, SLOW, tables=tables(precision="fp16")),
    "int8 per row": ShardedCase(NO_COLUMNS, SLOW, tables=tables(precision="int8", step="row")),
    "int4 per table": ShardedCase(
        all_as("table_wise"), SLOW, tables=tables(precision="int4", step="table")
    ),
    "int8 replicated": ShardedCase(
        all_as("data_parallel"), SLOW, tables=tables(precision="int8", step="row")
    ),
    "learned steps": ShardedCase(NO_COLUMNS, SLOW, tables=LEARNED),
}
EXACT = [name for name, case in CASES.items() if case.physical["long"].precision == "fp32"]
"""Cases whose updates are not rounded at random."""


def share(rank: int, world_size: int) -> slice:
    """Return which samples of a global batch are a process's."""
    size = SAMPLES // world_size
    return slice(rank * size, (rank + 1) * size)


def batch(case: ShardedCase, step: int, own: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Return for each block the rows that some samples ask for, and the weights of their vectors.

    In step 2 nobody asks for ``odd``, in step 3 only the second half of the samples.
    """
    generator = torch.Generator().manual_seed(100 + step)
    rows, weights = [], []
    for name in BLOCKS:
        table = case.physical[name]
        asked = torch.randint(table.num_rows, (SAMPLES,), generator=generator)
        asked[0] = asked[1]  # a duplicate within a share
        sample = torch.arange(SAMPLES)[own]
        if name == "odd" and step in (2, 3):
            sample = sample[sample >= (SAMPLES if step == 2 else SAMPLES // 2)]
        rows.append(asked[sample])
        weights.append(torch.randn(SAMPLES, table.dim, generator=generator)[sample])
    return rows, weights


def run(
    store: RowsStore, case: ShardedCase, steps: Sequence[int], rank: int = 0, world_size: int = 1
) -> list[Tensor]:
    """Train a process's share of some steps; return the vectors that it was given."""
    store.train()
    seen = []
    for step in steps:
        rows, weights = batch(case, step, share(rank, world_size))
        based = [one + store.base_row(name) for one, name in zip(rows, BLOCKS, strict=True)]
        sizes = torch.tensor([len(one) for one in rows])
        asked, weight = torch.cat(based), torch.cat(weights)

        def forward(
            asked: Tensor = asked, sizes: Tensor = sizes, weight: Tensor = weight
        ) -> Tensor:
            vectors = store.gather(BLOCKS, asked, sizes)
            # The mean over processes of this is the sum over all samples.
            ((vectors.square() * weight).sum() * world_size).backward()
            return vectors.detach()

        seen.append(forward())
        # Rates may change between steps.
        rule, factor = case.optimizer, 1 / (1 + step % 2)
        store.optimizer = replace(
            rule,
            learning_rate=rule.learning_rate * factor,
            step_learning_rate=rule.step_learning_rate * factor,
        )
        store.step(forward)
        if step % NUM_STEPS == RESET_AFTER:
            for name, table in case.physical.items():
                some = torch.arange(step % 2, table.num_rows, 2)
                # Binary fractions, which rows of every precision hold about as they are.
                store.reset(name, some, ((some.unsqueeze(1) + torch.arange(4)) % 5 - 2) / 8)
    return seen
