"""What padding would cost: the encoder's step on Amazon Beauty's and MovieLens-1M's sequences.

    python benchmarks/session_padding.py

Forward and backward of one encoder, one thread, the best of rounds that alternate, over the same
batches in three forms: ``blocks``, sequences of one length at a time, as in training;
``attention``, dense layers on tokens alone and attention on all sequences padded to the longest;
``all``, every layer on sequences padded to the longest of the batch.
"""

import json
import time

import torch

from recemb.data.beauty import Beauty
from recemb.data.movielens_sequences import MovieLensSequences
from recemb.data.sequences import SequenceData
from recemb.jagged import position_of_each
from recemb.memory import keep_freed_memory
from recemb.models.session import columns_of
from recemb.models.transformer import CausalTransformer

DIM, ROUNDS, BATCHES = 64, 4, 6


def padded_attention(encoder: CausalTransformer, x_ND: torch.Tensor, lengths_B: torch.Tensor):
    """Return what the encoder does in a traced program."""
    x_ND = x_ND + encoder.position_LD[position_of_each(lengths_B)]
    for block in encoder.blocks:
        x_ND = block(x_ND, lambda one, own: one.padded(own, lengths_B))
    return encoder.norm(x_ND)


def measure(data: SequenceData) -> dict[str, object]:
    loader = iter(data.train_dataloader())
    lengths = [columns_of(next(loader))[0].lengths for _ in range(BATCHES)]
    encoder = CausalTransformer(DIM, 2, 2, 256, 0.0, 0.0, data.max_length)
    forms = {
        "blocks": (encoder, lambda own: own),
        "attention": (lambda *given: padded_attention(encoder, *given), lambda own: own),
        "all": (encoder, lambda own: own.new_full(own.shape, int(own.max()))),
    }
    best = dict.fromkeys(forms, float("inf"))
    for _ in range(ROUNDS):
        for name, (form, change) in forms.items():
            before = time.perf_counter()
            for lengths_B in lengths:
                own_B = change(lengths_B)
                form(torch.randn(int(own_B.sum()), DIM), own_B).sum().backward()
            best[name] = min(best[name], time.perf_counter() - before)
    return {
        "tokens_per_sequence": round(float(torch.cat(lengths).double().mean()), 2),
        "longest": int(torch.cat(lengths).max()),
        "ms_per_batch": {name: round(1e3 * own / BATCHES, 1) for name, own in best.items()},
    }


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    report = {type(data).__name__: measure(data) for data in (Beauty(), MovieLensSequences())}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
