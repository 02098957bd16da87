"""Sweeps on MovieLens-1M: the front of 40 trials, random kills, and two workers against one.

Run from the root with ``RECEMB_DATA`` set; each part goes on where it was stopped:

    python benchmarks/sweep.py front    40 trials in 2 workers of one thread, against the kinds
    python benchmarks/sweep.py kills    kill -9 at random, ten times, until a study is complete
    python benchmarks/sweep.py speed    trials per hour of 2 workers against 1, one thread each

The protocol of ``front`` is that of ``benchmarks/kinds.py``: batches of 4,096, a seed of 1, and
epochs by validation AUC. At each of its budgets the trial of the front that is best by validation
within it is set against every line there; test is read once for each trial of the front. Results
go to ``benchmarks/sweep/``. ``--trials``, ``--epochs``, ``--kills`` and ``--rounds`` make a part
small, and ``--output`` keeps its results and runs apart.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from machine import machine

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/dcn/movielens1m.yaml"
SPACE = ROOT / "configs/sweep/kinds.yaml"
OUTPUT = ROOT / "benchmarks/sweep"
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


def described(what: str) -> str:
    """Return what was run, and where."""
    return f"`{' '.join(['python', 'benchmarks/sweep.py', *sys.argv[1:]])}`: {what}. {machine()}"


def ended(process: "subprocess.Popen[str]") -> None:
    """Wait for a sweep to end well."""
    errors = process.communicate()[1]
    if process.returncode:
        raise RuntimeError(f"{process.args} failed:\n{errors[-2000:]}")


def front(runs: Path, output: Path, total: int, epochs: dict[str, int]) -> None:
    """Sweep, and set the front against every line of the benchmark of kinds."""
    run = runs / "front"
    options = ["--n-trials", str(total), "--workers", "2", "--test", "front"]
    # Trials end within .001 of one another, which is less than they differ by after few epochs.
    options += ["--pruner", "none"]
    ended(sweep(run, config(runs / "configs/front", **epochs), *options, "--goal", "loss<=0.002"))
    results = json.loads((run / "results.json").read_text())
    kinds = json.loads((ROOT / "benchmarks/kinds/results.json").read_text())
    trials = json.loads((run / "trials.json").read_text())["trials"]
    seconds = sum(one["attrs"].get("seconds", 0.0) for one in trials)
    lines = [
        f"# {total} trials against every table kind, MovieLens-1M",
        "",
        described(f"trials {results['trials']}, {seconds / 60:.0f} minutes of training in all")
        + " Protocol: see the head of `benchmarks/sweep.py`.",
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
    (output / "front.md").write_text("\n".join([*lines, "```"]) + "\n")
    command = [sys.executable, "-m", "recemb", "report", str(run)]
    subprocess.run([*command, "--output", str(output / "front.html")], cwd=ROOT, check=True)
    print(f"{output / 'front.md'} and front.html are written")


def kills(runs: Path, output: Path, number: int, seconds: float, seed: int) -> None:
    """Kill the command at random, and start it again; check the study."""
    run, draw = runs / "kills", random.Random(seed)
    shutil.rmtree(run, ignore_errors=True)
    path = config(runs / "configs/kills", max_epochs=2)
    total = 2 * number
    options = ["--n-trials", str(total), "--workers", "2", "--pruner", "none"]
    lines = []
    for kill in range(number):
        process = sweep(run, path, *options)
        # What comes before that has begun nothing.
        opened(process)
        waited = draw.uniform(0, seconds)
        time.sleep(waited)
        assert process.poll() is None, "the study ended before the last kill; lower --seconds"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        told = counted(run)
        lines.append(f"| {kill + 1} | {waited:.0f} | {told['begun']} | {told['running']} |")
        print(lines[-1], flush=True)
    ended(sweep(run, path, *options))
    trials = json.loads((run / "trials.json").read_text())["trials"]
    kept = [one for one in trials if one["state"] != "refused"]
    states = Counter(one["state"] for one in kept)
    assert len(kept) == total, len(kept)
    assert [one["number"] for one in trials] == list(range(len(trials)))
    assert not states["running"]
    head = [
        "# Kill -9 at random",
        "",
        described(f"{number} kills, then {len(kept)} trials of {total} asked for, {dict(states)}"),
        "",
        "| kill | seconds after the study was opened | trials begun so far | of them running |",
        "|---|---|---|---|",
    ]
    (output / "kills.md").write_text("\n".join([*head, *lines]) + "\n")
    print(head[2])


def opened(process: "subprocess.Popen[str]") -> None:
    """Wait until a sweep shows its trials."""
    assert process.stderr is not None
    said = ""
    while "trials:" not in said:
        letter = process.stderr.read(1)
        assert letter, f"the sweep has ended: {said}"
        said += letter


def counted(run: Path) -> dict[str, int]:
    """Return how many trials a study has begun, and how many it calls running."""
    path = run / "study.db"
    if not path.is_file():
        return {"begun": 0, "running": 0}
    with closing(sqlite3.connect(path, timeout=60)) as base:
        states = dict(base.execute("select state, count(*) from trials group by state").fetchall())
    begun = sum(number for state, number in states.items() if state != "WAITING")
    return {"begun": begun, "running": states.get("RUNNING", 0)}


def speed(runs: Path, output: Path, rounds: int, trials: int, epochs: int) -> None:
    """Time studies of one and of two workers in turns; the sampler draws the same trials."""
    path = config(runs / "configs/speed", max_epochs=epochs, callbacks=[])
    ratios, lines = [], []
    for number in range(rounds):
        rates = {}
        for workers in (1, 2):
            run = runs / f"speed-{number}-{workers}"
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
        lines.append(f"| {number + 1} | {rates[1]:.1f} | {rates[2]:.1f} | {ratios[-1]:.2f} |")
        print(lines[-1], flush=True)
    head = [
        "# Two workers against one, one thread each",
        "",
        described(f"median {statistics.median(ratios):.2f} of {rounds} rounds of {trials} trials"),
        "",
        "| round | trials per hour, 1 worker | 2 workers | ratio |",
        "|---|---|---|---|",
    ]
    (output / "speed.md").write_text("\n".join([*head, *lines]) + "\n")
    print(head[2])


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("front", "kills", "speed"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="before a kill, at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, help="of the front (40) or a timed study (12)")
    parser.add_argument("--epochs", type=int, help="of a trial (as configured; speed: 3)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    output: Path = given.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    runs = ROOT / "runs/sweep" if output == OUTPUT else output / "runs"
    if given.part == "front":
        epochs = {"max_epochs": given.epochs} if given.epochs else {}
        front(runs, output, given.trials or 40, epochs)
    elif given.part == "kills":
        kills(runs, output, given.kills, given.seconds, given.seed)
    else:
        speed(runs, output, given.rounds, given.trials or 12, given.epochs or 3)


if __name__ == "__main__":
    main()
