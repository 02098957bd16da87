"""Quality against bytes: every table kind on MovieLens-1M at 50 %, 10 % and 1 % of the bytes.

Run ``python benchmarks/kinds.py`` from the root with ``RECEMB_DATA`` set. Each training is
``python -m recemb fit`` on a configuration that is written beside its results, so any of them can
be repeated by hand. What is finished is not run again: stop it and go on when you like. Results go
to ``benchmarks/kinds/``: ``results.md`` (table), ``results.json`` (every run) and ``pareto.png``.

The protocol is that of ``configs/dcn/movielens1m.yaml`` (DCN-V2, ratings 1-2 against 4-5, random
8:1:1, one split, 13,177 ids); epochs are chosen by validation AUC, and test is read once per run.
The plain table is 13,177 x 30 x 4 bytes. All six features read one table of the kind, so that the
kind itself spreads its bytes; where a kind has no such form, ``ARRANGEMENTS`` says what it got.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from machine import machine
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "dcn" / "movielens1m.yaml"
OUTPUT = ROOT / "benchmarks" / "kinds"
FEATURES = ("user", "movie", "zip", "gender", "age", "occupation")
NUM_IDS = 13_177
DIM = 30
PLAIN_BYTES = NUM_IDS * DIM * 4
SHARES = (0.5, 0.1, 0.01)
ROWS_LEARNING_RATE, BATCH_SIZE = 0.01, 4096
"""Chosen for the plain table on validation AUC: .8920 against .8916 with the configuration's own
0.001 and 1,024, in a third of the time."""
SMALLER_RATES = dict.fromkeys(("robe", "tensor_train", "unified"), 0.003)
"""Of kinds whose rows serve many ids, where validation AUC says so (.8834 against .8801, .8786
against .8768, .8233 against .8226 at 10 %)."""
TOP = (0.87, 0.8945)
"""Of the second panel, where most kinds are."""
SMALL = {"gender": 2, "age": 7, "occupation": 21}
LARGE = {"user": 6040, "movie": 3668, "zip": 3439}

Settings = dict[str, Any]


@dataclass(frozen=True)
class Arrangement:
    """Tables, and which table each feature reads with how many lookups."""

    tables: dict[str, Settings]
    reads: dict[str, tuple[str, int]]

    @property
    def features(self) -> dict[str, Settings]:
        """The features section of a configuration."""
        return {
            name: {"table": table, "lookups": lookups}
            for name, (table, lookups) in self.reads.items()
        }


def one_table(**settings: Any) -> Arrangement:
    """All features read one table."""
    return Arrangement({"ids": settings}, dict.fromkeys(FEATURES, ("ids", 1)))


def separate(share: float, **settings: Any) -> Arrangement:
    """A table for each large feature; the 30 ids of the small ones keep rows of their own.

    Hash tables of one row would make nothing of gender, so it is the large ones that pay.
    """
    left = share * PLAIN_BYTES - sum(SMALL.values()) * DIM * 4
    tables: dict[str, Settings] = {"small": {"kind": "full", "dim": DIM}}
    for name, count in LARGE.items():
        budget = int(left * count / sum(LARGE.values()))
        tables[name] = {"dim": DIM, "budget": budget, **settings}
    return Arrangement(tables, {name: ("small" if name in SMALL else name, 1) for name in FEATURES})


def unified(share: float, dim: int, lookups: Mapping[str, int]) -> Arrangement:
    """One table of narrow rows; features read it as often as ``lookups`` says (else once)."""
    rows = int(share * PLAIN_BYTES / 4 / dim)
    table = {"kind": "unified", "dim": dim, "num_rows": rows}
    return Arrangement({"ids": table}, {name: ("ids", lookups.get(name, 1)) for name in FEATURES})


def arrangements(share: float) -> dict[str, Arrangement]:
    """Return what each line of the picture trains at a share of the plain table's bytes.

    A kind that cannot be so small at dimension 30 is given what it needs: a smaller dimension,
    int8 rows, or blocks of several rows.
    """
    tiny = share < 0.033  # less than one fp32 element per id
    narrow = {"precision": "int8"} if tiny else {}
    kinds: dict[str, Settings] = {
        "full": narrow,
        "unified": {},
        "weighted_hash": {"num_weight_rows": 600} if tiny else {"num_weight_rows": 3000},
        "compositional": {"dim": 8} if tiny else {},
        "tensor_train": {},
        "deep_hash": {"num_hashes": 256} if tiny else {},
        "robe": {"chunk": 8},
        "codes": {"num_bits": 4} if tiny else {},
        "dpq": {},
        "mgqe": {"rest_keys": 8} if tiny else {},
        "adaptive": {"shared": 0.8},  # on validation: .8703; .8681 at .5, .8599 at .2
        "mixed_dim": {**narrow, "dim": 15} if tiny else {},
        # On validation: .8758; .8720 when it merges after one epoch.
        "deduplicated": {"after_epochs": 3, **({"rows_per_block": 4} if tiny else {})},
        "matryoshka": {**narrow, "widths": [1, 3, 8, 15, 30]},
        "pruned": {},
    }
    found = {"hashed": separate(share, kind="hashed")}
    for kind, settings in kinds.items():
        # Bytes are asked for outright: a share would be one of the dimension that is set.
        wanted = {"kind": kind, "dim": DIM, "budget": int(share * PLAIN_BYTES), **settings}
        found[kind] = one_table(**wanted)
    return found


def scalar_codes(dim: int, num_keys: int) -> Arrangement:
    """DPQ over narrow rows, every element a part: each dimension learns its own few values."""
    return one_table(kind="dpq", dim=dim, num_parts=dim, num_keys=num_keys)


def int8(share: float) -> Arrangement:
    """Plain rows as wide as int8 elements with one step per table allow."""
    return one_table(kind="full", dim=DIM, precision="int8", budget=int(share * PLAIN_BYTES))


COMBINED: dict[str, dict[float, Arrangement]] = {
    "int8 rows": {share: int8(share) for share in (0.25,)},
    "dpq, scalar": {
        0.25: scalar_codes(30, 16),
        0.1: scalar_codes(22, 16),
        0.03: scalar_codes(6, 16),
        0.01: scalar_codes(2, 16),
    },
    "unified, lookups": {
        0.5: unified(0.5, 10, {"user": 3, "movie": 3}),
        0.1: unified(0.1, 5, {"user": 2, "movie": 4}),
    },
}
"""Combinations of settings, chosen on the validation AUC of seed 1."""
AFTER_TRAINING = {"plain, then pq": "pq", "plain, then prune": "prune"}
"""Lines that compress the trained plain table by a method. What that leaves are tables of kinds
codes and pruned; as kinds of their own these start from random places."""


@dataclass(frozen=True, eq=False)
class Run:
    """One training: of an arrangement or, without one, of the compressed plain table."""

    line: str
    share: float
    seed: int
    arrangement: Arrangement | None

    @property
    def folder(self) -> Path:
        """Where its configuration and results go."""
        name = f"{self.line}-{self.share:g}-{self.seed}".replace(", ", "-").replace(" ", "-")
        return ROOT / "runs" / "kinds" / name

    @property
    def is_done(self) -> bool:
        """Whether it has been trained."""
        return (self.folder / "done.json").is_file()


def runs(seeds: int) -> Iterator[Run]:
    """Yield every training: ``seeds`` seeds of the plain table, at 10 % and of combinations."""
    for seed in range(1, seeds + 1):
        yield Run("plain", 1.0, seed, one_table(kind="full", dim=DIM))
    combined = [
        (line, share, arrangement)
        for line, points in COMBINED.items()
        for share, arrangement in points.items()
    ]
    for seed in range(1, seeds + 1):
        for line, share, arrangement in combined:
            yield Run(line, share, seed, arrangement)
    for share in (0.1, 0.01, 0.5):
        for line, arrangement in arrangements(share).items():
            yield Run(line, share, 1, arrangement)
    for seed in range(2, seeds + 1):
        for line, arrangement in arrangements(0.1).items():
            yield Run(line, 0.1, seed, arrangement)
    for line in AFTER_TRAINING:
        for share in SHARES:
            for seed in range(1, seeds + 1) if share == 0.1 else (1,):
                yield Run(line, share, seed, None)


def config_of(run: Run) -> dict[str, Any]:
    """Return the configuration of a training."""
    assert run.arrangement is not None
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["seed_everything"] = run.seed
    config["model"]["init_args"] |= {
        "tables": run.arrangement.tables,
        "features": run.arrangement.features,
    }
    config["model"]["init_args"]["rows_optimizer"]["learning_rate"] = SMALLER_RATES.get(
        run.line, ROWS_LEARNING_RATE
    )
    config["data"]["init_args"]["batch_size"] = BATCH_SIZE
    config["trainer"]["enable_progress_bar"] = False
    return config


def unused(folder: Path) -> Path:
    """Return a folder's name, or the first numbered one: an interrupted run leaves its own."""
    attempt = 0
    while (new := folder.with_name(f"{folder.name}-{attempt}") if attempt else folder).exists():
        attempt += 1
    return new


