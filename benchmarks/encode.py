"""What hashing costs beside the gather it serves: 26 features x 4,096 ids, rows of 16 elements.

Run ``python benchmarks/encode.py`` from the root. In each round encode, compose and the gather in
plain torch are timed one after the other, so that what disturbs one disturbs all; the ratio of a
round is (encode + compose) / gather. Two gathers are given: one ``index_select`` over one flat
table, the fastest that torch has, and one ``nn.Embedding`` per feature, side by side, as models are
usually written.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.features import FeatureConfig, ResolvedFeature
from recemb.memory import keep_freed_memory
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD
from recemb.tables.hashed import Hashed
from recemb.tables.kind import BlockIds, IdSpace, TableConfig
from recemb.tables.unified import Unified

FEATURES, BATCH, DIM = 26, 4096, 16


def steps_of(kind: str, rows: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return encode and compose of a kind over tables of ``rows`` rows in all."""
    names = [f"f{number}" for number in range(FEATURES)]
    tables: dict[str, TableConfig] = {"one": Unified(dim=DIM, num_rows=rows)}
    if kind == "hashed":
        tables = {name: Hashed(dim=DIM, num_rows=rows // FEATURES) for name in names}
    features = [
        ResolvedFeature(
            name,
            FeatureConfig(table=name if kind == "hashed" else "one"),
            IdSpace(name, None),
            is_list=False,
        )
        for name in names
    ]
    embeddings = Embeddings(tables, features, lambda parts: LocalRowsStore(parts, SGD()))
    (group,) = embeddings.groups
    ids_FB = torch.randint(2**40, (FEATURES, BATCH))
    feature_F1 = torch.arange(FEATURES).unsqueeze(1)
    feature = group.blocks[0][0].feature
    gathered = torch.randn(FEATURES * BATCH, 1, DIM)
    flat = BlockIds(ids_FB.flatten(), feature_F1.expand(-1, BATCH).flatten())
    return (
        lambda: group.kind.encode(ids_FB, feature_F1),
        lambda: group.kind.compose((gathered,), feature, flat),
    )


def gathers(rows: int) -> dict[str, Callable[[], object]]:
    """Return the gathers to compare with."""
    flat = torch.randn(rows, DIM)
    rows_T = torch.randint(rows, (FEATURES * BATCH,))
    tables = [nn.Embedding(rows // FEATURES, DIM) for _ in range(FEATURES)]
    ids: list[Tensor] = list(torch.randint(rows // FEATURES, (FEATURES, BATCH)))
    return {
        "one flat table": lambda: flat.index_select(0, rows_T),
        "26 nn.Embedding": lambda: torch.cat(
            [table(own) for table, own in zip(tables, ids, strict=True)], 1
        ),
    }


def milliseconds(step: Callable[[], object]) -> float:
    """Return how long a step takes once."""
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3


@torch.no_grad()
def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_600_000, 26_000_000])
    options = parser.parse_args()
    keep_freed_memory()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} CPUs, ")
    print(f"{platform.machine()}; median of {options.rounds} rounds (10th to 90th percentile)\n")
    print("| kind | rows | encode + compose, ms | gather | ms | ratio |\n|---|---|---|---|---|---|")
    for rows in options.rows:
        compared = gathers(rows)
        for kind in ("hashed", "unified"):
            encode, compose = steps_of(kind, rows)
            taken = []
            for number in range(options.rounds + 20):
                own = milliseconds(encode) + milliseconds(compose)
                others = {name: milliseconds(step) for name, step in compared.items()}
                if number >= 20:
                    taken.append((own, others))
            for name in compared:
                ratios = sorted(own / others[name] for own, others in taken)
                low, high = ratios[len(ratios) // 10], ratios[-len(ratios) // 10]
                print(
                    f"| {kind} | {rows:,} | {statistics.median(own for own, _ in taken):.3f} | "
                    f"{name} | {statistics.median(others[name] for _, others in taken):.3f} | "
                    f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f}) |"
                )


if __name__ == "__main__":
    main()
