"""Learned dimensions: searches and baselines at 50 % and 10 % of the bytes, on MovieLens-1M.

Run ``python benchmarks/search.py`` from the root with ``RECEMB_DATA`` set. Each search is a
``python -m recemb search`` on a configuration that is written beside its results, so any of them
can be repeated by hand. What is finished is not run again: stop it and go on when you like. Results
go to ``benchmarks/search/``: ``results.md`` (table), ``results.json`` (every run) and one picture
per model.

The protocol is that of ``configs/<model>/movielens1m.yaml`` with tables of dimension 64 for every
feature, batches of 4,096, at most 30 epochs, and rows at a learning rate of 0.003: of .001, .003
and .01 the one at which the plain tables are best on validation (seed 1). The score of dnis was
chosen on validation too (seed 1). Every line has the same settings. Epochs are chosen by
validation AUC, test is read once per training; searches see neither. Deeplight, pep and autodim,
random selections and the sparse form of dnis are trained once, for DeepFM. What does not depend on
the budget is trained once per model and seed: the plain tables, and the supernet of dnis.

DIN and matrix factorisation, the tasks of the paper of DNIS, are searched as their configurations
are, by dnis alone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from machine import machine

from recemb.search.plots import plot_dimensions, pyplot

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "search"
DIM = 64
MODELS = ("deepfm", "dcn")
TASKS = ("din", "matrix_factorization")
SHARES = (0.5, 0.1)
METRICS = {"matrix_factorization": "mse"}
"""By model, where it is not AUC."""
ROWS_LEARNING_RATE, BATCH_SIZE, EPOCHS = 0.003, 4096, 30
FEATURES = ("user", "movie", "zip", "gender", "age", "occupation")
SEEDS = 3
ONCE = ("deeplight", "pep", "autodim")
"""Methods that are searched with the first seed and for the first model."""
OPTIONS: dict[str, list[str]] = {
    "dnis": ["--warm_up", "2", "--epochs", "3"],
    "optembed": ["--warm_up", "0", "--epochs", "5"],
    "deeplight": ["--warm_up", "2", "--epochs", "3"],
    "pep": ["--warm_up", "0", "--epochs", "5"],
    "autodim": ["--warm_up", "2", "--epochs", "3"],
}  # fmt: skip
TRAINED = ["--forms", "dense", "--baselines", "full", "uniform", "mixed_dim", "pruning"]
TRAINED_ONCE = ["--forms", "dense", "sparse", "--baselines", *TRAINED[3:], "random"]
"""Beside dnis, which is the first: for all methods, and with the first seed."""
REUSED = {"dnis": ("supernet", "full")}
"""Folders of a run that do not depend on its budget."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search."""

    model: str
    method: str
    share: float | None
    """None for a method that knows no budget."""
    seed: int

    @property
    def folder(self) -> Path:
        """Where its configuration and results go."""
        share = "own" if self.share is None else f"{self.share:g}"
        name = f"{self.model}-{self.method}-{share}-{self.seed}"
        return ROOT / "runs" / "search" / name

    @property
    def done(self) -> Path:
        """Its results, once it is done."""
        return self.folder / "run" / "results.json"


def runs(
    seeds: int, models: Sequence[str], shares: Sequence[float], methods: Sequence[str]
) -> Iterator[list[Run]]:
    """Yield the searches of a method, model and seed, which reuse what they have in common."""
    for method in methods:
        for seed in range(1, seeds + 1):
            for model in models:
                is_first = seed == 1 and model == MODELS[0]
                if (model in TASKS and method != "dnis") or (method in ONCE and not is_first):
                    continue
                yield [
                    Run(model=model, method=method, share=share, seed=seed)
                    for share in ([None] if method == "autodim" else shares)
                ]


