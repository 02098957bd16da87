"""NGCF, LightGCN and matrix factorisation on Gowalla; what a product and an epoch cost.

Run ``python benchmarks/ngcf.py`` from the root with ``RECEMB_DATA`` set. In this order:

1. Baselines that need no training, on validation and on the test: popularity, and FastRP, whose
   settings are chosen on validation.
2. Per model, a training of its configuration on training pairs without validation. The settings
   of the configurations were chosen so, by validation recall@20 (``docs/graphs.md`` has what was
   tried).
3. Per model and seed, the same on all of training, tested once.
4. Per such training, its tables at a tenth of their bytes by product quantisation
   (``python -m recemb compress``), tested.

Every training is a ``python -m recemb fit`` that can be repeated by hand, with ``--resume``: stop
it and go on when you like; what is finished is not run again. The training of step 2 ends with a
reading of the test file, as every fit does; no choice looks at it, and it is in no table. Results
go to ``benchmarks/ngcf/``: ``results.md`` and ``results.json``.

``--products`` times one propagation of all nodes by ``embedding_bag``, CSR and COO.
``--epoch MODEL`` profiles an epoch's first steps and says what an epoch takes.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import machine

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "ngcf"
sys.path.insert(0, str(ROOT))
MODELS = ("mf", "lightgcn", "ngcf")
BARS = {"mf": (0.1550, None), "lightgcn": (0.1820, 0.1547), "ngcf": (0.1570, 0.1327)}
"""Recall@20 and NDCG@20 that were set as goals."""
FAST_RP = {
    "weights": [[1.0], [1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0]],
    "degree_exponent": [-0.9, -0.5, 0.0],
}


def run(verb: list[str], folder: Path, threads: int) -> dict:
    """Run a command of recemb into a folder unless it is done; return its results."""
    results = folder / "results.json"
    if not results.is_file():
        print(folder.name, flush=True)
        command = [sys.executable, "-m", "recemb", *verb, "--run", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{ended.stderr[-2000:]}")
    return json.loads(results.read_text())


def trained(model: str, root: Path, seeds: int, threads: int) -> dict:
    """Train and test a model; return what was measured."""

    def fit(name: str, *options: str) -> dict:
        verb = ["fit", "--config", f"configs/ngcf/gowalla_{model}.yaml", "--resume"]
        verb += ["--trainer.enable_progress_bar", "false", *options]
        return run(verb, root / name, threads)

    validation = fit(f"{model}-validation")["metrics"]
    runs = []
    for seed in range(1, seeds + 1):
        name = f"{model}-all-{seed}"
        whole = fit(name, "--data.init_args.train_on", "all", "--seed_everything", str(seed))
        checkpoint = str(root / name / "checkpoints" / "best.ckpt")
        small_folder = root / f"{name}-pq"
        verb = ["compress", checkpoint, "--method", "pq", "--share", "0.1"]
        small = run(verb, small_folder, threads)
        verb = ["test", "--config", str(small_folder / "compressed.yaml")]
        verb += ["--ckpt_path", str(small_folder / "compressed.ckpt")]
        small_test = run(verb, root / f"{name}-pq-test", threads)
        kept = {name: whole[name] for name in ("seed", "metrics", "seconds")}
        small_bytes, whole_bytes = (
            sum(table["bytes"] for table in one["tables"].values()) for one in (small, whole)
        )
        runs.append(
            kept
            | {"share": small_bytes / whole_bytes}
            | {"small": {name: small_test[name] for name in ("metrics", "seconds")}}
        )
    return {"validation": validation, "runs": runs}


def floor_model(train_on: str):
    """Return matrix factorisation on Gowalla, for its measure, and pairs of the stage measured."""
    from recemb.data.gowalla import Gowalla
    from recemb.features import FeatureConfig
    from recemb.models.mf_bpr import MatrixFactorizationBPR
    from recemb.tables.full import Full

    data = Gowalla(train_on=train_on)
    names = ("user", "item")
    model = MatrixFactorizationBPR(
        data.schema,
        {name: Full(dim=64) for name in names},
        {name: FeatureConfig(table=name) for name in names},
    )
    return data, model.eval()


def measured(data, model, stage: str, x_ND: torch.Tensor) -> dict[str, float]:
    """Return the metrics of vectors of all nodes."""
    user_P, item_P = map(
        torch.cat, zip(*(model.pairs_of(batch) for batch in data.loader(stage)), strict=True)
    )
    item_VD = x_ND[model.num_queries :][: model.num_items]
    return model.measure(x_ND[: model.num_queries], item_VD, user_P, item_P)


def baselines() -> dict[str, dict]:
    """Return what popularity and FastRP reach without training."""
    from recemb.models.fast_rp import FastRP
    from recemb.models.propagation import BipartiteGraph

    found: dict[str, dict] = {}
    sides = {stage: floor_model(on) for stage, on in (("validation", "train"), ("test", "all"))}
    graphs = {
        stage: BipartiteGraph(model.seen, model.num_items + 1)
        for stage, (_, model) in sides.items()
    }
    for stage, (data, model) in sides.items():
        degree = graphs[stage].offsets_N1.diff().float()
        degree[: model.num_queries] = 1
        metrics = measured(data, model, stage, degree.unsqueeze(1))
        found.setdefault("popularity", {})[stage] = metrics

    def metrics_of(settings: dict, stage: str) -> dict[str, float]:
        return measured(*sides[stage], stage, FastRP(**settings).vectors(graphs[stage], 64))

    tried = [
        dict(zip(FAST_RP, values, strict=True)) for values in itertools.product(*FAST_RP.values())
    ]
    best = max(tried, key=lambda one: metrics_of(one, "validation")["recall@20"])
    found["fast_rp"] = {"settings": best} | {stage: metrics_of(best, stage) for stage in sides}
    return found


def spread(values: list[float]) -> str:
    """Return a mean, and the standard deviation where there are several."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} +- {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def write(results: dict) -> None:
    """Write both files."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        "# Gowalla, all items ranked",
        "",
        f"`python benchmarks/ngcf.py`. {machine()} Settings chosen by validation recall@20; then "
        "trained on all of training and tested once per seed (mean and standard deviation). pq: "
        "the same with tables compressed to a tenth of their bytes.",
        "",
        "| model | validation recall@20 | test recall@20 | test NDCG@20 | goal | seeds | "
        "minutes each, threads | test recall@20 with pq | share of the tables' bytes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in results.get("baselines", {}).items():
        validation, test = one["validation"], one["test"]
        lines.append(
            f"| {name} | {validation['recall@20']:.4f} | {test['recall@20']:.4f} | "
            f"{test['ndcg@20']:.4f} | | | | | |"
        )
    for model, one in results.get("models", {}).items():
        runs = one["runs"]

        def over_seeds(metric: str, runs: list[dict] = runs) -> str:
            return spread([run["metrics"][metric] for run in runs])

        goal = " / ".join(f"{bar:.4f}" for bar in BARS[model] if bar)
        minutes = statistics.mean(run["seconds"] for run in runs) / 60
        small = spread([run["small"]["metrics"]["test/recall@20"] for run in runs])
        lines.append(
            f"| {model} | {one['validation']['val/recall@20']:.4f} | "
            f"{over_seeds('test/recall@20')} | {over_seeds('test/ndcg@20')} | {goal} | "
            f"{len(runs)} | {minutes:.0f}, {one['threads']} | {small} | "
            f"{statistics.mean(run['share'] for run in runs):.1%} |"
        )
    (OUTPUT / "results.md").write_text("\n".join(lines) + "\n")


def timed(call: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Return the least wall time and the least processor time of a call, in milliseconds."""
    call()
    walls, works = [], []
    for _ in range(rounds):
        wall, work = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return 1000 * min(walls), 1000 * min(works)


