"""Measure training speed alone: both libraries in turn on 100,000 rows, the ratio pair by pair.

``run.py`` reports the speed of whole trainings, half an hour apart; a machine drifts in that time.
Here a pair takes a minute. Run ``python benchmarks/peers/speed.py`` on a quiet machine; it prints a
table and writes ``speed.md``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import commit, processor
from run import ENVIRONMENT, HERE, ROOT, SETTINGS, Bench, BenchmarkError, call, open_bench

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


def main() -> int:
    """Run the pairs and write the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    lines = ["| pair | FuxiCTR samples/s | recemb samples/s | ratio |", "|---|---|---|---|"]
    ratios = []
    try:
        bench = open_bench(arguments.threads)
        for pair in range(1, arguments.pairs + 1):
            rates = [library(bench, pair)["samples_per_s"] for library in (fuxictr, recemb)]
            ratios.append(rates[1] / rates[0])
            lines.append(f"| {pair} | {rates[0]:,.0f} | {rates[1]:,.0f} | {ratios[-1]:.2f} |")
            print(lines[-1], flush=True)
    except (BenchmarkError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    facts = [
        f"Median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to "
        f"{max(ratios):.2f}. Two epochs of {BATCHES} batches each.",
        f"- machine: {processor()}, {arguments.threads} torch threads for both",
        f"- commit: {commit()}",
        f"- command: `python benchmarks/peers/speed.py --pairs {arguments.pairs} --threads "
        f"{arguments.threads}`",
    ]
    title = "# Training speed of DIN on MovieLens-1M: recemb and FuxiCTR"
    text = "\n\n".join([title, "\n".join(lines), facts[0], "\n".join(facts[1:])])
    Path(HERE / "speed.md").write_text(text + "\n")
    print(facts[0], f"written: {os.path.relpath(HERE / 'speed.md', ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