def config_of(run: Run) -> dict[str, Any]:
    """Return the configuration of a search."""
    path = ROOT / "configs" / run.model / "movielens1m.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    config["seed_everything"] = run.seed
    config["trainer"] |= {"enable_progress_bar": False, "max_epochs": EPOCHS}
    if run.model in TASKS:
        return config
    arguments = config["model"]["init_args"]
    arguments["tables"] = {name: {"kind": "full", "dim": DIM} for name in FEATURES}
    arguments["features"] = {name: {"table": name} for name in FEATURES}
    arguments["rows_optimizer"]["learning_rate"] = ROWS_LEARNING_RATE
    config["data"]["init_args"]["batch_size"] = BATCH_SIZE
    return config


def search_all(several: list[Run], threads: int) -> None:
    """Search one after the other."""
    for run in several:
        print(run.folder.name, flush=True)
        search(run, threads)


def search(run: Run, threads: int) -> None:
    """Search unless that is done."""
    if run.done.is_file():
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    for share in SHARES:
        for name in REUSED.get(run.method, ()):
            there, here = replace(run, share=share).done.parent / name, run.done.parent / name
            if (there / "results.json").is_file() and not here.exists():
                shutil.copytree(there, here)
    path = run.folder / "config.yaml"
    path.write_text(yaml.safe_dump(config_of(run), sort_keys=False))
    where = ["--config", str(path), "--run", str(run.done.parent), "--resume"]
    share = [] if run.share is None else ["--share", str(run.share)]
    how = ["--method", run.method, *share, *OPTIONS[run.method]]
    if run.method == "dnis":
        how += TRAINED_ONCE if run.seed == 1 and run.model == MODELS[0] else TRAINED
    command = [sys.executable, "-m", "recemb", "search", *where, *how]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")


def lines_of(run: Run) -> dict[str, dict[str, Any]]:
    """Return what a search has trained, by the name of its line."""
    results = json.loads(run.done.read_text())
    metric = METRICS.get(run.model, "auc")
    found = {}
    for group in ("forms", "baselines"):
        for name, one in results[group].items():
            if "refused" not in one:
                line = f"{run.method} {name}" if group == "forms" else name
                found[line] = {
                    "dimensions": results["derived"][name]["dimensions"]
                    if group == "forms"
                    else {},
                    "bytes": one["bytes"]["tables"],
                    "budget": results["budget"],
                    "test": one["metrics"][f"test/{metric}"],
                    "validation": one["metrics"][f"val/{metric}"],
                }
    return found


