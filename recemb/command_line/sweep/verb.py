"""The verb itself: draw, train, choose, report."""

import argparse
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from recemb import processes
from recemb.command_line.plan_report import aligned
from recemb.command_line.sweep.choice import answer_of, best_of, chosen, full_model, tested
from recemb.command_line.sweep.options import parse, read_config
from recemb.command_line.sweep.run import Jobs, Run
from recemb.command_line.sweep.trial import Trials
from recemb.files import read_yaml, whole_file
from recemb.measured import figure
from recemb.memory import human_bytes
from recemb.monitor import Monitor
from recemb.results import config_hash, difference, table, versions, write_results
from recemb.sweep.objectives import Objective, objectives_of
from recemb.sweep.rules import Rules
from recemb.sweep.space import Space, read_space
from recemb.sweep.storage import without_password
from recemb.sweep.study import Study
from recemb.sweep.team import Team
from recemb.sweep.trials import RUNNING, Trial, front_of
from recemb.sweep.worker import Worker

Section = dict[str, Any]


def run(arguments: list[str]) -> None:
    """Draw configurations from a space, train them, and find the best quality for its bytes."""
    options = parse(arguments, run.__doc__)
    started = time.perf_counter()
    config = read_config(options.config)
    space = read_space(options.space)
    logs = options.run / "locks"
    if "RANK" in os.environ:
        team = Team(Trials, logs / f"worker-{os.environ['RANK']}.log")
        if processes.rank():
            team.follow()
            return
        jobs = Jobs([team])
    else:
        names = [f"worker-{number}.log" for number in range(options.workers)]
        jobs = Jobs([Worker(Trials, logs / name) for name in names])
    try:
        results = _sweep(options, config, space, jobs)
    finally:
        jobs.stop()
    results = {**results, "seconds": round(time.perf_counter() - started, 3)}
    write_results(results, options.run, options.json)
    print(summary(results))


def _sweep(options: argparse.Namespace, config: Section, space: Space, jobs: Jobs) -> Section:
    folder: Path = options.run
    given = folder / "config.yaml"
    with whole_file(given) as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False))
    described = jobs.do({"do": "describe", "config": given})
    space.check(described["config"])
    objectives = objectives_of(options.objectives, Monitor(*described["monitor"]))
    study = _study(options, config, space, objectives)
    full = full_model(jobs, folder, given) if options.goal is not None else None
    Run(options, config, space, study, objectives, jobs).train()
    trials = study.trials()
    counts = Counter(one.state for one in trials)
    results = {
        "verb": "sweep",
        "config_hash": config_hash({name: config[name] for name in ("model", "data")}),
        "seed": config["seed_everything"],
        "versions": versions(),
        "run": str(folder),
        "storage": without_password(options.storage),
        "study": options.study,
        "objectives": [one.label for one in objectives],
        "trials": dict(counts),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "front": [_line(one, objectives) for one in front_of(trials, objectives)],
    }
    if counts[RUNNING]:
        # The last command to end chooses.
        return {**results, "left": counts[RUNNING]}
    best, goal = best_of(trials, objectives), None
    if full is not None:
        best, goal = answer_of(trials, objectives, full, options.goal)
        if described["has_test"]:
            goal["full"]["test"] = tested(jobs, folder, "full", folder / "full", full["checkpoint"])
    if best is None:
        return {**results, "best": None, **({"goal": goal} if goal else {})}
    tests = {}
    of_front = options.test == "front"
    for one in chosen(trials, objectives, best, of_front) if described["has_test"] else []:
        own = Path(one.attrs["folder"])
        checkpoint = str(own / "checkpoints/best.ckpt")
        tests[one.number] = tested(jobs, folder, f"{one.number:04d}", own, checkpoint)
    for line in results["front"]:
        line |= {"test": tests[line["trial"]]} if line["trial"] in tests else {}
    with whole_file(folder / "best.yaml") as temporary:
        shutil.copyfile(Path(best.attrs["folder"]) / "config.yaml", temporary)
    line = {**_line(best, objectives), "test": tests.get(best.number, {})}
    results["best"] = {**line, "config": str(folder / "best.yaml")}
    return {**results, "goal": goal} if goal else results


def _study(
    options: argparse.Namespace, config: Section, space: Space, objectives: list[Objective]
) -> Study:
    rules = Rules(
        sampler=options.sampler,
        pruner=options.pruner,
        first_epochs=options.first_epochs,
        reduction=options.reduction,
        seed=config["seed_everything"],
    )
    settings = {
        "config": json.loads(json.dumps(config)),
        "space": read_yaml(options.space, "space"),
        "objectives": [{"label": one.label, "mode": one.mode} for one in objectives],
        "run": str(options.run.resolve()),
    }
    return Study(
        options.storage, options.study, objectives, rules, options.run, settings, space.first
    )


def _line(trial: Trial, objectives: list[Objective]) -> Section:
    values = {one.label: value for one, value in zip(objectives, trial.values, strict=True)}
    return {"trial": trial.number, "values": values, "params": trial.params}


def summary(results: Section) -> str:
    """Return the results as text: the front as a table, then what was chosen."""
    labels = results["objectives"]
    rows = [
        [
            str(one["trial"]),
            *(_cell(label, one["values"][label]) for label in labels),
            _tested(one.get("test", {}), "-"),
        ]
        for one in results["front"]
    ]
    text = f"\n{aligned(['trial', *labels, 'tested'], rows)}\n\n" if rows else ""
    lines = {"trials": ", ".join(f"{n} {state}" for state, n in results["trials"].items())}
    if "left" in results:
        lines["not done"] = f"{results['left']} trials still run in other commands; they choose"
    goal = results.get("goal")
    if goal:
        full, answer = goal["full"], goal["answer"]
        lines["full model"] = f"{full['quality']:.4f}, {human_bytes(full['bytes'])}"
        lines["goal"] = f"loss <= {goal['loss']:g}: no trial is within"
        if answer:
            share = answer["bytes"] / full["bytes"]
            smaller = len(goal["smaller"])
            lines["goal"] = (
                f"loss <= {goal['loss']:g}: trial {answer['trial']} with "
                f"{human_bytes(answer['bytes'])} ({share:.1%} of the full model's), loss "
                f"{difference(answer['loss'])}; "
                + (f"of {smaller} smaller ones none is within" if smaller else "none is smaller")
            )
    best = results.get("best")
    if best:
        lines["best"] = f"trial {best['trial']}: {_values(best['values'])}"
        lines["tested once"] = _tested(best["test"], "no: the data has no test file")
        lines["configuration"] = f"{best['config']} (python -m recemb fit --config it)"
    elif "left" not in results:
        lines["best"] = "none: no trial was completed; trials.json in the run folder says why"
    lines["results"] = str(Path(results["run"]) / "results.json")
    return text + table(lines)


def _tested(metrics: Section, nothing: str) -> str:
    return ", ".join(f"{name} {figure(value)}" for name, value in metrics.items()) or nothing


def _values(values: Section) -> str:
    return ", ".join(f"{label} {_cell(label, value)}" for label, value in values.items())


def _cell(label: str, value: float) -> str:
    return f"{int(value):,}" if label == "bytes" else f"{value:.4f}"