def recemb(options: list[str], threads: int) -> "subprocess.CompletedProcess[str]":
    """Run a verb to its end."""
    command = [sys.executable, "-m", "recemb", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def verbs(run: Run) -> list[list[str]]:
    """Return what to run for a result, one after the other."""
    if run.arrangement is not None:
        path = run.folder / "config.yaml"
        path.write_text(yaml.safe_dump(config_of(run), sort_keys=False))
        return [["fit", "--config", str(path)]]
    plain = Run("plain", 1.0, run.seed, None).folder
    trained = sorted(plain.glob("fit*/checkpoints/best.ckpt"))
    if not trained:
        raise RuntimeError(f"{plain} has no checkpoint; remove that folder, and it is trained anew")
    smaller = run.folder / "compressed.ckpt"
    for path in (smaller, smaller.with_suffix(".yaml")):  # of an interrupted run
        path.unlink(missing_ok=True)
    method = ["--method", AFTER_TRAINING[run.line], "--share", str(run.share)]
    config = ["--config", str(smaller.with_suffix(".yaml"))]
    return [
        ["compress", str(trained[-1]), *method, "--output", str(smaller)],
        ["test", *config, "--ckpt_path", str(smaller)],
    ]


def train(run: Run, threads: int) -> dict[str, Any]:
    """Train unless that is done; return what matters of the results, or why it was refused."""
    done = run.folder / "done.json"
    if run.is_done:
        return dict(json.loads(done.read_text()))
    run.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"seconds": 0.0}
    for verb in verbs(run):
        folder = unused(run.folder / verb[0])
        ended = recemb([*verb, "--run", str(folder)], threads)
        if ended.returncode == 2:  # a user's mistake: here, a budget that the kind cannot meet
            line = ended.stderr.strip().splitlines()[-1]
            found = {"refused": line.partition(": ")[2]}
            break
        if ended.returncode:
            raise RuntimeError(f"{' '.join(ended.args)} failed:\n{ended.stderr[-2000:]}")
        results = json.loads((folder / "results.json").read_text())
        for stage in ("val", "test"):
            if f"{stage}/auc" in results["metrics"]:
                found[f"{stage}_auc"] = results["metrics"][f"{stage}/auc"]
        if "tables" in results:
            found["bytes"] = sum(table["bytes"] for table in results["tables"].values())
        found["seconds"] += results["seconds"]
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps(found))
    temporary.replace(done)
    return found


