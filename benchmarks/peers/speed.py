"""Measure training speed alone: both libraries in turn on 100,000 rows, the ratio pair by pair.

Whole trainings are minutes apart, and a machine drifts in that time; a pair here takes one minute.
"""

import json
import os
import sys
from typing import Any

from bench import ENVIRONMENT, HERE, SETTINGS, Bench, call

BATCHES = 25


def fuxictr(bench: Bench, seed: int) -> dict[str, Any]:
    """Train FuxiCTR's DIN on a sample of as many rows as recemb sees; return its JSON."""
    rows = BATCHES * bench.settings["shared"]["batch_size"]
    path = bench.folder / "work" / f"speed-fuxictr-seed{seed}.json"
    command = [
        *(str(ENVIRONMENT / "bin" / "python"), str(HERE / "fuxictr_din.py")),
        *("--layout", str(bench.layout), "--work", str(HERE / "runs" / "fuxictr")),
        *("--settings", str(SETTINGS), "--seed", str(seed), "--json", str(path)),
        *("--rows", str(rows), "--set", "epochs=2"),
    ]
    call(command, "FuxiCTR")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def recemb(bench: Bench, seed: int) -> dict[str, Any]:
    """Train recemb's DIN for the same number of rows and epochs; return its JSON."""
    path = bench.folder / "work" / f"speed-recemb-seed{seed}.json"
    command = [
        *(sys.executable, "-m", "recemb", "fit", "--config", bench.settings["recemb"]["config"]),
        *("--seed_everything", str(seed), "--trainer.limit_train_batches", str(BATCHES)),
        *("--trainer.max_epochs", "2", "--json", str(path)),
    ]
    call(command, "recemb")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def measure_pairs(bench: Bench, num_pairs: int) -> list[dict[str, float]]:
    """Return the training samples/s of both libraries, pair by pair."""
    os.environ["OMP_NUM_THREADS"] = str(bench.num_threads)
    pairs = []
    for seed in range(1, num_pairs + 1):
        pair = {
            "fuxictr": fuxictr(bench, seed)["samples_per_s"],
            "recemb": recemb(bench, seed)["samples_per_s"],
        }
        ratio = pair["recemb"] / pair["fuxictr"]
        print(
            f"speed, pair {seed}: {pair['fuxictr']:,.0f} and {pair['recemb']:,.0f} samples/s, "
            f"ratio {ratio:.2f}",
            flush=True,
        )
        pairs.append(pair)
    return pairs
