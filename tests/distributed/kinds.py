"""A small model over a kind of table, trained on one process's part of every batch.

    python -m tests.distributed.kinds FOLDER RANK WORLD_SIZE

writes the losses of every kind, by name, as ``losses-WORLD_SIZE.json``.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recemb import processes
from recemb.embeddings import Embeddings
from recemb.jagged import Ids, Jagged, bag_of_each
from recemb.optim import dense_parameters
from recemb.rows.optimizers import Adam
from recemb.rows.torchrec_store import TorchRecRowsStore
from recemb.tables.registry import table_config
from tests.tables.helpers import SPACES, feature

NUM_STEPS = 12
SAMPLES = 24
LEFT = 3
"""Samples of every tenth batch, the last of an epoch: of four processes one has none."""
KINDS: dict[str, dict[str, Any]] = {
    "adaptive": {"num_rows": 40},
    "candidate_dims": {"candidates": [2, 8]},
    "codes": {"num_parts": 4, "num_bits": 4},
    "compositional": {"num_remainders": 6},
    "deduplicated": {"num_blocks": 60, "rows_per_block": 1},
    "deep_hash": {"width": 6, "num_hashes": 12},
    "dpq": {"num_parts": 4, "num_keys": 16},
    "dpq sx": {"num_parts": 4, "num_keys": 16, "response": "sx"},
    "dynamic": {"num_rows": 30, "every": 3},
    "dynamic contended": {"num_rows": 20, "every": 2, "decay": 0.5, "num_candidates": 9},
    "full": {},
    "full projected": {"project": 6},
    "gated": {"ends": [12, 30]},
    "hashed": {"num_rows": 50, "num_hashes": 2},
    "matryoshka": {"serve": 4},
    "mgqe": {"num_parts": 4, "num_keys": 16, "rest_keys": 4},
    "mixed_dim": {"exponent": 0.4},
    "pruned": {"num_values": 400},
    "robe": {"num_values": 300, "chunk": 4},
    "selected": {"ends": [12, 30], "keep": [[0, 1, 2, 3, 4, 5, 6, 7], [1, 4, 5, 6], [0, 2, 7]]},
    "selected dropped": {"keep": [[0, 2, 7]], "kept_ids": "eNr7/vtv3f77779bAwAmnAct"},
    "soft_thresholded": {},
    "soft_thresholded per element": {"per": "element", "start": -4.0},
    "tensor_train": {"rank": 3},
    "thresholded": {},
    "unified": {"num_rows": 50},
    "weighted_hash": {"num_rows": 50},
}
SHARDINGS = {
    1: ("row_wise",),
    2: ("row_wise", "table_wise", "data_parallel"),
    4: ("row_wise",),
}
"""By number of processes: all at two, and elsewhere the one that cuts tables."""


def batch(step: int, rank: int, world_size: int) -> tuple[dict[str, Ids], Tensor, int]:
    """Return a process's part of a batch: ids, bags of uneven sizes, labels; and all samples.

    In every fifth batch the samples of the second half have empty bags: a whole process's.
    """
    generator = torch.Generator().manual_seed(step)
    total = LEFT if step % 10 == 9 else SAMPLES

    def some(below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=generator)

    own = torch.arange(total).tensor_split(world_size)[rank]
    found: dict[str, Ids] = {}
    for name, space in (("who", "user"), ("one", "item")):
        found[name] = some(SPACES[space], total)[own]
    for name in ("mean", "none"):
        lengths = some(5, total)
        if step % 5 == 4:
            lengths[total // 2 :] = 0
        values = some(SPACES["item"], int(lengths.sum()))
        is_own = torch.isin(bag_of_each(lengths), own)
        found[name] = Jagged(values[is_own], lengths[own])
    label = (some(2, total)).float()[own]
    return found, label, total


def train(settings: dict[str, Any], sharding: str, rank: int, world_size: int) -> Sequence[float]:
    """Return the losses of whole batches."""
    torch.manual_seed(7)
    table = table_config("ads", {"dim": 8, **settings, "sharding": sharding})
    features = [
        feature("who", "ads", space="user"),
        feature("one", "ads"),
        feature("mean", "ads", pooling="mean"),
        feature("none", "ads", pooling="none"),
    ]
    rule = Adam(learning_rate=0.01)
    module = Embeddings(
        {"ads": table}, features, lambda physical: TorchRecRowsStore(physical, rule)
    ).train()
    head = nn.Linear(4 * module.dims["one"], 1)
    dense = [*dense_parameters(module), *head.parameters()]
    optimizer = torch.optim.Adam(dense, lr=0.01)
    losses = []
    for step in range(NUM_STEPS):
        if step == NUM_STEPS // 2:
            module.start_epoch(1)  # staged kinds take their next stage
        ids, label_B, samples = batch(step, rank, world_size)
        optimizer.zero_grad()
        total = torch.zeros(())
        for _ in module.training_forms():
            vectors = module(ids)
            bags = vectors["none"]
            assert isinstance(bags, Jagged)
            summed = label_B.new_zeros(len(label_B), module.dims["none"])
            summed = summed.index_add(0, bag_of_each(bags.lengths), bags.values)
            logits = head(torch.cat([vectors["who"], vectors["one"], vectors["mean"], summed], 1))
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits.squeeze(1), label_B, reduction="sum"
            )
            total = total + loss * world_size / samples
        total = total + module.loss()
        total.backward()
        for one in dense:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
            dist.all_reduce(one.grad)
            one.grad /= world_size
        optimizer.step()
        module.step()
        mean = total.detach().clone()
        dist.all_reduce(mean)
        losses.append(float(mean) / world_size)
    return losses


def main(folder: Path, rank: int, world_size: int) -> None:
    """Train every kind."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous-{world_size}",
        rank=rank,
        world_size=world_size,
    )
    assert processes.world_size() == world_size
    found = {
        f"{name}, {sharding}": train(
            {"kind": name.split()[0], **settings}, sharding, rank, world_size
        )
        for name, settings in KINDS.items()
        for sharding in SHARDINGS[world_size]
    }
    if rank == 0:
        (folder / f"losses-{world_size}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os.environ["RANK"] = sys.argv[2]
    processes.end(0)
