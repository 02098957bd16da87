"""Content: what a report is about, as run folders and studies hold it."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from recemb.errors import RecembError
from recemb.files import read_json, read_yaml, reading
from recemb.results import read_results
from recemb.sweep.objectives import Objective
from recemb.sweep.paths import leaves, simplified
from recemb.sweep.storage import read_trials
from recemb.sweep.trials import COMPLETE, REFUSED, WAITING, Trial, front_of

Section = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyContent:
    """A study.

    Attributes:
        name: Of it, or of its folder.
        objectives: What was compared; the first is quality.
        trials: All that were drawn and not refused.
        refused: How many were.
        results: What the sweep wrote in the end; empty before.
    """

    name: str
    objectives: list[Objective]
    trials: list[Trial]
    refused: int
    results: Section

    @property
    def complete(self) -> list[Trial]:
        """Trials that were trained to their end."""
        return [one for one in self.trials if one.state == COMPLETE]

    def value(self, trial: Trial, label: str) -> float:
        """Return a number of a complete trial."""
        return trial.values[[one.label for one in self.objectives].index(label)]

    def front(self) -> list[Trial]:
        """Return the complete trials that none dominates, the best quality first."""
        return front_of(self.trials, self.objectives)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunContent:
    """A finished run of training.

    Attributes:
        name: Its folder, as short as tells it from the others.
        results: Of ``results.json``.
        settings: Of its configuration, by path.
        curves: Logged numbers by name: (epoch, value).
    """

    name: str
    results: Section
    settings: Section
    curves: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def table_bytes(self) -> int | None:
        """Bytes of the served tables."""
        tables = self.results.get("tables")
        return sum(one["bytes"] for one in tables.values()) if tables else None


def read_study(where: str, name: str | None) -> StudyContent:
    """Return a study from a storage's address or from the folder of a sweep.

    Raises:
        RecembError: If there is none.
    """
    if "://" in where:
        begun, trials = read_trials(where, name)
        folder = Path(begun["run"])
        labels = begun["objectives"]
    else:
        folder = Path(where)
        labels, trials = _trials_in(folder / "trials.json")
    done = folder / "results.json"
    results = read_results(done) if done.is_file() else {}
    kept = [one for one in trials if one.state not in (REFUSED, WAITING)]
    return StudyContent(
        name=results.get("study", name or folder.name),
        objectives=[_objective(one["label"], one["mode"]) for one in labels],
        trials=kept,
        refused=sum(one.state == REFUSED for one in trials),
        results=results,
    )


def _trials_in(path: Path) -> tuple[list[Section], list[Trial]]:
    """Return the objectives and the trials that a sweep has written."""
    content = read_json(path, "list of trials")
    with reading(path, "list of trials of a sweep", "repeat the sweep, which writes it anew"):
        labels = [
            {"label": str(one["label"]), "mode": one["mode"]} for one in content["objectives"]
        ]
        trials = [_trial(one) for one in content["trials"]]
        for one in trials:
            if one.state == COMPLETE and len([float(own) for own in one.values]) != len(labels):
                raise ValueError(f"trial {one.number} must have {len(labels)} values")
    return labels, trials


def _sections(path: Path) -> Section:
    """Return the configuration that a run has written."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise RecembError(f"{path}: a configuration must have sections; restore it, or remove it")
    return content


def _objective(label: str, mode: Literal["max", "min"]) -> Objective:
    return Objective({"bytes": "bytes", "latency_ms": "latency"}.get(label, "quality"), label, mode)


def _trial(saved: Mapping[str, Any]) -> Trial:
    curve = {int(epoch): value for epoch, value in saved["curve"].items()}
    return Trial(**{**saved, "curve": curve})


def read_runs(folders: Sequence[Path]) -> list[RunContent]:
    """Return finished runs, named by what tells their folders apart.

    Raises:
        RecembError: If a folder has no results.
    """
    found = []
    for folder in folders:
        done, config = folder / "results.json", folder / "config.yaml"
        if not done.is_file():
            raise RecembError(f"{folder}: there is no results.json in it; name run folders")
        settings = simplified(_sections(config)) if config.is_file() else {}
        sections = {
            name: settings[name]
            for name in ("seed_everything", "model", "data", "trainer")
            if name in settings
        }
        results = read_results(done)
        found.append(
            RunContent(
                name=_short(folder, folders),
                results=results,
                settings=leaves(sections),
                curves=_curves(folder, results.get("epochs", math.inf)),
            )
        )
    return found


def _short(folder: Path, folders: Sequence[Path]) -> str:
    """Return the fewest last parts of a folder that no other one has."""
    parts = folder.resolve().parts
    others = [one.resolve().parts for one in folders if one.resolve() != folder.resolve()]
    for count in range(1, len(parts) + 1):
        if all(one[-count:] != parts[-count:] for one in others):
            return "/".join(parts[-count:])
    return str(folder)


def _curves(folder: Path, epochs: float) -> dict[str, list[tuple[int, float]]]:
    """Return what validation logged after each epoch; a resumed run has several logs."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("csv*/metrics.csv")):
        remedy = "remove the file: the report goes without its curves"
        with reading(path, "log of a run", remedy), path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    # Restored weights are measured once more, after the last epoch.
                    if name.startswith("val/") and value and int(row["epoch"]) < epochs:
                        found.setdefault(name, {}).setdefault(int(row["epoch"]) + 1, float(value))
    return {name: sorted(own.items()) for name, own in found.items()}


def differences(runs: Sequence[RunContent]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ: by path, the value of each run (None: not set)."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: own for name, own in values.items() if any(one != own[0] for one in own)}
