"""What a warm start is worth: one epoch on all users, after a training on every second user.

    python benchmarks/warm_start.py --folder FOLDER [--seeds 1 2 3]

DCN-V2 on MovieLens-1M (ratings 1-2 against 4-5, the split of ``data/movielens_ratings.py``). An old
model is trained for three epochs on the rows of users of even number; then one epoch on the rows of
all users, cold and with ``--warm_start`` from the old model: plain tables of 30 elements, whose
vocabularies grow, and tables hashed to 1,000 rows, which become 2,000. Prints a table; runs that
are there already are not repeated.
"""

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from recemb.command_line.main import main as recemb
from recemb.data.files import cache_root, data_root
from recemb.data.movielens_ratings import FEATURES, prepare
from recemb.data.tabular import STAGES

CONFIG = Path("configs/dcn/movielens1m.yaml")
HASHED = ("user", "movie", "zip")
METRICS = ("val/auc", "test/auc", "test/logloss")


def halved(folder: Path) -> tuple[Path, Path]:
    """Return folders of files with the rows of every second user and of all."""
    whole = prepare(data_root() / "ml-1m", cache_root())
    half = folder / "half"
    half.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        rows = pl.read_parquet(whole / f"{stage}.parquet", glob=False).filter(
            pl.col("user") % 2 == 0
        )
        rows.write_parquet(half / f"{stage}.parquet")
    return half, whole


def config(folder: Path, epochs: int, num_rows: int | None) -> dict[str, Any]:
    """Return the configuration of a training; ``num_rows`` makes the large tables hashed."""
    found: dict[str, Any] = copy.deepcopy(yaml.safe_load(CONFIG.read_text()))
    if num_rows:
        for name in HASHED:
            found["model"]["init_args"]["tables"][name] = {
                "kind": "hashed", "dim": 30, "num_rows": num_rows
            }  # fmt: skip
    found["data"] = {
        "class_path": "recemb.data.tabular.Tabular",
        "init_args": {
            "folder": str(folder),
            "label": "label",
            "categorical": {name: {} for name in FEATURES},
            "batch_size": 1024,
        },
    }
    found["trainer"] = {"max_epochs": epochs, "enable_progress_bar": False, "logger": False}
    return found


def run(folder: Path, settings: dict[str, Any], seed: int, *options: str) -> dict[str, float]:
    """Train, unless that is done, and return the metrics."""
    results = folder / "results.json"
    if not results.exists():
        path = folder.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        arguments = ["fit", "--config", str(path), "--run", str(folder), *options]
        assert recemb([*arguments, "--seed_everything", str(seed)]) == 0
    found: dict[str, float] = json.loads(results.read_text())["metrics"]
    return found


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    half, whole = halved(options.folder)
    lines = [f"| tables | start | {' | '.join(METRICS)} |", "|---|---|---|---|---|"]
    for name, sizes in (("plain", (None, None)), ("hashed 1,000 -> 2,000", (1000, 2000))):
        found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for seed in options.seeds:
            own = options.folder / f"{name.split()[0]}-{seed}"
            run(own / "old", config(half, 3, sizes[0]), seed)
            new = config(whole, 1, sizes[1])
            warm = ("--warm_start", str(own / "old/checkpoints/best.ckpt"))
            found["cold"].append(run(own / "cold", new, seed))
            found["warm"].append(run(own / "warm", new, seed, *warm))
        for start, runs in found.items():
            values = [[one[metric] for one in runs] for metric in METRICS]
            cells = [
                f"{statistics.mean(v):.4f} +- {statistics.stdev(v) if len(v) > 1 else 0:.4f}"
                for v in values
            ]
            lines.append(f"| {name} | {start} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