def summarize(done: list[Run]) -> list[dict[str, Any]]:
    """Return a row per model, share and line: means and spreads over seeds."""
    groups: dict[tuple[str, float | None, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in done:
        for line, found in lines_of(run).items():
            share = 1.0 if line == "full" else run.share
            groups[run.model, share, line].setdefault(run.seed, found)
    rows = []
    for (model, share, line), by_seed in groups.items():
        full = groups.get((model, 1.0, "full"), {})
        pairs = [(one, full[seed]) for seed, one in by_seed.items() if seed in full]
        several = list(by_seed.values())
        row: dict[str, Any] = {"model": model, "share": share, "line": line, "seeds": len(several)}
        columns = {
            "test": [one["test"] for one in several],
            "validation": [one["validation"] for one in several],
            "against_full": [one["test"] - plain["test"] for one, plain in pairs],
        }
        for name, values in columns.items():
            row[name] = statistics.mean(values) if values else None
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        row["bytes"] = statistics.mean(one["bytes"] for one in several)
        row["budget"] = several[0]["budget"]
        row["dimensions"] = mean_dimensions([one["dimensions"] for one in several])
        rows.append(row)
    return rows


def mean_dimensions(several: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Return the mean number of dimensions by table and block."""
    return {
        name: [round(statistics.mean(values), 2) for values in zip(*each, strict=True)]
        for name in several[0]
        if (each := [one[name] for one in several])
    }


def spread(row: Mapping[str, Any], name: str, form: str = ".4f") -> str:
    """Return a mean and its deviation."""
    if row[name] is None:
        return ""
    deviation = row[f"{name}_sd"]
    return f"{row[name]:{form}}" + (f" +- {deviation:.4f}" if deviation is not None else "")


def section(title: str, metric: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return a table, in the order of the rows."""
    lines = [
        "",
        f"## {title}",
        "",
        f"| | seeds | test {metric} | against full, by seed | validation {metric} | bytes "
        "| of the budget |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = f"{row['bytes'] / row['budget']:.1%}"
        lines.append(
            f"| {row['line']} | {row['seeds']} | {spread(row, 'test')} | "
            f"{spread(row, 'against_full', '+.4f')} | {spread(row, 'validation')} | "
            f"{row['bytes']:,.0f} | {'' if row['line'] == 'full' else share} |"
        )
    return lines


def markdown(rows: list[dict[str, Any]], missing: int) -> str:
    """Return the tables, the best line first."""
    lines = [
        "# Learned dimensions on MovieLens-1M: quality at the same serving bytes",
        "",
        f"`python benchmarks/search.py`. {machine()} Protocol: see the head of "
        "`benchmarks/search.py`. Mean, and sample standard deviation where there are several "
        "seeds.",
    ]
    if missing:
        lines += ["", f"{missing} of the searches have not been run yet; the command goes on."]
    for model in (*MODELS, *TASKS):
        metric = METRICS.get(model, "auc").upper()
        own = [row for row in rows if row["model"] == model]
        plain = [row for row in own if row["line"] == "full"]
        for share in SHARES:
            at = [row for row in own if row["share"] == share]
            sign = 1 if metric == "MSE" else -1
            best_first = sorted(at, key=lambda one: sign * one["test"])
            if at:
                title = f"{model}, {share:.0%} of the bytes ({at[0]['budget']:,})"
                lines += section(title, metric, [*plain, *best_first])
        unbudgeted = [row for row in own if row["share"] is None]
        if unbudgeted:
            title = f"{model}, at what the search finds"
            lines += section(title, metric, [*plain, *unbudgeted])
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], model: str, path: Path) -> None:
    """Draw test AUC against bytes, a line each."""
    drawing = pyplot()
    figure, axes = drawing.subplots(figsize=(9, 6), constrained_layout=True)
    axes.set_prop_cycle(color=drawing.get_cmap("tab20").colors)
    for line in sorted({row["line"] for row in rows if row["model"] == model}):
        own = [row for row in rows if (row["model"], row["line"]) == (model, line)]
        own.sort(key=lambda row: row["bytes"])
        axes.errorbar(
            [row["bytes"] for row in own],
            [row["test"] for row in own],
            yerr=[row["test_sd"] or 0.0 for row in own],
            marker="o",
            capsize=3,
            label=line,
        )
    axes.set_xscale("log")
    axes.set_xlabel("serving bytes of the tables")
    axes.set_ylabel(f"test {METRICS.get(model, 'auc').upper()}")
    axes.set_title(f"MovieLens-1M, {model}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    drawing.close(figure)


def main() -> None:
    """Search what is missing, then write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--threads", type=int, default=1, help="of each search")
    parser.add_argument("--workers", type=int, default=2, help="searches at a time")
    parser.add_argument("--models", nargs="+", choices=(*MODELS, *TASKS), default=[*MODELS, *TASKS])
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--methods", nargs="+", choices=OPTIONS, default=list(OPTIONS))
    parser.add_argument("--report", action="store_true", help="search nothing: report what is done")
    options = parser.parse_args()
    if not options.report:
        asked = runs(options.seeds, options.models, options.shares, options.methods)
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda several: search_all(several, options.threads), asked))
    every = [
        run
        for several in runs(max(SEEDS, options.seeds), (*MODELS, *TASKS), SHARES, list(OPTIONS))
        for run in several
    ]
    done = [run for run in every if run.done.is_file()]
    rows = summarize(done)
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "results.md").write_text(markdown(rows, len(every) - len(done)))
    (OUTPUT / "results.json").write_text(json.dumps(rows, indent=1))
    for model in {row["model"] for row in rows}:
        plot(rows, model, OUTPUT / f"{model}.png")
    for row in rows:
        if row["line"] == "dnis dense":
            plot_dimensions(
                row["dimensions"], OUTPUT / f"{row['model']}-{row['share']:g}-dimensions.png"
            )
    print(f"{OUTPUT / 'results.md'} is written")


if __name__ == "__main__":
    main()
