"""What keeping freed memory is worth: DIN on MovieLens-1M with and without, in turn.

Run ``python benchmarks/allocator.py`` from the root with ``RECEMB_DATA`` set. Prints the training
samples/s of each pair and the median ratio. See ``recemb/memory.py``.
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

ROOT = Path(__file__).resolve().parents[1]
COMMAND = [
    *(sys.executable, "-m", "recemb", "fit", "--config", "configs/din/movielens1m.yaml"),
    *("--trainer.limit_train_batches", "25", "--trainer.max_epochs", "2"),
]


def samples_per_s(keep: bool) -> float:
    """Train two short epochs; return the training samples per second."""
    # Any MALLOC_ setting of the user's turns recemb's own off; this one is glibc's default.
    off = {} if keep else {"MALLOC_TOP_PAD_": "131072"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        command = [*COMMAND, "--json", str(path), "--run", f"{folder}/run"]
        environment = {**os.environ, **off}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        return float(json.loads(path.read_text())["samples_per_s"])


def main() -> None:
    """Measure pairs and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    ratios = []
    for pair in range(1, parser.parse_args().pairs + 1):
        without, kept = samples_per_s(False), samples_per_s(True)
        ratios.append(kept / without)
        print(
            f"pair {pair}: {without:,.0f} -> {kept:,.0f} samples/s, {ratios[-1]:.2f} x", flush=True
        )
    low, high = min(ratios), max(ratios)
    print(
        f"median {statistics.median(ratios):.2f} x ({low:.2f} to {high:.2f}), {platform.machine()}"
    )


if __name__ == "__main__":
    main()
