"""Training speed against RecBole: SASRec on Amazon Beauty, NGCF and LightGCN on Gowalla.

Run ``python benchmarks/recbole/run.py`` with the Python that has recemb and ``RECEMB_DATA`` set.
RecBole's environment (``.venv``, 2 GB) is built if it is missing. Each pair trains both libraries
in turn for some steps, with the same number of torch threads; the ratio is taken pair by pair.
Results go to ``results.md`` and ``results.json``.

What is equal: the data, the size of the network and of the vectors, Adam, full cross-entropy over
all items (SASRec; dropout .5 there, .3 here), one negative per pair, the number of layers (3 and 2)
and the batch size (NGCF and LightGCN). What is each library's own: RecBole makes a row of every
prefix of a sequence and pads it to 50 items, recemb takes a sequence as it is and learns at each of
its positions; an example is a prefix, or position, on both sides.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))
ENVIRONMENT, REQUIREMENTS = HERE / ".venv", HERE / "requirements.txt"
RUNS = HERE / "runs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A training on both sides.

    Attributes:
        model: RecBole's.
        data: Folder of ``$RECEMB_DATA``.
        config: recemb's.
        batch_size: RecBole's; in examples.
        steps: RecBole's.
        own_batch_size: recemb's; in sequences or pairs.
        own_steps: Of each of two epochs.
        own_options: What recemb's configuration has otherwise than RecBole's model.
    """

    model: str
    data: str
    config: str
    batch_size: int
    steps: int
    own_batch_size: int
    own_steps: int
    own_options: tuple[str, ...] = ()


GRAPH = "--model.init_args.training.num_negatives 1 --model.init_args.training.negatives all"

TASKS = {
    "sasrec": Task(
        model="SASRec",
        data="beauty",
        config="session/beauty",
        batch_size=2048,
        steps=5,
        own_batch_size=256,
        own_steps=40,
    ),
    "ngcf": Task(
        model="NGCF",
        data="gowalla",
        config="ngcf/gowalla_ngcf",
        batch_size=2048,
        steps=8,
        own_batch_size=2048,
        own_steps=16,
        own_options=(*GRAPH.split(), "--model.init_args.propagation.num_layers", "3"),
    ),
    "lightgcn": Task(
        model="LightGCN",
        data="gowalla",
        config="ngcf/gowalla_lightgcn",
        batch_size=2048,
        steps=8,
        own_batch_size=2048,
        own_steps=16,
        own_options=(*GRAPH.split(), "--model.init_args.propagation.num_layers", "2"),
    ),
}


def call(command: list[str], threads: int | None = None) -> str:
    """Return what a command printed; show what it said if it fails."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"error: {' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return ended.stdout


def build() -> str:
    """Make RecBole's environment unless it was made from the same requirements; return Python."""
    stamp, wanted = ENVIRONMENT / "built-from.txt", REQUIREMENTS.read_text()
    python = str(ENVIRONMENT / "bin" / "python")
    if not stamp.is_file() or stamp.read_text() != wanted:
        print("environment of RecBole: installing, a few minutes", flush=True)
        torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
        call([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)])
        for what in ([torch], ["--no-deps", "-r", str(REQUIREMENTS)]):
            call([python, "-m", "pip", "install", "--quiet", *what])
        stamp.write_text(wanted)
    return python


def lay_out() -> Path:
    """Write both data sets as RecBole reads them; return their folder."""
    import polars as pl

    source = Path(os.environ["RECEMB_DATA"]).expanduser()
    lists = pl.read_parquet(source / "beauty" / "Beauty.parquet", glob=False).select("items")
    actions = lists.with_row_index("user").explode("items")
    frames = {
        "beauty": actions.select(
            pl.col("user").alias("user_id:token"),
            pl.col("items").alias("item_id:token"),
            pl.int_range(pl.len()).over("user").cast(pl.Float64).alias("timestamp:float"),
        ),
        "gowalla": pl.read_parquet(source / "gowalla" / "train.parquet", glob=False).select(
            pl.col("user").alias("user_id:token"), pl.col("item").alias("item_id:token")
        ),
    }
    for name, frame in frames.items():
        folder = RUNS / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        frame.write_csv(folder / f"{name}.inter", separator="\t")
    return RUNS / "data"


def of_recbole(python: str, data: Path, task: Task, seed: int, threads: int) -> float:
    """Return RecBole's examples per second."""
    command = [python, str(HERE / "steps.py"), task.model, "--data", str(data)]
    command += ["--name", task.data, "--batch_size", str(task.batch_size)]
    command += ["--steps", str(task.steps), "--seed", str(seed), "--threads", str(threads)]
    found = json.loads(call(command, threads).splitlines()[-1])
    return found["examples"] / found["wall"]


def of_recemb(task: Task, seed: int, threads: int) -> float:
    """Return recemb's examples per second, as ``fit`` reports them."""
    report, run = RUNS / "recemb.json", RUNS / "recemb"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "recemb", "fit", "--config", f"configs/{task.config}.yaml"]
    command += ["--seed_everything", str(seed), "--json", str(report), "--trainer.logger", "false"]
    command += ["--data.init_args.batch_size", str(task.own_batch_size)]
    command += ["--trainer.limit_train_batches", str(task.own_steps), "--trainer.max_epochs", "2"]
    command += ["--trainer.check_val_every_n_epoch", "2", "--trainer.limit_val_batches", "1"]
    command += ["--trainer.limit_test_batches", "1", "--run", str(run)]
    call([*command, *task.own_options, "--trainer.enable_progress_bar", "false"], threads)
    return json.loads(report.read_text())["samples_per_s"]


def write(found: dict[str, list[dict[str, float]]], threads: int) -> None:
    """Write both files."""
    from machine import machine

    (HERE / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# Training speed: recemb and RecBole",
        "",
        f"`python benchmarks/recbole/run.py`, RecBole 1.2.1, {threads} torch thread(s). "
        f"{machine()} Pairs of tasks that this run left out are older. Medians of pairs, least and "
        "most in brackets. What is equal and what is not: the head of `run.py`.",
        "",
        "| | batch | pairs | RecBole, examples/s | recemb, examples/s | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for name, pairs in found.items():
        task = TASKS[name]
        columns = [
            [pair["recbole"] for pair in pairs],
            [pair["recemb"] for pair in pairs],
            [pair["recemb"] / pair["recbole"] for pair in pairs],
        ]
        shown = [
            f"{statistics.median(own):,.{digits}f} ({min(own):,.{digits}f} .. "
            f"{max(own):,.{digits}f})"
            for own, digits in zip(columns, (0, 0, 1), strict=True)
        ]
        batch = f"{task.batch_size:,}"
        if task.own_batch_size != task.batch_size:
            batch += f"; {task.own_batch_size:,} sequences"
        lines.append(
            f"| {task.model}, {task.data} | {batch} | {len(pairs)} | {' | '.join(shown)} |"
        )
    (HERE / "results.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure pairs and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if not os.environ.get("RECEMB_DATA"):
        sys.exit("error: RECEMB_DATA must name the folder of the data sets, it is not set")
    python, data = build(), lay_out()
    path = HERE / "results.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for name in options.tasks:
        found[name] = []
        for seed in range(1, options.pairs + 1):
            pair = {
                "recbole": of_recbole(python, data, TASKS[name], seed, options.threads),
                "recemb": of_recemb(TASKS[name], seed, options.threads),
            }
            found[name].append(pair)
            print(name, {key: round(value) for key, value in pair.items()}, flush=True)
            write(found, options.threads)


if __name__ == "__main__":
    main()
