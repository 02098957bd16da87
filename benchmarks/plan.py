"""What the planner estimates of a step against what it takes, on two processes of this machine.

    python benchmarks/plan.py

A step is a gather, its backward pass and the update, of one table or several, with Adam. Medians of
rounds that both processes begin together; the slower process counts. Row numbers are uniform, as
the estimate has it.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recemb.physical import PhysicalTable, Sharding, Uniform
from recemb.rows.costs import PARTS
from recemb.rows.optimizers import Adam
from recemb.rows.planner import loads_of
from recemb.rows.torchrec_store import TorchRecRowsStore
from recemb.rows.world import RATES, World

WORLD_SIZE, ROUNDS, WARM_UP = 2, 15, 3
HOWS: tuple[Sharding, ...] = ("data_parallel", "row_wise", "table_wise", "column_wise")


@dataclass(frozen=True)
class Case:
    """Equal tables, and how many rows of each a process reads in a step."""

    num_tables: int
    num_rows: int
    dim: int
    reads: int
    precision: Any = "fp32"

    def physical(self, how: Sharding) -> dict[str, PhysicalTable]:
        """Return the tables, sharded alike."""
        return {
            f"t{number}": PhysicalTable(
                num_rows=self.num_rows,
                dim=self.dim,
                initializer=Uniform(0.05),
                precision=self.precision,
                step="row",
                sharding=how,
            )
            for number in range(self.num_tables)
        }


CASES = [
    Case(1, 100, 16, 2_000),
    Case(8, 1_000, 16, 2_000),
    Case(26, 10_000, 16, 2_000),
    Case(1, 1_000_000, 16, 20_000),
    Case(1, 1_000_000, 16, 200_000),
    Case(1, 1_000_000, 64, 50_000),
    Case(8, 1_000_000, 16, 20_000, "int8"),
]


def step_s(store: TorchRecRowsStore, case: Case) -> float:
    """Return the median seconds of a step."""
    names = list(store.physical)
    sizes = torch.full((len(names),), case.reads)
    grad = torch.ones(len(names) * case.reads, case.dim)
    spent = []
    for _ in range(WARM_UP + ROUNDS):
        rows = [torch.randint(case.num_rows, (case.reads,)) + store.base_row(n) for n in names]
        asked = torch.cat(rows)
        dist.barrier()
        since = time.perf_counter()
        store.gather(names, asked, sizes).backward(grad)
        store.step()
        spent.append(time.perf_counter() - since)
    slowest = torch.tensor([statistics.median(spent[WARM_UP:])])
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return float(slowest)


def work(rank: int, folder: str) -> None:
    """Run every case on one process."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD_SIZE
    )
    if rank == 0:
        print("| tables | rows | dim | reads | sharding | measured ms | estimate ms | ratio |")
        print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        for how in HOWS:
            if how == "column_wise" and case.precision != "fp32":
                continue
            store = TorchRecRowsStore(case.physical(how), Adam()).train()
            measured = step_s(store, case) * 1000
            world = World(
                size=WORLD_SIZE,
                local_size=WORLD_SIZE,
                batch_size=WORLD_SIZE * case.reads,
                rates=RATES["cpu"],
            )
            loads = loads_of(case.physical(how), store.placements, Adam(), world)
            estimate = float(loads[PARTS.index("gather") :].sum(0).max()) * 1000
            if rank == 0:
                print(
                    f"| {case.num_tables} {case.precision} | {case.num_rows:,} | {case.dim} | "
                    f"{case.reads:,} | {how} | {measured:.1f} | {estimate:.1f} | "
                    f"{estimate / measured:.2f} |",
                    flush=True,
                )
    dist.destroy_process_group()


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        assert Path(folder).is_dir()
        mp.spawn(work, (folder,), nprocs=WORLD_SIZE)
