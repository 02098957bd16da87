"""How long the best 100 of a million items take: a vector per item against codes with a rerank.

    python benchmarks/session_scoring.py

Untrained vectors around 10,000 centres, one thread, medians over rounds that alternate. ``vectors``
scores all items and takes the best; ``codes`` looks at the items of the likeliest codes, ``rerank``
scores those by vectors of their own. ``found`` is the share of the exact best that rerank finds.
"""

import argparse
import json
import statistics
import time

import torch

from recemb.jagged import Jagged, to_padded
from recemb.memory import keep_freed_memory
from recemb.models.codebook_logits import CodebookLogits

DIM, NUM_CODES, NUM_PROBES, BEST = 64, 10_000, 32, 100


def clustered(num_items: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit vectors (V, D) around as many centres as there are codes, and whose each is."""
    center_KD = torch.randn(NUM_CODES, DIM, generator=generator)
    own_V = torch.randint(NUM_CODES, (num_items,), generator=generator)
    noise_VD = 0.5 * torch.randn(num_items, DIM, generator=generator)
    return torch.nn.functional.normalize(center_KD[own_V] + noise_VD, dim=1), own_V


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    item_VD, own_V = clustered(options.items, generator)
    codebook = CodebookLogits(options.items, DIM, NUM_CODES, NUM_PROBES)
    # The centres are known here: k-means on a million items would find them in minutes.
    codebook.assign(own_V, item_VD, torch.ones(options.items))
    codebook.eval()

    def by_vectors(query_BD: torch.Tensor) -> torch.Tensor:
        return (query_BD @ item_VD.t()).topk(BEST, 1).indices

    def by_codes(query_BD: torch.Tensor, rerank: bool) -> torch.Tensor:
        near, score_M = codebook.near(query_BD)
        item_BL, is_item_BL = to_padded(near)
        if rerank:
            vectors = item_VD.index_select(0, item_BL.flatten()).unflatten(0, item_BL.shape)
            scores = torch.bmm(vectors, query_BD.unsqueeze(2)).squeeze(2)
            score_BL = scores.masked_fill(~is_item_BL, -torch.inf)
        else:
            score_BL, _ = to_padded(Jagged(score_M, near.lengths), -torch.inf)
        return item_BL.gather(1, score_BL.topk(BEST, 1).indices)

    forms = {
        "vectors": by_vectors,
        "codes": lambda query_BD: by_codes(query_BD, False),
        "codes, rerank": lambda query_BD: by_codes(query_BD, True),
    }
    report = {"items": options.items, "codes": NUM_CODES, "probes": NUM_PROBES, "batches": {}}
    report["output_bytes"] = {
        "vectors": item_VD.nbytes,
        "codes": codebook.code_KD.nbytes + codebook.bias_V.nbytes,
    }
    with torch.no_grad():
        for batch in (1, 16, 64):
            start_B = torch.randint(options.items, (batch,), generator=generator)
            noise_BD = 0.1 * torch.randn(batch, DIM, generator=generator)
            query_BD = (item_VD[start_B] + noise_BD) / 0.07
            times = {name: [] for name in forms}
            for number in range(options.rounds + 1):
                for name, form in forms.items():
                    before = time.perf_counter()
                    form(query_BD)
                    if number:
                        times[name].append(1e3 * (time.perf_counter() - before))
            exact, found = by_vectors(query_BD), by_codes(query_BD, True)
            same = (exact.unsqueeze(2) == found.unsqueeze(1)).any(2).double().mean()
            median = {name: statistics.median(own) for name, own in times.items()}
            report["batches"][batch] = {
                "ms": {name: round(one, 3) for name, one in median.items()},
                "times_faster": {
                    name: round(median["vectors"] / one, 1) for name, one in median.items()
                },
                "found": round(float(same), 4),
            }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
