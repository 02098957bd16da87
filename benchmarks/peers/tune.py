"""Choose FuxiCTR's regulariser and dropout on the validation part, so the peer runs at its best.

Run ``python benchmarks/peers/tune.py``; it prints the table for the README, best first. The best
row goes into ``settings.yaml``. Finished trials are kept and not repeated.
"""

import argparse
import itertools
import os
import sys

from run import BenchmarkError, open_bench, run_fuxictr

EMBEDDING_REGULARIZERS = (0.0, 1e-6, 1e-5)
NET_DROPOUTS = (0.0, 0.2)


def main() -> int:
    """Run every trial and print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    rows = []
    try:
        bench = open_bench(arguments.threads)
        for regularizer, dropout in itertools.product(EMBEDDING_REGULARIZERS, NET_DROPOUTS):
            changes = {"embedding_regularizer": regularizer, "net_dropout": dropout}
            print(f"embedding regulariser {regularizer:g}, dropout {dropout:g}", flush=True)
            report = run_fuxictr(bench, arguments.seed, changes, "tune")
            rows.append((report["metrics"]["val/auc"], regularizer, dropout, report))
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("| embedding regulariser | dropout | best validation AUC | epoch | each epoch |")
    print("|---|---|---|---|---|")
    for auc, regularizer, dropout, report in sorted(rows, key=lambda row: row[0], reverse=True):
        epochs = " ".join(f"{value:.4f}" for value in report["validation_aucs"])
        best_epoch = report["best_epoch"]
        print(f"| {regularizer:g} | {dropout:g} | {auc:.4f} | {best_epoch} | {epochs} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
