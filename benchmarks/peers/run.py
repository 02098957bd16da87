"""Measure recemb's DIN against FuxiCTR's on MovieLens-1M: same rows, features and sizes.

Run from anywhere with the Python that has recemb: ``python benchmarks/peers/run.py``. A finished
run is kept under ``runs/`` and not repeated; ``results.md`` is written from all of them.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from report import write_results

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = HERE / ".venv-fuxictr"
REQUIREMENTS = HERE / "requirements-fuxictr.txt"
SETTINGS = HERE / "settings.yaml"
LIBRARIES = ("fuxictr", "recemb")
SECONDS_BETWEEN_LINES = 60


class BenchmarkError(Exception):
    """A run that cannot go on; its message is one line for the user."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What every run of one benchmark has in common."""

    settings: dict[str, Any]
    """The content of ``settings.yaml``."""
    layout: Path
    """The data in the layout of FuxiCTR's loader."""
    folder: Path
    """Where the JSON of finished runs is kept."""
    num_threads: int
    """Threads of torch in both libraries."""


def open_bench(num_threads: int) -> Bench:
    """Read the settings, build what is missing and return the benchmark.

    Raises:
        BenchmarkError: If a file is missing, or the environment or the data cannot be made.
    """
    settings = yaml.safe_load(SETTINGS.read_text())
    config = ROOT / settings["recemb"]["config"]
    if not config.is_file():
        raise BenchmarkError(f"{config}: recemb's configuration is not there; see {SETTINGS.name}")
    folder = HERE / "runs" / f"threads{num_threads}"
    (folder / "work").mkdir(parents=True, exist_ok=True)
    build_environment()
    layout = lay_out(prepare_data())
    return Bench(settings=settings, layout=layout, folder=folder, num_threads=num_threads)


def build_environment() -> None:
    """Make FuxiCTR's environment unless it was made whole from the same requirements."""
    stamp = ENVIRONMENT / "built-from.txt"
    wanted = REQUIREMENTS.read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print("environment of FuxiCTR: installing, a few minutes", flush=True)
    torch = next(line for line in wanted.splitlines() if line.startswith("torch=="))
    python = str(ENVIRONMENT / "bin" / "python")
    call([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)], "python -m venv")
    # The pinned torch goes first: a resolver that chooses torch itself may fetch gigabytes.
    for packages in ([torch], ["-r", str(REQUIREMENTS)]):
        call([python, "-m", "pip", "install", "--quiet", *packages], f"pip install {packages[-1]}")
    stamp.write_text(wanted)


def prepare_data() -> Path:
    """Let recemb prepare MovieLens-1M from ``$RECEMB_DATA/ml-1m``; return its folder."""
    code = (
        "import sys; from pathlib import Path; from data.movielens import data_root, prepare; "
        "print(prepare(data_root() / 'ml-1m', Path(sys.argv[1])).resolve())"
    )
    folder = HERE / "runs" / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(call([sys.executable, "-c", code, str(folder)], "data").splitlines()[-1])


def lay_out(prepared: Path) -> Path:
    """Write the layout of FuxiCTR's loader, unless it is there; return its folder."""
    # Data prepared in another format has another folder name, so no stale layout is read.
    layout = HERE / "runs" / "fuxictr" / "data" / prepared.name / "movielens1m"
    script = HERE / "fuxictr_layout.py"
    command = [str(ENVIRONMENT / "bin" / "python"), str(script), str(prepared), str(layout)]
    call(command, "layout for FuxiCTR")
    return layout


def call(command: list[str], what: str) -> str:
    """Run a short command from the root of the clone and return what it printed.

    Raises:
        BenchmarkError: If it fails, with its last line.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise BenchmarkError(f"{what}: failed with exit code {done.returncode}: {lines[-1]}")
    return done.stdout


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
        write_results(HERE / "results.md", reports, arguments.seeds, arguments.threads)
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
