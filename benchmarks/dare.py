"""DARE against TWIN, TWIN with projections and DIN on MovieLens-1M, their analyses and the search.

Run ``python benchmarks/dare.py`` from the root with ``RECEMB_DATA`` set. Each training is a
``python -m recemb fit`` on a configuration of ``configs/dare/`` with a seed, so any of them can be
repeated by hand. What is finished is not run again: stop it and go on when you like. Results go to
``benchmarks/dare/``: ``results.md`` (tables), ``results.json`` (every figure) and the pictures of
the analyses.

Epochs are chosen by validation AUC, test is read once per training. Test has one positive and two
negatives of each of 1,496 users, so beside the spread over seeds stands that over users: a
bootstrap of paired differences.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import machine

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "dare"
sys.path.insert(0, str(ROOT))
WIDE = [
    "--model.init_args.tables.attention_item.dim=16",
    "--model.init_args.tables.attention_category.dim=16",
    "--model.init_args.network.attention_time_dim=16",
]
VARIANTS: dict[str, tuple[str, str, list[str]]] = {
    "dare": ("DARE, attention half as wide", "movielens1m_dare", []),
    "twin": ("TWIN", "movielens1m_twin", []),
    "twin_projected": ("TWIN with projections", "movielens1m_twin_projected", []),
    "din_long": ("DIN over the whole history", "movielens1m_din_long", []),
    "dare_wide": ("DARE, attention as wide as representation", "movielens1m_dare", WIDE),
}
"""Name in the tables, configuration and further options."""
LENGTHS, DIMS = (1_250, 2_500, 5_000, 10_000, 20_000), (8, 16, 32, 64, 128)
TARGETS, KEEP = 512, 20
BOOTSTRAPS = 2_000


@dataclass(frozen=True)
class Run:
    """One training."""

    variant: str
    seed: int
    root: Path

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.root / f"{self.variant}-{self.seed}"

    @property
    def checkpoint(self) -> Path:
        """The best epoch's."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return (self.folder / "results.json").is_file()

    @property
    def command(self) -> list[str]:
        """What trains it."""
        _, config, options = VARIANTS[self.variant]
        return [
            *("-m", "recemb", "fit", "--config", f"configs/dare/{config}.yaml"),
            *("--seed_everything", str(self.seed), "--run", str(self.folder), "--resume"),
            *("--trainer.enable_progress_bar", "false", *options),
        ]


def call(command: list[str], threads: int) -> None:
    """Run Python from the root; show what it said if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *command]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")


def runs(root: Path, seeds: int, variants: list[str]) -> Iterator[Run]:
    """Yield the trainings, a seed after the other."""
    for seed in range(1, seeds + 1):
        for variant in variants:
            yield Run(variant, seed, root)


def predict(run: Run, cache: dict[str, Any]) -> tuple[Any, Any]:
    """Return the test rows' logits and labels, a positive and its negatives after the other."""
    import torch

    from recemb.checkpoint import checkpoint_config, read_checkpoint
    from recemb.rebuild import rebuild_data, rebuild_model

    checkpoint = read_checkpoint(run.checkpoint)
    model = rebuild_model(run.checkpoint, checkpoint)
    if "batches" not in cache:
        settings = checkpoint_config(checkpoint)["data"]
        data = rebuild_data(run.checkpoint, checkpoint, settings)
        cache["batches"] = list(data.test_dataloader())
    with torch.no_grad():
        logits = [model(batch.ids, batch.dense_BK) for batch in cache["batches"]]
    return torch.cat(logits), torch.cat([batch.label_B for batch in cache["batches"]])


