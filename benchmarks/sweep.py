"""Sweeps on MovieLens-1M: the front of 40 trials, random kills, and two workers against one.

Run from the root with ``RECEMB_DATA`` set; each part goes on where it was stopped:

    python benchmarks/sweep.py front    40 trials in 2 workers of one thread, against the kinds
    python benchmarks/sweep.py kills    kill -9 at random, ten times, until a study is complete
    python benchmarks/sweep.py speed    trials per hour of 2 workers against 1, one thread each

The protocol of ``front`` is that of ``benchmarks/kinds.py``: batches of 4,096, a seed of 1, and
epochs by validation AUC. At each of its budgets the trial of the front that is best by validation
within it is set against every line there; test is read once for each trial of the front. Results
go to ``benchmarks/sweep/``.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/dcn/movielens1m.yaml"
SPACE = ROOT / "configs/sweep/kinds.yaml"
OUTPUT = ROOT / "benchmarks/sweep"
RUNS = ROOT / "runs/sweep"
PLAIN_BYTES = 13_177 * 30 * 4
SHARES = (0.5, 0.1, 0.01)


def config(folder: Path, **trainer: Any) -> Path:
    """Write the configuration of the benchmark of kinds; return its path."""
    content = yaml.safe_load(CONFIG.read_text())
    content["data"]["init_args"]["batch_size"] = 4096
    content["model"]["init_args"]["rows_optimizer"]["learning_rate"] = 0.01
    content["trainer"] |= {"enable_progress_bar": False, **trainer}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def sweep(run: Path, path: Path, *options: str) -> "subprocess.Popen[str]":
    """Start a sweep, or go on with it."""
    command = [sys.executable, "-m", "recemb", "sweep", "--config", str(path)]
    command += ["--space", str(SPACE), "--run", str(run), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def ended(process: "subprocess.Popen[str]") -> None:
    """Wait for a sweep to end well."""
    errors = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{process.args} failed:\n{errors[-2000:]}")


def machine() -> str:
    """Return what figures depend on."""
    import torch

    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return (
        f"commit {commit}. {platform.machine()}, {os.cpu_count()} CPUs, Python "
        f"{platform.python_version()}, torch {torch.__version__}"
    )


def front() -> None:
    """Sweep, and set the front against every line of the benchmark of kinds."""
    run = RUNS / "front"
    options = ["--n-trials", "40", "--workers", "2", "--test", "front", "--goal", "loss<=0.002"]
    ended(sweep(run, config(RUNS / "configs/front"), *options))
    results = json.loads((run / "results.json").read_text())
    kinds = json.loads((ROOT / "benchmarks/kinds/results.json").read_text())
    trials = json.loads((run / "trials.json").read_text())["trials"]
    seconds = sum(one["attrs"].get("seconds", 0.0) for one in trials)
    lines = [
        "# 40 trials against every table kind, MovieLens-1M",
        "",
        f"`python benchmarks/sweep.py front`, {machine()}. Trials: {results['trials']}; "
        f"{seconds / 60:.0f} minutes of training in all, in 2 workers. Protocol: see the head of "
        "`benchmarks/sweep.py`.",
        "",
        "| budget | trial | bytes | validation AUC | test AUC | best line | its validation AUC | "
        "its test AUC | lines that are ahead on validation |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for share in SHARES:
        within = [one for one in results["front"] if one["values"]["bytes"] <= share * PLAIN_BYTES]
        rivals = [row for row in kinds if row.get("bytes") and row["bytes"] <= share * PLAIN_BYTES]
        rival = max(rivals, key=lambda row: row["val_auc"])
        if not within:
            lines.append(f"| {share:.0%} | none | | | | {rival['line']} | | | {len(rivals)} |")
            continue
        best = max(within, key=lambda one: one["values"]["val/auc"])
        own = best["values"]["val/auc"]
        ahead = sorted({row["line"] for row in rivals if row["val_auc"] > own})
        lines.append(
            f"| {share:.0%} | {best['trial']} | {best['values']['bytes']:,.0f} | {own:.4f} | "
            f"{best['test']['test/auc']:.4f} | {rival['line']} | {rival['val_auc']:.4f} | "
            f"{rival['test_auc']:.4f} | {', '.join(ahead) or 'none'} |"
        )
    lines += ["", "Goal, with its evidence:", "", "```json", json.dumps(results["goal"], indent=1)]
    OUTPUT.mkdir(exist_ok=True)
    (OUTPUT / "front.md").write_text("\n".join([*lines, "```"]) + "\n")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "recemb",
            "report",
            str(run),
            "--output",
            str(OUTPUT / "front.html"),
        ],
        cwd=ROOT,
        check=True,
    )
    print(f"{OUTPUT / 'front.md'} and front.html are written")


def kills(number: int, seconds: float, seed: int) -> None:
    """Kill the command or one of its workers at random; check the study."""
    run, draw = RUNS / "kills", random.Random(seed)
    shutil.rmtree(run, ignore_errors=True)
    path = config(RUNS / "configs/kills", max_epochs=2)
    total = 2 * number
    options = ["--n-trials", str(total), "--workers", "2", "--pruner", "none"]
    killed = 0
    while killed < number:
        process = sweep(run, path, *options)
        time.sleep(draw.uniform(5, seconds))
        assert process.poll() is None, "the study ended before the last kill; lower --seconds"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed += 1
        print(f"kill {killed}", flush=True)
    ended(sweep(run, path, *options))
    trials = json.loads((run / "trials.json").read_text())["trials"]
    counted = [one for one in trials if one["state"] != "refused"]
    states = sorted({one["state"] for one in counted})
    assert len(counted) == total, len(counted)
    assert len({one["number"] for one in trials}) == len(trials)
    assert "running" not in states
    print(f"{number} kills: {len(counted)} of {total} trials, states {states}; {machine()}")


def speed(rounds: int, trials: int) -> None:
    """Time studies of one and of two workers in turns; the sampler draws the same trials."""
    path = config(RUNS / "configs/speed", max_epochs=3, callbacks=[])
    ratios = []
    for number in range(rounds):
        rates = {}
        for workers in (1, 2):
            run = RUNS / f"speed-{number}-{workers}"
            saved = run / "seconds.json"
            if not saved.is_file():
                shutil.rmtree(run, ignore_errors=True)
                started = time.perf_counter()
                options = ["--n-trials", str(trials), "--workers", str(workers)]
                options += ["--sampler", "random", "--pruner", "none"]
                ended(sweep(run, path, *options))
                saved.write_text(json.dumps(time.perf_counter() - started))
            rates[workers] = trials / json.loads(saved.read_text()) * 3600
        ratios.append(rates[2] / rates[1])
        print(f"{rates[1]:.0f} and {rates[2]:.0f} trials per hour: {ratios[-1]:.2f}", flush=True)
    print(f"median {statistics.median(ratios):.2f} of {rounds} rounds; {machine()}")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("front", "kills", "speed"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="before a kill, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12, help="of each timed study")
    options = parser.parse_args()
    if options.part == "front":
        front()
    elif options.part == "kills":
        kills(options.kills, options.seconds, options.seed)
    else:
        speed(options.rounds, options.trials)


if __name__ == "__main__":
    main()
