"""Run: the trials of one command, until the study has as many as were asked for."""

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from recemb.command_line.sweep.trial import EPOCH, SIZE, Outcome, record
from recemb.errors import RecembError
from recemb.files import read_json, whole_file
from recemb.memory import human_bytes
from recemb.results import plain
from recemb.sweep.objectives import Objective, values_of
from recemb.sweep.space import Space, applied
from recemb.sweep.study import Claim, Study
from recemb.sweep.trials import COMPLETE, FAILED, REFUSED, RUNNING, WAITING, Trial, front_of
from recemb.sweep.worker import END, FAULT, Worker, speaking

MOST_REFUSALS = 200
"""Draws in a row, all refused before training, after which a sweep gives up."""


class Jobs:
    """Who does jobs.

    Args:
        workers: Who does them; the first one all but trials.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers

    def do(self, request: Mapping[str, Any]) -> Outcome:
        """Do a job to its end; whatever it asks is answered by yes.

        Raises:
            RecembError: If it fails.
        """
        worker = self.workers[0]
        worker.send(dict(request))
        while (said := worker.receive())[0] not in (END, FAULT):
            worker.answer(True)
        outcome: Outcome = said[1] if said[0] == END else {"state": FAILED, "reason": said[1]}
        if outcome["state"] != COMPLETE:
            raise RecembError(outcome["reason"])
        return outcome

    def stop(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.stop()


class Run:
    """Trains the trials that this command claims.

    Args:
        options: Of the verb.
        config: That trials are changes of.
        space: What is drawn.
        study: Where trials are kept.
        objectives: What is compared.
        jobs: Does what trials need.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        config: Mapping[str, Any],
        space: Space,
        study: Study,
        objectives: list[Objective],
        jobs: Jobs,
    ) -> None:
        self.options, self.config, self.space = options, config, space
        self.study, self.objectives, self.jobs = study, objectives, jobs
        self.refusals = 0
        self.bar: tqdm[Any] | None = None

    def train(self) -> None:
        """Train until there are as many trials as were asked for."""
        with tqdm(total=self.options.n_trials, desc="trials", unit="trial") as self.bar:
            self._show()
            self._serve()

    def _serve(self) -> None:
        busy: dict[Worker, Claim] = {}
        while True:
            for worker in self.jobs.workers:
                while worker not in busy and (claim := self.claim()) is not None:
                    done = self.outcome_of(claim)
                    if done is not None:
                        self.end(claim, done)
                        continue
                    busy[worker] = claim
                    worker.send(self.request(claim))
                    self.study.note(claim, pid=worker.pid, begun=time.time())
            if not busy:
                return
            for worker in speaking(list(busy)):
                what, payload = worker.receive()
                claim = busy[worker]
                if what in (END, FAULT):
                    del busy[worker]
                    failed = {"state": FAILED, "reason": payload}
                    self.end(claim, payload if what == END else failed)
                else:
                    worker.answer(self.answer(claim, what, payload))

    # What the study is asked and told

    def claim(self) -> Claim | None:
        """Return a trial to train, its configuration written; None when there is none left."""
        claim = self.study.claim(self.space, self.options.n_trials)
        if claim is not None:
            path = self.folder(claim) / "config.yaml"
            if not path.is_file():
                with whole_file(path) as temporary:
                    config = applied(self.config, claim.drawn)
                    temporary.write_text(yaml.safe_dump(config, sort_keys=False))
        return claim

    def folder(self, claim: Claim) -> Path:
        """Return the run folder of a trial."""
        folder: Path = self.options.run / "trials" / f"{claim.number:04d}"
        return folder

    def request(self, claim: Claim) -> dict[str, Any]:
        """Return what a worker is told."""
        folder = self.folder(claim)
        return {
            "do": "train",
            "config": folder / "config.yaml",
            "folder": folder,
            "lock": self.options.run / "locks" / f"training-{claim.number:04d}",
            "latency": "latency" in self.options.objectives,
        }

    def outcome_of(self, claim: Claim) -> Outcome | None:
        """Return the outcome of a trial whose command died before it told it; None if none."""
        path = self.folder(claim) / "results.json"
        return read_json(path, "result of a trial") if path.is_file() else None

    def answer(self, claim: Claim, what: str, payload: Any) -> bool:
        """Return whether a trial goes on."""
        if what == SIZE:
            self.study.note(claim, bytes=payload)
            return self.options.budget is None or payload <= self.options.budget
        assert what == EPOCH
        last = payload["last"]
        return self.study.goes_on(claim, payload["epoch"], payload["value"], last or 10**6)

    def end(self, claim: Claim, outcome: Outcome) -> None:
        """Tell the study how a trial has ended."""
        values = None
        if outcome["state"] == COMPLETE:
            try:
                values = values_of(self.objectives, outcome)
            except RecembError as error:
                outcome = {**outcome, "state": FAILED, "reason": str(error)}
        state, budget = outcome["state"], self.options.budget
        if state == REFUSED and "reason" not in outcome:
            size = human_bytes(outcome["table_bytes"])
            outcome["reason"] = f"{size} exceed the budget of {human_bytes(budget)}"
        record(self.folder(claim), outcome)
        kept = ("reason", "seconds", "epochs", "metrics", "tables", "latency_ms")
        attrs = {key: outcome[key] for key in kept if key in outcome}
        if "table_bytes" in outcome:
            attrs["bytes"] = outcome["table_bytes"]
        excess = None
        if budget is not None:
            # What was refused for another reason is as far from good as can be.
            known = "table_bytes" in outcome
            excess = outcome["table_bytes"] / budget - 1 if known else float(state == REFUSED)
        self.study.tell(claim, state, values, {**attrs, "folder": str(self.folder(claim))}, excess)
        self.refusals = self.refusals + 1 if state == REFUSED else 0
        if self.refusals == MOST_REFUSALS:
            raise RecembError(
                f"{self.space.where}: {MOST_REFUSALS} draws in a row cannot be trained, the last "
                f"because {outcome['reason']}; change the space, or raise the budget"
            )
        self._show(claim, outcome)

    def _show(self, claim: Claim | None = None, outcome: Outcome | None = None) -> None:
        """Write ``trials.json`` and say how the study stands."""
        trials = self.study.trials()
        with whole_file(self.options.run / "trials.json") as temporary:
            temporary.write_text(json_of(trials, self.objectives))
        if self.bar is None:
            return
        if claim is not None and outcome is not None and outcome["state"] != REFUSED:
            self.bar.write(line_of(trials[claim.number], self.objectives))
        self.bar.n = sum(one.state not in (RUNNING, WAITING, REFUSED) for one in trials)
        self.bar.set_postfix_str(front_line(trials, self.objectives))


