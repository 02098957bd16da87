"""Choose FuxiCTR's own options on the validation part, so the peer runs at its best.

Run ``python benchmarks/peers/tune.py``; it prints the table for the README, best first. The best
row goes into ``settings.yaml``. Finished trials are kept and not repeated. A trial is two epochs:
the options differ from the first one on, and an epoch takes minutes.
"""

import argparse
import os
import sys

from bench import BenchmarkError, open_bench
from run import run_fuxictr

TRIALS = (
    {"use_softmax": False, "embedding_regularizer": 0.0, "epochs": 2},
    {"use_softmax": True, "embedding_regularizer": 0.0, "epochs": 2},
    {"use_softmax": True, "embedding_regularizer": 1e-5, "epochs": 2},
)


def main() -> int:
    """Run every trial and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    rows = []
    try:
        bench = open_bench(arguments.threads)
        for changes in TRIALS:
            print(changes, flush=True)
            report = run_fuxictr(bench, arguments.seed, changes, "tune")
            rows.append((report["metrics"]["val/auc"], changes, report))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| softmax | embedding regulariser | best validation AUC | each epoch |")
    print("|---|---|---|---|")
    for auc, changes, report in sorted(rows, key=lambda row: row[0], reverse=True):
        epochs = " ".join(f"{value:.4f}" for value in report["validation_aucs"])
        regularizer = changes["embedding_regularizer"]
        print(f"| {changes['use_softmax']} | {regularizer:g} | {auc:.4f} | {epochs} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