def summarize(found: Mapping[Run, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per line and share: means and spreads over seeds."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for run, result in found.items():
        groups[run.line, run.share].append(result)
    rows = []
    for (line, share), results in groups.items():
        row: dict[str, Any] = {"line": line, "share": share, "seeds": len(results)}
        if "refused" in results[0]:
            rows.append({**row, "refused": results[0]["refused"]})
            continue
        for name in ("test_auc", "val_auc"):
            values = [result[name] for result in results]
            row[name] = statistics.mean(values)
            row[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        row["bytes"] = results[0]["bytes"]
        row["seconds"] = statistics.median(result["seconds"] for result in results)
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]], command: str, missing: list[str]) -> str:
    """Return the table, the best first within each share, and what is not trained yet."""
    plain = next(row for row in rows if row["line"] == "plain")
    lines = [
        "# Table kinds on MovieLens-1M: test AUC against serving bytes",
        "",
        f"`{command}`. {machine()} Protocol: see the head of `benchmarks/kinds.py`. Mean, and "
        "sample standard deviation where there are several seeds; bytes are those of the served "
        "tables.",
    ]
    if missing:
        lines += [
            "",
            f"Not trained yet ({len(missing)}; the command goes on): {', '.join(missing)}.",
        ]
    for share in sorted({row["share"] for row in rows}, reverse=True):
        lines += [
            "",
            f"## {share:.0%} of the plain table's {PLAIN_BYTES:,} bytes",
            "",
            "| kind | seeds | test AUC | loss against plain | validation AUC | bytes | share |",
            "|---|---|---|---|---|---|---|",
        ]
        at = [row for row in rows if row["share"] == share]
        for row in sorted(at, key=lambda one: -one.get("test_auc", 0)):
            if "refused" in row:
                lines.append(f"| {row['line']} | | {row['refused']} | | | | |")
                continue
            lines.append(
                f"| {row['line']} | {row['seeds']} | {_spread(row, 'test_auc')} | "
                f"{plain['test_auc'] - row['test_auc']:+.4f} | {_spread(row, 'val_auc')} | "
                f"{row['bytes']:,} | {row['bytes'] / PLAIN_BYTES:.2%} |"
            )
    return "\n".join(lines) + "\n"