def json_of(trials: list[Trial], objectives: list[Objective]) -> str:
    """Return a study as the report reads it."""
    labels = [{"label": one.label, "mode": one.mode} for one in objectives]
    content = {"objectives": labels, "trials": [one.as_json() for one in trials]}
    return json.dumps(plain(content), indent=1)


def figures(values: list[float], objectives: list[Objective]) -> str:
    """Return the numbers of a trial as text."""

    def text(one: Objective, value: float) -> str:
        if one.name == "bytes":
            return human_bytes(int(value))
        if one.name == "latency":
            return f"{value:.1f} ms"
        return f"{one.label.removeprefix('val/')} {value:.4f}"

    return ", ".join(text(*both) for both in zip(objectives, values, strict=True))


def line_of(trial: Trial, objectives: list[Objective]) -> str:
    """Return a trial on one line."""
    what = f"{trial.state} after {trial.attrs.get('epochs', 0)} epochs"
    if trial.state == COMPLETE:
        what = figures(trial.values, objectives)
    elif trial.state == FAILED:
        what = f"failed: {trial.attrs.get('reason')}"
    seconds = trial.attrs.get("seconds", math.nan)
    return f"trial {trial.number}: {what}" + (f", {seconds:.0f} s" if seconds == seconds else "")


def front_line(trials: list[Trial], objectives: list[Objective], most: int = 4) -> str:
    """Return the front, a few trials of it evenly taken, the best quality first."""
    front = front_of(trials, objectives)
    if len(front) > most:
        front = [front[round(place * (len(front) - 1) / (most - 1))] for place in range(most)]
    return "front: " + " | ".join(figures(one.values, objectives) for one in front)
