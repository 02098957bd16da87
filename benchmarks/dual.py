"""Dual embeddings on Amazon Grocery: complements, substitutes, popularity, and synthetic pairs.

Run ``python benchmarks/dual.py`` from the root with ``RECEMB_DATA`` set. In this order:

1. Popularity, which needs no training, on validation and on the test.
2. Settings: a training with seed 1 for each of those below, beside the configuration as it is.
   Taken is, of those where IN.OUT is ahead for complements and IN.IN for substitutes, the best by
   the mean of the two (recall@10); all of it on validation. ``--as_is`` leaves this out and takes
   the configuration.
3. Per seed, one training with them, and one without synthetic pairs; each is tested once, the
   first also with substitutes that are not also bought (``exclusive``).

Every training is a ``python -m recemb fit`` that can be repeated by hand, with ``--resume``: stop
and go on when you like; what is finished is not run again. The trainings of step 2 end with a
reading of the test file, as every fit does; no choice looks at it, and it is in no table. Results
go to ``benchmarks/dual/``: ``results.md`` and ``results.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from machine import machine

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "dual"
sys.path.insert(0, str(ROOT))
CONFIG = "configs/dual/grocery.yaml"
GRAM, RATE = "--model.init_args.skip_gram", "--model.init_args.rows_optimizer.learning_rate"
SETTINGS: dict[str, list[str]] = {
    "as it is": [],
    **{
        f"exponent {exponent}, {count} negatives": [
            *(f"{GRAM}.exponent", exponent),
            *(f"{GRAM}.num_negatives", count),
        ]
        for exponent, count in (
            *(("-1", "30"), ("-1", "10"), ("-0.5", "30"), ("-0.5", "10")),
            *(("0", "10"), ("0.75", "10"), ("0.75", "30")),
        )
    },
    "without l2": [f"{GRAM}.l2", "0"],
    "subsample 0.0001": [f"{GRAM}.subsample", "0.0001"],
    "learning rate 0.003": [RATE, "0.003"],
    "relations and baskets": ["--data.init_args.sources", "both"],
}
"""What is tried: options of fit by name."""
SHOWN = {
    "complements, IN.OUT": "recall@10",
    "complements, IN.IN": "complements_in_in/recall@10",
    "substitutes, IN.IN": "substitutes_in_in/recall@10",
    "substitutes, IN.OUT": "substitutes_in_out/recall@10",
    "complements of covered items": "covered/recall@10",
    "complements of uncovered items": "uncovered/recall@10",
    "coverage": "coverage",
}


def fit(folder: Path, options: list[str]) -> dict:
    """Train, or go on, unless it is done; return the results."""
    return recemb("fit", folder, ["--resume", *options])


def recemb(verb: str, folder: Path, options: list[str]) -> dict:
    """Run a verb unless it is done; return the results."""
    results = folder / "results.json"
    if not results.is_file():
        print(folder.name, flush=True)
        command = [sys.executable, "-m", "recemb", verb, "--config", CONFIG, "--run", str(folder)]
        command += ["--trainer.enable_progress_bar", "false", *options]
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return json.loads(results.read_text())


def popularity() -> dict[str, dict[str, float]]:
    """Return recall@10 of the items with the most training pairs, by stage."""
    from recemb.data.grocery import Grocery
    from recemb.features import FeatureConfig
    from recemb.models.dual import Dual
    from recemb.tables.full import Full

    data = Grocery(synthetic=False)
    features = {"item": FeatureConfig(table="in"), "context": FeatureConfig(table="out")}
    model = Dual(data.schema, {name: Full(dim=1) for name in ("in", "out")}, features).eval()
    pairs_V = (model.seen_offsets_U1.diff() - 1).float().unsqueeze(1)
    ones_V = torch.ones(model.num_queries, 1)
    found = {}
    for stage in ("validation", "test"):
        parts = [(*model.pairs_of(batch), batch.label_B > 0) for batch in data.loader(stage)]
        item_P, context_P, is_complement_P = map(torch.cat, zip(*parts, strict=True))
        found[stage] = {
            name: model.measure(
                ones_V, pairs_V[: model.num_items], item_P[own_P], context_P[own_P]
            )["recall@10"]
            for name, own_P in (
                ("complements", is_complement_P),
                ("substitutes", ~is_complement_P),
            )
        }
    return found


def bars(results: dict) -> list[str]:
    """Return what was asked for, beside what was measured: means over seeds."""
    mean = {
        which: {
            name: statistics.mean(run["metrics"].get(f"test/{key}", 0.0) for run in runs)
            for name, key in SHOWN.items()
        }
        for which, runs in results["runs"].items()
    }
    own, plain, floor = mean["synthetic"], mean["plain"], results["popularity"]["test"]
    out, like = own["complements, IN.OUT"], own["substitutes, IN.IN"]
    change = own["complements of covered items"] / plain["complements of covered items"] - 1
    rows = [
        (
            "complements: IN.OUT above IN.IN",
            f"{out:.4f} against {own['complements, IN.IN']:.4f}",
            out > own["complements, IN.IN"],
        ),
        (
            "substitutes: IN.IN above IN.OUT",
            f"{like:.4f} against {own['substitutes, IN.OUT']:.4f}",
            like > own["substitutes, IN.OUT"],
        ),
        (
            "complements: 3 x popularity",
            f"{out / floor['complements']:.1f} x",
            out >= 3 * floor["complements"],
        ),
        (
            "substitutes: 3 x popularity",
            f"{like / floor['substitutes']:.1f} x",
            like >= 3 * floor["substitutes"],
        ),
        (
            "synthetic pairs: coverage of 95 %",
            f"{100 * plain['coverage']:.1f} % to {100 * own['coverage']:.1f} %",
            own["coverage"] >= 0.95,
        ),
        (
            "synthetic pairs: recall on covered items within 2 %",
            f"{100 * change:+.1f} %",
            change >= -0.02,
        ),
    ]
    return [
        f"| {name} | {value} | {'met' if is_met else 'short'} |" for name, value, is_met in rows
    ]


def write(results: dict) -> None:
    """Write both files."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "results.json").write_text(json.dumps(results, indent=1))
    seeds = [run["seed"] for run in results.get("runs", {}).get("synthetic", [])]
    lines = [
        "# Amazon Grocery, all items ranked",
        "",
        f"`{results['command']}`. {results['machine']} One thread; seeds {seeds}. "
        "Recall@10 over items with an answer; pairs that training has as complements are not "
        "ranked. Settings and epochs chosen by validation; the test was read once per training.",
        "",
    ]
    if "runs" in results:
        lines += ["| asked for | measured (test, means) | |", "|---|---|---|", *bars(results), ""]
        lines += ["| test | with synthetic pairs | without | popularity |", "|---|---|---|---|"]
        for name, key in SHOWN.items():
            cells = []
            for which in ("synthetic", "plain"):
                values = [run["metrics"].get(f"test/{key}") for run in results["runs"][which]]
                cells.append(", ".join("-" if one is None else f"{one:.4f}" for one in values))
            kind = name.partition(",")[0]
            floor = results["popularity"]["test"].get(kind)
            lines.append(f"| {name} | {' | '.join(cells)} | {f'{floor:.4f}' if floor else ''} |")
        for pairing in ("in_in", "in_out"):
            key = f"test/substitutes_{pairing}/recall@10"
            values = [f"{run['exclusive'][key]:.4f}" for run in results["runs"]["synthetic"]]
            product = pairing.upper().replace("_", ".")
            lines.append(
                f"| substitutes that are not complements, {product} | {', '.join(values)} | | |"
            )
        seconds = [run["seconds"] for run in results["runs"]["synthetic"]]
        lines += ["", f"Settings: {results['chosen']}; seconds of a training: {seconds}.", ""]
    if results.get("tried"):
        lines += [
            "| tried, seed 1, validation | mean of both | complements, IN.OUT | IN.IN | "
            "substitutes, IN.IN | IN.OUT |",
            "|---|---|---|---|---|---|",
        ]
        for name, found in results["tried"].items():
            values = [found[key] for key in ("both/recall@10", *list(SHOWN.values())[:4])]
            lines.append(f"| {name} | " + " | ".join(f"{one:.4f}" for one in values) + " |")
    (OUTPUT / "results.md").write_text("\n".join(lines).rstrip() + "\n")