def _spread(row: Mapping[str, Any], name: str) -> str:
    deviation = row[f"{name}_sd"]
    return f"{row[name]:.4f}" + (f" +- {deviation:.4f}" if deviation is not None else "")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw test AUC against serving bytes: one line a kind, error bars where there are seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (whole, top) = pyplot.subplots(1, 2, figsize=(17, 8), constrained_layout=True)
    for axes in (whole, top):
        draw(rows, axes, pyplot.get_cmap("tab20").colors)
    top.set_ylim(TOP)
    top.set_title("The same, from AUC 0.87 on")
    whole.set_title("MovieLens-1M, DCN-V2: quality against bytes by table kind")
    whole.legend(ncols=2, fontsize=9, loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw(rows: list[dict[str, Any]], axes: Any, colors: Any) -> None:
    """Draw all lines into one panel."""
    plain = next(row for row in rows if row["line"] == "plain")
    names = sorted({row["line"] for row in rows} - {"plain"})
    # Neither number divides the other, so no two lines have colour and marker in common.
    markers = "osD^v<>PX"
    for number, name in enumerate(names):
        own = [row for row in rows if row["line"] == name and "refused" not in row]
        own.sort(key=lambda row: row["bytes"])
        combined = name in COMBINED
        axes.errorbar(
            [row["bytes"] / PLAIN_BYTES for row in own],
            [row["test_auc"] for row in own],
            yerr=[row["test_auc_sd"] or 0.0 for row in own],
            label=name,
            color="black" if combined else colors[number % len(colors)],
            linestyle="--" if combined else "-",
            linewidth=2 if combined else 1.3,
            marker=markers[number % len(markers)],
            markersize=6,
            capsize=3,
        )
    axes.axhline(plain["test_auc"], color="gray", linestyle=":", linewidth=1)
    axes.annotate("plain table", (1.0, plain["test_auc"]), va="bottom", ha="right", color="gray")
    axes.set_xscale("log")
    axes.set_xticks(
        [0.01, 0.03, 0.1, 0.25, 0.5, 1.0], ["1 %", "3 %", "10 %", "25 %", "50 %", "100 %"]
    )
    axes.minorticks_off()
    axes.set_xlabel(f"serving bytes of the tables (100 % = {PLAIN_BYTES / 1e6:.2f} MB)")
    axes.set_ylabel("test AUC")
    axes.grid(alpha=0.3)


def main() -> None:
    """Train what is missing, then write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="at 10 %%, of plain and combinations")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1)))
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--only", nargs="*", help="lines to train (default: all)")
    parser.add_argument("--report", action="store_true", help="train nothing: report what is done")
    options = parser.parse_args()
    wanted = [run for run in runs(options.seeds) if not options.only or run.line in options.only]
    missing = [run for run in wanted if not run.is_done]
    if options.report:
        wanted = [run for run in wanted if run.is_done]
    found: dict[Run, dict[str, Any]] = {}
    with (
        ThreadPoolExecutor(options.workers) as pool,
        tqdm(desc="trainings", total=len(wanted)) as bar,
    ):
        # The plain tables first: others start from them.
        for is_first in (True, False):
            waiting = {
                pool.submit(train, run, options.threads): run
                for run in wanted
                if (run.line == "plain") == is_first
            }
            for future in as_completed(waiting):
                run = waiting[future]
                found[run] = future.result()
                bar.update()
                result = found[run].get("test_auc", "refused")
                bar.set_postfix_str(f"{run.line} {run.share:g}: {result}")
    rows = summarize({run: found[run] for run in wanted})
    names = [run.folder.name for run in missing] if options.report else []
    OUTPUT.mkdir(exist_ok=True)
    command = "python benchmarks/kinds.py" + (
        f" --seeds {options.seeds}" if options.seeds != 3 else ""
    )
    if options.only:
        print(
            markdown(rows, command, names) if any(row["line"] == "plain" for row in rows) else rows
        )
        return
    (OUTPUT / "results.md").write_text(markdown(rows, command, names))
    (OUTPUT / "results.json").write_text(json.dumps(rows, indent=1))
    plot(rows, OUTPUT / "pareto.png")
    print(f"{OUTPUT / 'results.md'} and {OUTPUT / 'pareto.png'} are written")


if __name__ == "__main__":
    main()
