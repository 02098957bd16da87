"""Learned dimensions: searches and baselines at 50 % and 10 % of the bytes, on MovieLens-1M.

Run ``python benchmarks/search.py`` from the root with ``RECEMB_DATA`` set. Each search is a
``python -m recemb search`` on a configuration that is written beside its results, so any of them
can be repeated by hand. What is finished is not run again: stop it and go on when you like. Results
go to ``benchmarks/search/``: ``results.md`` (table), ``results.json`` (every run) and one picture
per model.

The protocol is that of ``configs/<model>/movielens1m.yaml`` with tables of dimension 64 for every
feature, batches of 4,096, and rows at a learning rate of 0.01. Epochs are chosen by validation AUC,
test is read once per training; searches see neither.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "search"
DIM = 64
MODELS = ("deepfm", "dcn")
SHARES = (0.5, 0.1)
ROWS_LEARNING_RATE, BATCH_SIZE = 0.01, 4096
FEATURES = ("user", "movie", "zip", "gender", "age", "occupation")
OPTIONS: dict[str, list[str]] = {
    # The plain tables and the baselines are trained beside the first method, for all of them.
    "dnis": [
        "--warm_up", "1", "--epochs", "2", "--forms", "dense", "sparse",
        "--baselines", "full", "uniform", "mixed_dim", "pruning", "random",
    ],
    "optembed": ["--warm_up", "0", "--epochs", "3"],
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search."""

    model: str
    method: str
    share: float
    seed: int

    @property
    def folder(self) -> Path:
        """Where its configuration and results go."""
        name = f"{self.model}-{self.method}-{self.share:g}-{self.seed}"
        return ROOT / "runs" / "search" / name

    @property
    def done(self) -> Path:
        """Its results, once it is done."""
        return self.folder / "run" / "results.json"


def runs(seeds: int, models: list[str], shares: list[float], methods: list[str]) -> Iterator[Run]:
    """Yield the searches, a seed after the other."""
    for seed in range(1, seeds + 1):
        for model in models:
            for share in shares:
                for method in methods:
                    yield Run(model=model, method=method, share=share, seed=seed)


def config_of(run: Run) -> dict[str, Any]:
    """Return the configuration of a search."""
    path = ROOT / "configs" / run.model / "movielens1m.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["seed_everything"] = run.seed
    arguments = config["model"]["init_args"]
    arguments["tables"] = {name: {"kind": "full", "dim": DIM} for name in FEATURES}
    arguments["features"] = {name: {"table": name} for name in FEATURES}
    arguments["rows_optimizer"]["learning_rate"] = ROWS_LEARNING_RATE
    config["data"]["init_args"]["batch_size"] = BATCH_SIZE
    config["trainer"]["enable_progress_bar"] = False
    return config


def search(run: Run, threads: int) -> None:
    """Search unless that is done."""
    if run.done.is_file():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / "config.yaml"
    path.write_text(yaml.safe_dump(config_of(run), sort_keys=False))
    where = ["--config", str(path), "--run", str(run.done.parent), "--resume"]
    how = ["--method", run.method, "--share", str(run.share), *OPTIONS[run.method]]
    command = [sys.executable, "-m", "recemb", "search", *where, *how]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")


def lines_of(run: Run) -> dict[str, dict[str, Any]]:
    """Return what a search has trained, by the name of its line."""
    results = json.loads(run.done.read_text())
    seconds = results["supernet"]["seconds"]
    found = {}
    for group in ("forms", "baselines"):
        for name, one in results[group].items():
            if "refused" not in one:
                line = f"{run.method} {name}" if group == "forms" else name
                # A search costs its supernet and the training of what was found.
                cost = one["seconds"] + (seconds if group == "forms" else 0)
                found[line] = {
                    "bytes": one["bytes"]["tables"],
                    "budget": results["budget"],
                    "test_auc": one["metrics"]["test/auc"],
                    "val_auc": one["metrics"]["val/auc"],
                    "seconds": cost,
                }
    return found


