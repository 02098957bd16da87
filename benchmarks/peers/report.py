"""Write ``results.md``: one table of both libraries with all that is needed to repeat it."""

import os
import platform
import statistics
import subprocess
from pathlib import Path
from typing import Any

HEADER = (
    "| library | test AUC | test log loss | best validation AUC | samples/s, median (range) "
    "| ratio to FuxiCTR | peak memory |\n|---|---|---|---|---|---|---|"
)
METRICS = ("test/auc", "test/logloss", "val/auc")
NOTES = """\
Mean +- sample standard deviation over the seeds; AUC and log loss are of the test part, at the
epoch that is best on the validation part. Samples/s: median and range of short trainings of both
libraries in turn (two epochs of 25 batches): rows seen over the seconds of the training loop,
without evaluation and preparation; the ratio is taken pair by pair. Peak memory is the largest
resident set of the training process; data-loading workers, if any, are not in it. FuxiCTR's AUC
and log loss come from `metrics.py` on its saved predictions, recemb's from its own exact metrics.
"""


def write_results(
    path: Path,
    reports: dict[str, list[dict[str, Any]]],
    pairs: list[dict[str, float]],
    seeds: list[int],
    num_threads: int,
) -> None:
    """Write the table of ``reports`` (library -> JSON of each seed) and ``pairs`` to ``path``."""
    rows = [table_row(library, runs, pairs) for library, runs in reports.items()]
    versions = [
        f"- {library}: " + ", ".join(f"{name} {value}" for name, value in versions_of(runs))
        for library, runs in reports.items()
    ]
    names = " ".join(map(str, seeds))
    facts = [
        f"- machine: {processor()}, {len(os.sched_getaffinity(0))} cores, {memory_gib():.0f} GiB, "
        f"{platform.system()} {platform.machine()}; {num_threads} torch threads for both",
        f"- commit: {commit()}",
        f"- seeds: {names}",
        f"- command: `python benchmarks/peers/run.py --seeds {names} --pairs {len(pairs)} "
        f"--threads {num_threads}`",
        *versions,
    ]
    title = "# DIN on MovieLens-1M: recemb and FuxiCTR"
    table = "\n".join([HEADER, *rows])
    path.write_text("\n\n".join([title, table, NOTES.strip(), "\n".join(facts)]) + "\n")


def table_row(library: str, runs: list[dict[str, Any]], pairs: list[dict[str, float]]) -> str:
    """Return the row of ``library``; the ratio is the median of the pairs' ratios."""
    rates = [pair[library] for pair in pairs]
    ratios = [pair[library] / pair["fuxictr"] for pair in pairs]
    memory = max(run["peak_memory_bytes"] for run in runs) / 2**30
    cells = [
        library,
        *(spread([run["metrics"][key] for run in runs]) for key in METRICS),
        f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{memory:.2f} GiB",
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: list[float]) -> str:
    """Return mean and sample standard deviation, or the value alone if there is one.

    Example:
        >>> spread([0.70, 0.72])
        '0.7100 +- 0.0141'
    """
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} +- {statistics.stdev(values):.4f}"


def versions_of(runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return package and version, where seeds differ all of them."""
    names = sorted({name for run in runs for name in run["versions"]})
    return [
        (name, " or ".join(sorted({str(run["versions"].get(name, "none")) for run in runs})))
        for name in names
    ]


def processor() -> str:
    """Return the name of the CPU, from ``/proc/cpuinfo`` where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def memory_gib() -> float:
    """Return the memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def commit() -> str:
    """Return the commit of the clone, and whether files differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--verify", "--short=12", "HEAD") or "none"
    return head + (" with uncommitted changes" if git("status", "--porcelain") else "")