def auc(logit_N: Any, label_N: Any) -> float:
    """Return the area under the curve; ties count half."""
    import numpy as np

    _, place_N, count_U = np.unique(logit_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(count_U) - (count_U - 1) / 2)[place_N]
    positives = label_N.sum()
    negatives = len(label_N) - positives
    above = rank_N[label_N == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def compare(done: list[Run]) -> dict[str, Any]:
    """Return, by variant, the interval of its mean AUC's distance to DARE's over users.

    Users are drawn with replacement, each with all his rows; each draw compares both variants'
    means over the seeds that both have.
    """
    import numpy as np

    cache: dict[str, Any] = {}
    logits: dict[tuple[str, int], Any] = {}
    for run in done:
        logit_N, label_N = predict(run, cache)
        logits[run.variant, run.seed] = logit_N.numpy()
        labels = label_N.numpy()
    each = int(len(labels) / labels.sum())
    generator = np.random.default_rng(0)
    users = len(labels) // each
    draws = [
        (generator.integers(users, size=users)[:, None] * each + np.arange(each)).ravel()
        for _ in range(BOOTSTRAPS)
    ]
    found = {}
    for variant in VARIANTS:
        seeds = [run.seed for run in done if run.variant == variant]
        seeds = [seed for seed in seeds if ("dare", seed) in logits]
        if variant == "dare" or not seeds:
            continue
        apart = []
        for draw in draws:
            own = [
                auc(logits["dare", seed][draw], labels[draw])
                - auc(logits[variant, seed][draw], labels[draw])
                for seed in seeds
            ]
            apart.append(statistics.mean(own))
        low, high = np.percentile(apart, [2.5, 97.5])
        found[variant] = {"seeds": seeds, "low": float(low), "high": float(high)}
    return found


def analyses(done: list[Run], root: Path) -> dict[str, Any]:
    """Return the figures of the analyses, means over seeds; the first seed's pictures are kept."""
    reports = []
    for seed in sorted({run.seed for run in done}):
        own = [run for run in done if run.seed == seed]
        folder = root / f"analysis-{seed}"
        names = [VARIANTS[run.variant][0] for run in own]
        path = folder / "report.json"
        if not path.is_file() or list(json.loads(path.read_text())["models"]) != names:
            print(folder.name, flush=True)
            pairs = [f"{name}={run.checkpoint}" for name, run in zip(names, own, strict=True)]
            call(["-m", "recemb.models.attention_report", *pairs, "--output", str(folder)], 1)
        reports.append(json.loads(path.read_text()))
        if len(reports) == 1:
            for name in ("attention.png", "discriminability.png"):
                (OUTPUT / name).write_bytes((folder / name).read_bytes())
    merged: dict[str, Any] = {
        "clusters": reports[0]["clusters"],
        "orders": reports[0]["orders"],
        "models": {},
    }
    for variant, (name, _, _) in VARIANTS.items():
        several = [one["models"][name] for one in reports if name in one["models"]]
        if several:
            row: dict[str, Any] = {"seeds": len(several)}
            for figure in ("ndcg", "rank_correlation"):
                row[figure] = mean_and_deviation([one[figure] for one in several])
            by_clusters = zip(*(one["discriminability"] for one in several), strict=True)
            row["discriminability"] = [statistics.mean(one) for one in by_clusters]
            if several[0]["conflict"]:
                row["conflict"] = {
                    key: mean_and_deviation([one["conflict"][key] for one in several])
                    for key in several[0]["conflict"]
                }
            merged["models"][variant] = row
    return merged


def mean_and_deviation(values: list[float]) -> list[float | None]:
    """Return the mean, and the sample standard deviation where there are several."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return [statistics.mean(values), deviation]


def measure(call_it: Callable[[], Any], other: Callable[[], Any], rounds: int) -> list[float]:
    """Return the least milliseconds of both, turn by turn.

    Of one thread's own processor time: what else the machine does at the moment is not in it, but
    for what it does to caches and clock, which the least of the rounds shows least.
    """
    times: list[list[float]] = [[], []]
    for number in range(rounds + 2):
        for own, function in zip(times, (call_it, other), strict=True):
            started = time.thread_time()
            function()
            if number >= 2:
                own.append(1000 * (time.thread_time() - started))
    return [min(own) for own in times]


def speeds(rounds: int) -> list[dict[str, Any]]:
    """Return the time of the search and of a plain product and choice, on one thread."""
    import torch

    from recemb.models.history_search import search_history

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    found = []

    def plain(query_Cd: Any, key_Ld: Any, bias_L: Any) -> Any:
        return torch.addmm(bias_L, query_Cd, key_Ld.t()).topk(KEEP, 1).indices

    cases = [(length, 32) for length in LENGTHS] + [(10_000, dim) for dim in DIMS if dim != 32]
    for length, dim in cases:
        query_Cd = torch.randn(TARGETS, dim, generator=generator) * dim**-0.5
        key_Ld = torch.randn(length, dim, generator=generator)
        for trend in ("none", "newest first"):
            bias_L = torch.linspace(0, 8, length) if trend != "none" else torch.zeros(length)
            own = (query_Cd, key_Ld, bias_L)
            logit_CL = torch.addmm(bias_L, query_Cd, key_Ld.t())
            apart = logit_CL.gather(1, search_history(*own, KEEP)) - logit_CL.topk(KEEP, 1).values
            assert float(apart.abs().max()) < 1e-4, "the search is exact"
            fast, slow = measure(
                lambda own=own: search_history(*own, KEEP), lambda own=own: plain(*own), rounds
            )
            row = {"length": length, "dim": dim, "trend": trend, "search": fast, "plain": slow}
            print(row, flush=True)
            found.append(row)
    return found


def served(run: Run, root: Path, rounds: int) -> dict[str, Any]:
    """Return how large and fast the exported search of a trained model is."""
    import torch

    torch.set_num_threads(1)
    from recemb.models.two_stages import Request
    from recemb.rebuild import rebuild
    from recemb.serving.archive import load_program

    folder = root / f"export-{run.variant}-{run.seed}"
    if not (folder / "results.json").is_file():
        output = ["--output", str(folder / "model.pt"), "--run", str(folder)]
        call(["-m", "recemb", "export", str(run.checkpoint), "--stages", *output], 1)
    stages = json.loads((folder / "results.json").read_text())["stages"]
    model: Any = rebuild(run.checkpoint)[0]
    program = load_program(folder / "model.search.pt")
    times = {}
    for length in (5_000, 10_000, 20_000):
        inputs = Request.drawn(model, TARGETS, length).search_inputs()
        times[length] = measure(lambda inputs=inputs: program(inputs), lambda: None, rounds)[0]
    return {"recall": stages["recall"], "difference": stages["difference"],
            "search_bytes": stages["search"]["bytes"], "rank_bytes": stages["rank"]["bytes"],
            "milliseconds": times}  # fmt: skip


def summarize(done: list[Run]) -> dict[str, dict[str, Any]]:
    """Return, by variant, means and deviations over seeds."""
    rows = {}
    for variant in VARIANTS:
        several = [json.loads((run.folder / "results.json").read_text()) for run in done
                   if run.variant == variant]  # fmt: skip
        if several:
            rows[variant] = {
                "seeds": len(several),
                "test_auc": mean_and_deviation([one["metrics"]["test/auc"] for one in several]),
                "val_auc": mean_and_deviation([one["metrics"]["val/auc"] for one in several]),
                "logloss": mean_and_deviation([one["metrics"]["test/logloss"] for one in several]),
                "bytes": several[0]["bytes"]["serving"],
                "samples_per_s": statistics.median(one["samples_per_s"] for one in several),
                "runs": [one["metrics"] | {"seed": one["seed"]} for one in several],
            }
    return rows


def shown(pair: list[float | None], digits: int = 4) -> str:
    """Return a mean and its deviation."""
    mean, deviation = pair
    text = f"{mean:.{digits}f}"
    return text if deviation is None else f"{text} +- {deviation:.{digits}f}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table's lines."""
    lines = ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def markdown(found: dict[str, Any], missing: list[str]) -> str:
    """Return every table."""
    names = {variant: name for variant, (name, _, _) in VARIANTS.items()}
    lines = [
        "# DARE on MovieLens-1M",
        "",
        f"`python benchmarks/dare.py`. {machine()} Protocol: see the head of "
        "`benchmarks/dare.py`. Mean and sample standard deviation over seeds.",
    ]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}; the command goes on."]
    lines += ["", "## AUC"]
    rows = []
    for variant, row in found["trainings"].items():
        apart = found["apart"].get(variant)
        interval = f"{apart['low']:+.4f} .. {apart['high']:+.4f}" if apart else ""
        rows.append([
            names[variant], str(row["seeds"]), shown(row["test_auc"]), interval,
            shown(row["val_auc"]), shown(row["logloss"]), f"{row['samples_per_s']:,.0f}",
        ])  # fmt: skip
    head = ["", "seeds", "test AUC", "DARE minus this, 95 % over users", "validation AUC",
            "test log loss", "training samples/s"]  # fmt: skip
    lines += table(head, rows)
    lines += [
        "",
        "An interval that holds 0 says that these test users do not tell the two apart, however "
        "small the spread over seeds. Samples per second are of a shared machine.",
    ]
    lines += ["", "## What is attended to", "", "By `python -m "
              "recemb.models.attention_report`: the order of the search, and the attention learned "
              "per category and time, against the mutual information of category at a time and "
              "label."]  # fmt: skip
    own = found["analyses"]
    rows = [
        [names[variant], str(row["seeds"]), shown(row["ndcg"]), shown(row["rank_correlation"], 3)]
        for variant, row in own["models"].items()
    ]
    rows += [[order, "", f"{value:.4f}", ""] for order, value in own["orders"].items()]
    lines += table(["", "seeds", "NDCG of the first 20", "rank correlation"], rows)
    lines += ["", "![Attention of one category of targets](attention.png)", "",
              "The two gradients of one table, rows that both meet in a batch:"]  # fmt: skip
    rows = [
        [names[variant], shown(row["conflict"]["conflicting"], 3),
         shown(row["conflict"]["cosine"], 3), shown(row["conflict"]["norm_ratio"], 1)]
        for variant, row in own["models"].items() if "conflict" in row
    ]  # fmt: skip
    head = ["", "share that point apart", "mean cosine", "median norm, representation / attention"]
    lines += table(head, rows)
    lines += ["", "What the cluster of target * history tells of the label, in thousandths of a "
              "nat, by number of clusters:"]  # fmt: skip
    rows = [
        [names[variant], *(f"{1000 * one:.1f}" for one in row["discriminability"])]
        for variant, row in own["models"].items()
    ]
    lines += table(["", *map(str, own["clusters"])], rows)
    lines += ["", "![Discriminability](discriminability.png)", "", "## Search", "",
              f"{TARGETS} targets, the first {KEEP}, one thread, least milliseconds "
              "of its processor time; plain is one product and `topk` over all logits, measured "
              "turn by turn with the search. `newest first`: logits rise towards the newest "
              "behaviours, as learned ones do; the worst order for `topk`."]  # fmt: skip
    rows = [
        [f"{row['length']:,}", str(row["dim"]), row["trend"], f"{row['search']:.1f}",
         f"{row['plain']:.1f}", f"{row['search'] / row['plain']:.2f}"]
        for row in found["speeds"]
    ]  # fmt: skip
    lines += table(["behaviours", "d", "trend", "search", "plain", "ratio"], rows)
    by_dim = {row["dim"]: row["search"] for row in found["speeds"]
              if row["length"] == 10_000 and row["trend"] == "newest first"}  # fmt: skip
    lines += ["", "Half as many attention dimensions, 10,000 behaviours (newest first):"]
    rows = [
        [f"{dim} -> {dim // 2}", f"{by_dim[dim]:.1f} -> {by_dim[dim // 2]:.1f}",
         f"{1 - by_dim[dim // 2] / by_dim[dim]:.0%}"]
        for dim in sorted(by_dim, reverse=True) if dim // 2 in by_dim
    ]  # fmt: skip
    lines += table(["d", "milliseconds", "saved"], rows)
    lines += ["", "The exported search of trained models, raw ids to positions:"]
    rows = [
        [names[variant], f"{one['search_bytes']:,}", f"{one['rank_bytes']:,}",
         *(f"{value:.1f}" for value in one["milliseconds"].values()), f"{one['recall']:.3f}"]
        for variant, one in found["served"].items()
    ]  # fmt: skip
    lines += table(["", "bytes of the search", "of the ranking", "ms at 5,000", "at 10,000",
                    "at 20,000", "found among the model's own best"], rows)  # fmt: skip
    return "\n".join(lines) + "\n"


