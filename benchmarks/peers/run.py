"""Measure recemb's DIN against FuxiCTR's on MovieLens-1M: same rows, features and sizes.

Run from anywhere with the Python that has recemb: ``python benchmarks/peers/run.py``. A finished
training is kept under ``runs/`` and not repeated; speed is measured anew, in short runs in turn;
``results.md`` is written from all of them.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from typing import Any

from bench import ENVIRONMENT, HERE, REQUIREMENTS, ROOT, SETTINGS, Bench, BenchmarkError, open_bench
from report import write_results
from speed import measure_pairs

LIBRARIES = ("fuxictr", "recemb")
SECONDS_BETWEEN_LINES = 60


def run_fuxictr(bench: Bench, seed: int, changes: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the JSON of FuxiCTR's DIN for ``seed``.

    Args:
        bench: The benchmark.
        seed: Of initial weights and of the order of rows.
        changes: Replaces values of the settings.
        prefix: First part of the run's name.
    """
    effective = bench.settings["shared"] | bench.settings["fuxictr"] | changes
    name = f"{prefix}-{fingerprint(effective, REQUIREMENTS.read_text())}-seed{seed}"
    command = [
        *(str(ENVIRONMENT / "bin" / "python"), str(HERE / "fuxictr_din.py")),
        *("--layout", str(bench.layout), "--work", str(HERE / "runs" / "fuxictr")),
        *("--settings", str(SETTINGS), "--seed", str(seed)),
        *("--json", str(bench.folder / "work" / f"{name}.json")),
        *("--set", *(f"{key}={json.dumps(value)}" for key, value in changes.items())),
    ]
    return run_once(name, command, bench)


def run_recemb(bench: Bench, seed: int) -> dict[str, Any]:
    """Return the JSON of recemb's DIN for ``seed``."""
    section, shared = bench.settings["recemb"], bench.settings["shared"]
    config = section["config"]
    name = f"recemb-{fingerprint(shared, section, (ROOT / config).read_text())}-seed{seed}"
    command = [
        *(sys.executable, "-m", "recemb", "fit", "--config", config),
        *("--seed_everything", str(seed)),
        *("--json", str(bench.folder / "work" / f"{name}.json")),
        *(text.format(**shared) for text in section["arguments"]),
    ]
    return run_once(name, command, bench)


def fingerprint(*parts: Any) -> str:
    """Return a short hash of what a run depends on, so other settings give another name."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def run_once(name: str, command: list[str], bench: Bench) -> dict[str, Any]:
    """Return the JSON of the run called ``name``; run ``command`` only if it is not there.

    ``command`` writes its JSON as ``work/<name>.json``, moved up once the run has succeeded, so a
    JSON in the folder is always that of a whole run.

    Raises:
        BenchmarkError: If the run fails or writes no JSON; the message names its log.
    """
    kept, written = bench.folder / f"{name}.json", bench.folder / "work" / f"{name}.json"
    if kept.is_file():
        print(f"{name}: kept from an earlier run", flush=True)
        kept_report: dict[str, Any] = json.loads(kept.read_text())
        return kept_report
    log = bench.folder / f"{name}.log"
    written.unlink(missing_ok=True)
    # Both libraries read their number of threads from the environment, before torch is loaded.
    environment = os.environ | {"OMP_NUM_THREADS": str(bench.num_threads)}
    print(f"{name}: started, log in {os.path.relpath(log)}", flush=True)
    start = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            wait_with_progress(process, name, start)
        finally:
            process.kill()
    if process.returncode != 0 or not written.is_file():
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        code = process.returncode
        raise BenchmarkError(f"{name}: failed with exit code {code}: {lines[-1]} (log: {log})")
    report: dict[str, Any] = json.loads(written.read_text())
    written.replace(kept)
    print(f"{name}: {summary(report)}, {time.monotonic() - start:.0f} s in all", flush=True)
    return report


def wait_with_progress(process: subprocess.Popen[bytes], name: str, start: float) -> None:
    """Wait for the end of ``process``, with a line on the screen each minute."""
    while True:
        try:
            process.wait(timeout=SECONDS_BETWEEN_LINES)
            return
        except subprocess.TimeoutExpired:
            print(f"{name}: running for {time.monotonic() - start:.0f} s", flush=True)


def summary(report: dict[str, Any]) -> str:
    """Return the figures of a run that may be looked at before all runs are done."""
    metrics = report["metrics"]
    return f"validation AUC {metrics['val/auc']:.4f}, {report['samples_per_s']:,.0f} samples/s"


def main() -> int:
    """Run every library for every seed, then write the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, default=5, help="of short runs that measure speed")
    arguments = parser.parse_args()
    try:
        bench = open_bench(arguments.threads)
        reports: dict[str, list[dict[str, Any]]] = {library: [] for library in LIBRARIES}
        for turn, seed in enumerate(arguments.seeds):
            # The order turns with each seed, so a machine that slows down favours neither.
            for library in LIBRARIES[:: 1 if turn % 2 == 0 else -1]:
                if library == "fuxictr":
                    report = run_fuxictr(bench, seed, {}, library)
                else:
                    report = run_recemb(bench, seed)
                reports[library].append(report)
        pairs = measure_pairs(bench, arguments.pairs)
        write_results(HERE / "results.md", reports, pairs, arguments.seeds, arguments.threads)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130
    print(f"written: {os.path.relpath(HERE / 'results.md')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
