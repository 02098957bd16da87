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
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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


def main() -> None:
    """Train what is missing, then analyse, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "dare", help="their folders")
    options = parser.parse_args()
    for run in runs(options.runs, options.seeds, options.variants):
        if not run.is_done:
            print(run.folder.name, flush=True)
            call(run.command, options.threads)


if __name__ == "__main__":
    main()
