"""What a second process is worth: one process on one core against two on two, in turn.

Run ``python benchmarks/processes.py`` from the root with ``RECEMB_DATA`` set, on Linux. Every
process has one thread of torch's and a core of its own, on which its loader runs too. Prints the
training samples/s of each pair and the ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
# Pinned before torch counts the cores it may use.
PINNED = (
    "import os, runpy, sys; "
    "os.sched_setaffinity(0, {int(os.environ.get('LOCAL_RANK', 0))}); "
    "sys.argv = sys.argv[1:]; runpy.run_module('recemb', run_name='__main__', alter_sys=False)"
)


def samples_per_s(args: argparse.Namespace, processes: int) -> float:
    """Train some short epochs; return the training samples per second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        arguments = ["fit", "--config", args.config, "--run", f"{folder}/run", "--json", str(path)]
        arguments += ["--trainer.limit_train_batches", str(args.steps)]
        arguments += ["--trainer.max_epochs", str(args.epochs)]
        arguments += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
        arguments += ["--trainer.enable_progress_bar", "false"]
        arguments += ["--data.init_args.batch_size", str(args.batch_size), *args.more]
        command = [sys.executable, "-W", "ignore", "-c", PINNED, "recemb", *arguments]
        if processes > 1:
            launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run"]
            launch += ["--nproc-per-node", str(processes), "--rdzv-backend", "c10d"]
            launch += ["--rdzv-endpoint", "localhost:0", "--no-python", "--"]
            command = [*launch, *command, "--trainer.strategy", "torchrec"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return float(json.loads(path.read_text())["samples_per_s"])


def main() -> None:
    """Measure pairs and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/dcn/movielens1m.yaml")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=4096, help="of all processes together")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("more", nargs="*", help="further options of fit, after --")
    args = parser.parse_args()
    ratios = []
    for pair in range(1, args.pairs + 1):
        one, two = samples_per_s(args, 1), samples_per_s(args, 2)
        ratios.append(two / one)
        print(f"pair {pair}: {one:,.0f} and {two:,.0f} samples/s, {ratios[-1]:.2f} x", flush=True)
    low, high = min(ratios), max(ratios)
    print(
        f"{args.config}, batches of {args.batch_size} {' '.join(args.more)}: median "
        f"{statistics.median(ratios):.2f} x ({low:.2f} to {high:.2f}), {platform.machine()}, "
        f"{os.cpu_count()} cores, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
