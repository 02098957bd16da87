"""One process of several that run the cases of :mod:`tests.rows.sharded_cases` together.

    python -m tests.rows.rank FOLDER RANK WORLD_SIZE

reads ``start.pt`` from the folder (what the cases go on from, if anything), and rank 0 writes
``end.pt``; rows and state are saved by their parts, in folders beside it.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recemb import processes
from recemb.rows.part_files import load_parts, save_parts
from recemb.rows.torchrec_store import TorchRecRowsStore
from tests.rows.sharded_cases import CASES, NUM_STEPS, run


def held_by(store: TorchRecRowsStore) -> tuple[int, int]:
    """Return the bytes of rows and of optimizer state that this process has."""
    rows = [one for own in store._stores() for one in own.tables().values()]
    states = [own.optimizer_state() for own in store._stores()]
    state = [one for own in states for name, one in own.items() if name != "step"]
    rows_bytes, state_bytes = (
        sum(one.numel() * one.element_size() for one in tensors) for tensors in (rows, state)
    )
    return rows_bytes, state_bytes


def main(folder: Path, rank: int, world_size: int) -> None:
    """Run every case."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    start = torch.load(folder / "start.pt")
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        torch.manual_seed(1)
        fresh = TorchRecRowsStore(case.physical, case.optimizer)
        run(fresh, case, [0], rank, world_size)
        torch.manual_seed(1)
        store = TorchRecRowsStore(case.physical, case.optimizer)
        begin = int(start["step"])
        if begin:
            load_parts(Path(start[name]["folder"]), start[name]["files"], store.parts())
            store.num_steps = begin
            # The same from whole tables.
            again = TorchRecRowsStore(case.physical, case.optimizer)
            again.load_tables(start[name]["tables"])
            again.load_optimizer_state(start[name]["state"])
            assert again.num_steps == store.num_steps
            for one, other in zip(store.parts(), again.parts(), strict=True):
                assert torch.equal(one.tensor, other.tensor), one.entry
        first = {key: one.clone() for key, one in store.tables().items()}
        torch.rand(rank)  # in training, processes draw different numbers of numbers
        seen = run(store, case, range(begin, begin + NUM_STEPS), rank, world_size)
        blocks = [[torch.zeros(0)] * world_size for _ in seen]
        for own, blocks_of_step in zip(seen, blocks, strict=True):
            dist.all_gather_object(blocks_of_step, own)
        copies: list[Any] = [None] * world_size
        small = {key: one.clone() for key, one in store.replicated.tables().items()}
        dist.all_gather_object(copies, small)
        parts = folder / name.replace(" ", "_")
        held: list[Any] = [None] * world_size
        dist.all_gather_object(held, held_by(store))
        found[name] = {
            "folder": str(parts),
            "files": save_parts(parts, store.parts()),
            "copies": copies,
            "first": first,
            "one_step": fresh.tables(),
            "seen": blocks,
            "tables": store.tables(),
            "values": {table: store.values(table).clone() for table in case.physical},
            "state": store.optimizer_state(),
            "held": held,
            "bytes": sum(
                tensor.numel() * tensor.element_size()
                for one in store._stores()
                for tensor in one.tables().values()
            ),
        }
    if rank == 0:
        torch.save({"step": begin + NUM_STEPS, **found}, folder / "end.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os.environ["RANK"] = sys.argv[2]
    processes.end(0)