def rank(found: dict[str, float]) -> tuple[bool, float]:
    """Return how good settings are: is each product ahead where it should be; the mean of both."""
    is_right = (
        found[SHOWN["complements, IN.OUT"]] > found[SHOWN["complements, IN.IN"]]
        and found[SHOWN["substitutes, IN.IN"]] > found[SHOWN["substitutes, IN.OUT"]]
    )
    return is_right, found["both/recall@10"]


def main() -> None:
    """Run what is missing and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--as_is", action="store_true", help="the configuration, nothing is tried")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "dual", help="their folders")
    options = parser.parse_args()
    results: dict = {
        "command": "python benchmarks/dual.py" + (" --as_is" if options.as_is else ""),
        "machine": machine(),
        "popularity": popularity(),
        "tried": {},
        "chosen": "as it is",
    }
    write(results)
    root = options.runs.resolve()
    for number, (name, given) in enumerate({} if options.as_is else SETTINGS.items()):
        metrics = fit(root / f"settings-{number}", given)["metrics"]
        own = {key.removeprefix("val/"): one for key, one in metrics.items() if "val/" in key}
        results["tried"][name] = own
        write(results)
    if results["tried"]:
        results["chosen"] = max(results["tried"], key=lambda name: rank(results["tried"][name]))
    runs: dict[str, list[dict]] = {"synthetic": [], "plain": []}
    for seed in range(1, options.seeds + 1):
        for which, added in (("synthetic", []), ("plain", ["--data.init_args.synthetic", "false"])):
            given = [*SETTINGS[results["chosen"]], *added, "--seed_everything", str(seed)]
            name = f"{which}-{results['chosen'].replace(' ', '_')}-{seed}"
            run = fit(root / name, given)
            kept = {one: run[one] for one in ("seed", "metrics", "seconds")}
            if which == "synthetic":
                best = ["--ckpt_path", str(root / name / "checkpoints" / "best.ckpt")]
                asked = [*given, "--data.init_args.exclusive", "true", *best]
                kept["exclusive"] = recemb("test", root / f"{name}-exclusive", asked)["metrics"]
            runs[which].append(kept)
        results["runs"] = runs
        write(results)


if __name__ == "__main__":
    main()