def write(found: dict[str, Any], missing: list[str]) -> None:
    """Write every figure and the tables."""
    (OUTPUT / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (OUTPUT / "results.md").write_text(markdown(found, missing))


def main() -> None:
    """Train what is missing, then analyse, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "dare", help="their folders")
    parser.add_argument("--rounds", type=int, default=25, help="of each time that is measured")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is done")
    options = parser.parse_args()
    if not options.report:
        for run in runs(options.runs, options.seeds, options.variants):
            if not run.is_done:
                print(run.folder.name, flush=True)
                call(run.command, options.threads)
    every = list(runs(options.runs, options.seeds, list(VARIANTS)))
    done = [run for run in every if run.is_done]
    missing = [run.folder.name for run in every if not run.is_done]
    OUTPUT.mkdir(exist_ok=True)
    exported = [Run(variant, 1, options.runs) for variant in ("dare", "dare_wide", "twin")]
    found: dict[str, Any] = {"trainings": summarize(done), "apart": {}, "speeds": [], "served": {}}
    found["analyses"] = analyses(done, options.runs)
    write(found, missing)
    # What takes longer is written as it comes.
    found["speeds"] = speeds(options.rounds)
    write(found, missing)
    found["apart"] = compare(done)
    write(found, missing)
    for run in exported:
        if run.is_done:
            found["served"][run.variant] = served(run, options.runs, options.rounds)
            write(found, missing)
    print(f"{OUTPUT / 'results.md'} is written")


if __name__ == "__main__":
    main()
