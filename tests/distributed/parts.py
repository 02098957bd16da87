"""Batch norm and its messages in one process of several, each with its part of every batch.

    python -m tests.distributed.parts FOLDER RANK WORLD_SIZE

writes what the process has found as ``found-RANK.pt``.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from recemb import collectives, processes
from recemb.batch_norm import BatchNorm

DIM = 3


@dataclass(frozen=True, kw_only=True)
class Case:
    """Which rows of a batch each process has, by number; several may have the same."""

    rows: tuple[tuple[int, ...], ...]
    momentum: float | None = 0.1
    affine: bool = True
    mean: float = 0.0
    dtype: torch.dtype = torch.float64

    @property
    def num_rows(self) -> int:
        """Of the whole batch."""
        return max([-1, *(row for own in self.rows for row in own)]) + 1

    def batch(self, step: int) -> Tensor:
        """Return all rows."""
        generator = torch.Generator().manual_seed(step)
        deviation_D = torch.tensor([1.0, 0.1, 5.0])
        drawn_ND = torch.randn(self.num_rows, DIM, generator=generator) * deviation_D
        return (drawn_ND + self.mean).to(self.dtype)

    def slopes(self, step: int, rank: int) -> Tensor:
        """Return the gradient of the whole loss for each element of a process's output."""
        generator = torch.Generator().manual_seed(100 + 10 * step + rank)
        return torch.randn(len(self.rows[rank]), DIM, generator=generator).to(self.dtype)

    def norm(self, kind: type[torch.nn.BatchNorm1d]) -> torch.nn.BatchNorm1d:
        """Return a norm that is not as it was made."""
        norm = kind(DIM, momentum=self.momentum, affine=self.affine).to(self.dtype)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.1]))
        norm.running_var.copy_(torch.tensor([2.0, 0.5, 1.5]))
        if self.affine:
            with torch.no_grad():
                norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
                norm.bias.copy_(torch.tensor([0.1, 0.0, 3.0]))
        return norm


CASES = {
    "uneven": Case(rows=((0, 1, 2, 3, 4), (5,), (6, 7))),
    "first part empty": Case(rows=((), (0, 1, 2), (3,))),
    "last part empty": Case(rows=((0, 1), (2, 3, 4), ())),
    "all in one": Case(rows=((), (0, 1, 2), ())),
    "one row in two": Case(rows=((0,), (), (1,))),
    "one row in all": Case(rows=((), (0,), ())),
    "no row": Case(rows=((), (), ())),
    "mean of all batches": Case(rows=((0, 1), (2, 3, 4), (5,)), momentum=None),
    "plain": Case(rows=((0, 1), (2, 3, 4), (5,)), affine=False),
    "held by several": Case(rows=((0, 1, 4), (4, 3, 1, 2), (2, 1))),
    "one row held by all": Case(rows=((0,), (0,), (0,))),
    "far from zero": Case(
        rows=(tuple(range(400)), (), tuple(range(400, 500))), mean=100.0, dtype=torch.float32
    ),
}
NUM_STEPS = 3
KEYS = (
    [[1, 5], [-7, 5], [1, 6]],
    [],
    [[1, 6], [2**62, 5], [6, 1], [1, 5]],
)
"""Distinct rows of each process."""


def normalise(case: Case, rank: int, world_size: int) -> dict[str, Any]:
    """Return outputs, gradients of inputs and of parameters, and the norm's state, by step."""
    norm = case.norm(BatchNorm)
    found: dict[str, Any] = {"output": [], "input": [], "dense": [], "state": []}
    own = torch.tensor(case.rows[rank], dtype=torch.int64)
    for step in range(NUM_STEPS):
        values_ND = case.batch(step)[own].requires_grad_()
        is_counted_N = collectives.is_first_holder(own.unsqueeze(1))
        output_ND = norm(values_ND, is_counted_N)
        norm.zero_grad()
        (output_ND * case.slopes(step, rank)).sum().mul(world_size).backward()
        found["output"].append(output_ND.detach())
        found["input"].append(values_ND.grad)
        found["dense"].append([one.grad for one in norm.parameters()])
        found["state"].append({name: one.clone() for name, one in norm.state_dict().items()})
    return found


def summed(rank: int) -> tuple[Tensor, Tensor | None]:
    """Return the sum of [1, 10], [2, 20] ... and each process's gradient of losses of its own."""
    own = torch.tensor([1.0, 10.0]).mul(rank + 1).requires_grad_()
    total = collectives.sum_over_processes(own)
    (total.square().sum() * 10**rank).backward()
    return total.detach(), own.grad


def main(folder: Path, rank: int, world_size: int) -> None:
    """Run every case."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    found: dict[str, Any] = {
        name: normalise(case, rank, world_size) for name, case in CASES.items()
    }
    found["sum"] = summed(rank)
    keys_NK = torch.tensor(KEYS[rank], dtype=torch.int64).reshape(-1, 2)
    found["first"] = collectives.is_first_holder(keys_NK).tolist()
    torch.save(found, folder / f"found-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os.environ["RANK"] = sys.argv[2]
    processes.end(0)