def products() -> None:
    """Print what a product of the matrix with vectors of 64 costs in three forms."""
    import warnings

    from recemb.models.propagation import BipartiteGraph

    warnings.filterwarnings("ignore", message=".*Sparse CSR tensor support is in beta.*")
    _, model = floor_model("all")
    graph = BipartiteGraph(model.seen, model.num_items + 1)
    own = graph.matrix
    size = (graph.num_nodes, graph.num_nodes)
    csr = torch.sparse_csr_tensor(own.offsets_N1, own.columns_E, own.weights_E, size)
    coo = csr.to_sparse_coo().coalesce()
    x_ND = torch.randn(graph.num_nodes, 64)
    forms = {
        "embedding_bag": lambda: own.product(x_ND),
        "CSR": lambda: csr @ x_ND,
        "COO": lambda: torch.sparse.mm(coo, x_ND),
    }
    for name, call in forms.items():
        torch.testing.assert_close(call(), own.product(x_ND), atol=1e-4, rtol=1e-4)
        wall, work = timed(call)
        print(f"{name}: {wall:.1f} ms wall, {work:.1f} ms of processor")


def epoch(model: str, batch_size: int, steps: int) -> None:
    """Print what a training step costs, and so an epoch."""
    from recemb.command_line.train import TrainingCLI

    options = ["--config", str(ROOT / f"configs/ngcf/gowalla_{model}.yaml")]
    options += ["--data.init_args.batch_size", str(batch_size), "--trainer.logger", "false"]
    options += ["--run", str(OUTPUT / "none")]
    cli = TrainingCLI("fit", options)
    task = cli.model.train()
    task.log = lambda *_, **__: None
    optimizer = task.configure_optimizers()
    batches = list(itertools.islice(iter(cli.datamodule.train_dataloader()), steps))

    def step(batch) -> None:
        optimizer.zero_grad()
        task.training_step(batch).backward()
        optimizer.step()
        task.embeddings.step()

    step(batches[0])
    with torch.profiler.profile() as profile:
        wall, work = time.perf_counter(), time.process_time()
        for batch in batches:
            step(batch)
        wall, work = time.perf_counter() - wall, time.process_time() - work
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=16))
    count = len(cli.datamodule.train_dataloader())
    print(
        f"{model}, batch {batch_size}: a step {1000 * wall / steps:.1f} ms wall, "
        f"{1000 * work / steps:.1f} ms of processor; an epoch of {count} steps "
        f"{count * wall / steps:.1f} s wall, {count * work / steps:.1f} s of processor"
    )


def main() -> None:
    """Measure costs, or run what is missing and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of each training")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "ngcf", help="their folders")
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--epoch", choices=MODELS)
    parser.add_argument("--batch_size", type=int, default=2048, help="of --epoch")
    parser.add_argument("--steps", type=int, default=10, help="of --epoch")
    parser.add_argument("--baselines", action="store_true", help="nothing but these")
    options = parser.parse_args()
    from recemb.memory import keep_freed_memory

    keep_freed_memory()  # As every command does.
    if options.products:
        products()
        return
    if options.epoch:
        epoch(options.epoch, options.batch_size, options.steps)
        return
    path = OUTPUT / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    if "baselines" not in results:
        results["baselines"] = baselines()
        write(results)
    for model in [] if options.baselines else options.models:
        found = trained(model, options.runs, options.seeds, options.threads)
        results.setdefault("models", {})[model] = found | {"threads": options.threads}
        write(results)


if __name__ == "__main__":
    main()
