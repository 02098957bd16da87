"""Choice: what a study comes to, by validation alone; only what is chosen is tested, and once."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recemb.command_line.sweep.run import Jobs
from recemb.command_line.sweep.trial import Outcome, record
from recemb.files import read_json, whole_file
from recemb.locks import held
from recemb.results import write_results
from recemb.sweep.objectives import Objective, smallest_within
from recemb.sweep.trials import COMPLETE, Trial, front_of

Section = dict[str, Any]


def full_model(jobs: Jobs, folder: Path, config: Path) -> Outcome:
    """Train the configuration as it is, unless that is done; other commands wait for it."""
    run = folder / "full"
    with held(folder / "locks/full"):
        done = run / "results.json"
        if done.is_file():
            return read_json(done, "result of the full model")
        with whole_file(run / "config.yaml") as temporary:
            shutil.copyfile(config, temporary)
        request = {"do": "train", "config": run / "config.yaml", "folder": run}
        return record(run, jobs.do({**request, "lock": folder / "locks/training-full"}))


def tested(
    jobs: Jobs, folder: Path, name: str, run: Path, checkpoint: str
) -> dict[str, float | None]:
    """Return the test metrics of a trained configuration, which are measured once."""
    where = folder / "tests" / name
    done = where / "results.json"
    if not done.is_file():
        shutil.rmtree(where, ignore_errors=True)
        request = {"do": "test", "config": run / "config.yaml", "checkpoint": checkpoint}
        found = jobs.do({**request, "folder": where})
        write_results({"verb": "test", "run": str(where), **found}, where, None)
    return dict(read_json(done, "result of a test")["metrics"])


def best_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """Return the complete trial of the best quality."""
    done = [one for one in trials if one.state == COMPLETE]
    quality = objectives[0]
    return min(done, key=lambda one: (quality.cost(one.values[0]), one.number), default=None)


def answer_of(
    trials: Sequence[Trial], objectives: Sequence[Objective], full: Outcome, loss: float
) -> tuple[Trial | None, Section]:
    """Return the smallest trial within a loss of the full model, and the evidence.

    The evidence: the full model, the answer and its loss, and every trial that is smaller still,
    with what it loses: none of them is within.
    """
    place = [one.name for one in objectives].index("bytes")
    done = {one.number: one for one in trials if one.state == COMPLETE}
    points = {number: (one.values[0], one.values[place]) for number, one in done.items()}
    mode = objectives[0].mode
    sign = 1 if mode == "max" else -1
    number = smallest_within(points, full["quality"], loss, mode)

    def row(of: int) -> Section:
        quality, size = points[of]
        lost = sign * (full["quality"] - quality)
        return {"trial": of, "quality": quality, "bytes": int(size), "loss": lost}

    limit = points[number][1] if number is not None else float("inf")
    smaller = sorted(
        (row(of) for of in points if points[of][1] < limit), key=lambda one: one["loss"]
    )
    evidence = {
        "loss": loss,
        "full": {"quality": full["quality"], "bytes": full["table_bytes"]},
        "answer": None if number is None else row(number),
        "smaller": smaller,
    }
    return (None if number is None else done[number]), evidence


def chosen(
    trials: Sequence[Trial], objectives: Sequence[Objective], best: Trial, of_front: bool
) -> list[Trial]:
    """Return the trials that are tested."""
    others = front_of(trials, objectives) if of_front else []
    return [best, *(one for one in others if one.number != best.number)]
