"""The options of ``sweep``."""

import argparse
import os
from pathlib import Path

from recemb.distributed import strategy
from recemb.errors import RecembError
from recemb.files import read_yaml
from recemb.renamed import current_paths
from recemb.sweep.objectives import NAMES, parse_goal
from recemb.sweep.paths import Section, simplified
from recemb.sweep.rules import PRUNERS, SAMPLERS
from recemb.tables.budget import parse_bytes

SECTIONS = ("seed_everything", "model", "data", "trainer")


def parse(arguments: list[str], about: str | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        RecembError: If one is out of range.
    """
    parser = argparse.ArgumentParser(prog="python -m recemb sweep", description=about)
    parser.add_argument("--config", type=Path, required=True, help="what trials are changes of")
    parser.add_argument("--space", type=Path, required=True, help="what is drawn, and from what")
    parser.add_argument(
        "--n-trials",
        "--n_trials",
        type=int,
        required=True,
        help="trials of the study, over all processes and restarts; draws that are refused before "
        "they are trained do not count",
    )
    parser.add_argument(
        "--storage", help="such as sqlite:///study.db (default: study.db in the run folder)"
    )
    parser.add_argument("--study", help="its name in the storage (default: <config>-<space>)")
    parser.add_argument(
        "--objectives",
        nargs="+",
        choices=NAMES,
        default=["quality", "bytes"],
        help="quality is the model's own validation metric; bytes those of the served tables; "
        "latency the milliseconds of a request of 1,024 samples",
    )
    parser.add_argument(
        "--budget", help="served bytes of all tables, such as 10MB; what exceeds it is not trained"
    )
    parser.add_argument(
        "--goal",
        help="such as 'loss<=0.002': find the smallest tables whose validation quality is within "
        "that of the configuration as it is, which is trained too",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe")
    parser.add_argument(
        "--pruner",
        choices=PRUNERS,
        default="halving",
        help="ends trials early. halving: after --first_epochs, --reduction times as many, and so "
        "on, one in --reduction goes on, by quality and bytes; median and hyperband: Optuna's, for "
        "one objective",
    )
    parser.add_argument("--first_epochs", type=int, default=2, help="that every trial is trained")
    parser.add_argument("--reduction", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=1, help="trials at a time, in this command")
    parser.add_argument(
        "--test",
        choices=("best", "front"),
        default="best",
        help="what is tested in the end: the best trial (with --goal: its answer and the full "
        "model), or every trial of the front",
    )
    parser.add_argument(
        "--run",
        type=Path,
        help="folder of the study, the same for all its processes (default: runs/<study>/sweep)",
    )
    parser.add_argument("--json", type=Path, help="where a copy of results.json goes")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    for name, least in (("n_trials", 1), ("first_epochs", 1), ("workers", 1)):
        if getattr(options, name) < least:
            raise RecembError(f"{name} must be at least {least}, got {getattr(options, name)}")
    if not options.reduction > 1:
        raise RecembError(f"reduction must be above 1, got {options.reduction}")
    options.budget = parse_bytes("--budget", options.budget) if options.budget else None
    options.goal = parse_goal(options.goal) if options.goal else None
    if options.goal is not None and "bytes" not in options.objectives:
        raise RecembError("--goal asks for the fewest bytes; have bytes among --objectives")
    options.study = options.study or f"{options.config.stem}-{options.space.stem}"
    options.run = options.run or Path("runs") / options.study / "sweep"
    options.storage = options.storage or f"sqlite:///{options.run / 'study.db'}"
    if "RANK" in os.environ and (options.workers > 1 or "latency" in options.objectives):
        raise RecembError(
            "under torchrun a sweep trains one trial at a time, in all processes, and measures no "
            "latency; drop --workers and latency"
        )


def read_config(path: Path) -> Section:
    """Return the sections of a configuration that trials are changes of.

    Raises:
        RecembError: If it lacks one.
    """
    config = simplified(current_paths(read_yaml(path)))
    for name in ("model", "data"):
        section = config.get(name) if isinstance(config, dict) else None
        if not isinstance(section, dict) or "class_path" not in section:
            raise RecembError(f"{path}: there is no section {name!r} with class_path; it needs one")
    config.setdefault("seed_everything", 1)
    config["trainer"] = config.get("trainer") or {}
    if not isinstance(config["trainer"], dict):
        raise RecembError(f"{path}: trainer: must be a section, got {config['trainer']}")
    given = config["trainer"].get("strategy")
    if "RANK" in os.environ and given != strategy.NAME:
        raise RecembError(
            f"{path}: under torchrun trainer.strategy must be {strategy.NAME}, which shards the "
            f"tables, got {given}"
        )
    # What a run's own config.yaml has beside the sections belongs to that run.
    return {name: config[name] for name in SECTIONS}