def summarize(done: list[Run]) -> list[dict[str, Any]]:
    """Return a row per model, share and line: means and spreads over seeds."""
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = defaultdict(list)
    for run in done:
        for line, found in lines_of(run).items():
            groups[run.model, 1.0 if line == "full" else run.share, line].append(
                {"seed": run.seed, **found}
            )
    rows = []
    for (model, share, line), several in groups.items():
        by_seed = list({one["seed"]: one for one in several}.values())
        row: dict[str, Any] = {"model": model, "share": share, "line": line, "seeds": len(by_seed)}
        for name in ("test_auc", "val_auc"):
            values = [one[name] for one in by_seed]
            row[name] = statistics.mean(values)
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        row["bytes"] = statistics.mean(one["bytes"] for one in by_seed)
        row["budget"] = by_seed[0]["budget"]
        row["seconds"] = statistics.median(one["seconds"] for one in by_seed)
        rows.append(row)
    return rows


def spread(row: Mapping[str, Any], name: str) -> str:
    """Return a mean and its deviation."""
    deviation = row[f"{name}_sd"]
    return f"{row[name]:.4f}" + (f" +- {deviation:.4f}" if deviation is not None else "")


def markdown(rows: list[dict[str, Any]], missing: int) -> str:
    """Return the tables, the best line first."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    import torch

    lines = [
        "# Learned dimensions on MovieLens-1M: test AUC at the same serving bytes",
        "",
        f"`python benchmarks/search.py`, commit {commit}. {platform.machine()}, {os.cpu_count()} "
        f"CPUs, Python {platform.python_version()}, torch {torch.__version__}. Protocol: see the "
        "head of `benchmarks/search.py`. Mean, and sample standard deviation where there are "
        "several seeds; a search costs its supernet and the training of what it found.",
    ]
    if missing:
        lines += ["", f"{missing} of the searches have not been run yet; the command goes on."]
    for model in MODELS:
        own = [row for row in rows if row["model"] == model]
        plain = [row for row in own if row["line"] == "full"]
        for share in sorted({row["share"] for row in own} - {1.0}, reverse=True):
            at = [row for row in own if row["share"] == share]
            lines += [
                "",
                f"## {model}, {share:.0%} of the bytes ({at[0]['budget']:,})",
                "",
                "| | seeds | test AUC | validation AUC | bytes of the budget | seconds |",
                "|---|---|---|---|---|---|",
            ]
            for row in [*plain, *sorted(at, key=lambda one: -one["test_auc"])]:
                lines.append(
                    f"| {row['line']} | {row['seeds']} | {spread(row, 'test_auc')} | "
                    f"{spread(row, 'val_auc')} | {row['bytes'] / at[0]['budget']:.1%} | "
                    f"{row['seconds']:.0f} |"
                )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], model: str, path: Path) -> None:
    """Draw test AUC against bytes, a line each."""
    from recemb.search.plots import pyplot

    drawing = pyplot()
    figure, axes = drawing.subplots(figsize=(9, 6), constrained_layout=True)
    for line in sorted({row["line"] for row in rows if row["model"] == model}):
        own = [row for row in rows if (row["model"], row["line"]) == (model, line)]
        own.sort(key=lambda row: row["bytes"])
        axes.errorbar(
            [row["bytes"] for row in own],
            [row["test_auc"] for row in own],
            yerr=[row["test_auc_sd"] or 0.0 for row in own],
            marker="o",
            capsize=3,
            label=line,
        )
    axes.set_xscale("log")
    axes.set_xlabel("serving bytes of the tables")
    axes.set_ylabel("test AUC")
    axes.set_title(f"MovieLens-1M, {model}, dimension {DIM}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    drawing.close(figure)


def main() -> None:
    """Search what is missing, then write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each search")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--methods", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--report", action="store_true", help="search nothing: report what is done")
    options = parser.parse_args()
    if not options.report:
        for run in runs(options.seeds, options.models, options.shares, options.methods):
            print(run.folder.name, flush=True)
            search(run, options.threads)
    every = list(runs(options.seeds, list(MODELS), list(SHARES), list(OPTIONS)))
    done = [run for run in every if run.done.is_file()]
    rows = summarize(done)
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "results.md").write_text(markdown(rows, len(every) - len(done)))
    (OUTPUT / "results.json").write_text(json.dumps(rows, indent=1))
    for model in {row["model"] for row in rows}:
        plot(rows, model, OUTPUT / f"{model}.png")
    print(f"{OUTPUT / 'results.md'} is written")


if __name__ == "__main__":
    main()
