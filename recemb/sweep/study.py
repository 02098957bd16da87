"""Study: trials in a storage of Optuna, shared by any number of processes.

Every trial that runs is held by a lock in the study's folder. The system frees the lock of a
process that dies, so a trial that the storage calls running and that nobody holds is taken over, as
the same trial, by whoever asks next: none is lost, none counted twice and none left running.

Draws depend on the seed and on what the study holds, not on the process that asks: a study that is
stopped and goes on draws what it would have drawn.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recemb.errors import RecembError
from recemb.locks import Lock, held
from recemb.sweep import front
from recemb.sweep.objectives import Objective
from recemb.sweep.rules import Rules
from recemb.sweep.space import Space
from recemb.sweep.storage import (
    SETTINGS,
    backend_of,
    optuna_module,
    reached,
    without_password,
)
from recemb.sweep.trials import COMPLETE, FAILED, REFUSED, WAITING, Trial, trial_of

if TYPE_CHECKING:
    import optuna


FIRST = "fixed_params"
"""By which Optuna tells a point that is tried first."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A trial that this process is to train.

    Attributes:
        number: Of the trial.
        drawn: Settings by path.
        lock: Held until the trial is told.
    """

    number: int
    drawn: dict[str, Any]
    lock: Lock = field(repr=False)


class Study:
    """A study in a storage.

    Args:
        storage: As SQLAlchemy names databases: ``sqlite:///study.db``.
        name: In the storage.
        objectives: What is compared.
        rules: How it draws and prunes.
        folder: Of its locks, which all processes of the study see.
        settings: What may not change in a study; it is begun with them.
        first: Points that are tried first.

    Raises:
        RecembError: If optuna is missing, the storage cannot be reached, or the study was begun
            with other settings.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        objectives: Sequence[Objective],
        rules: Rules,
        folder: Path,
        settings: Mapping[str, Any],
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.objectives, self.rules, self.folder = objectives, rules, folder
        rules.check(len(objectives))
        self.optuna = optuna_module()
        directions = ["maximize" if one.mode == "max" else "minimize" for one in objectives]
        with self._lock(), reached(storage):
            backend = backend_of(self.optuna, storage)
            begun = self.optuna.create_study(
                storage=backend, study_name=name, directions=directions, load_if_exists=True
            )
            trials = begun.get_trials(deepcopy=False)
            if SETTINGS not in begun.user_attrs and all(
                one.state.name == "WAITING" for one in trials
            ):
                # New, or left by a process that died right here.
                begun.set_metric_names([one.label for one in objectives])
                for point in first:
                    begun.enqueue_trial(dict(point), skip_if_exists=True)
                begun.set_user_attr(SETTINGS, dict(settings))
            self._study = self.optuna.load_study(
                study_name=name, storage=backend, pruner=self.rules.pruner_of(self.optuna)
            )
            _check_settings(storage, name, self._study.user_attrs.get(SETTINGS), settings)
        self.storage = storage

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with held(self.folder / "locks/study"):
            yield

    def claim(self, space: Space, total: int) -> Claim | None:
        """Return a trial to train: one that its process has left, else a new one; None at the end.

        Args:
            space: What is drawn.
            total: Trials of the study, over all processes and restarts; refused ones do not count.
        """
        with self._lock(), reached(self.storage):
            frozen = self._study.get_trials(deepcopy=False)
            states = self.optuna.trial.TrialState
            for one in frozen:
                if one.state == states.RUNNING:
                    lock = self._trial_lock(one.number)
                    if lock.take():
                        self._draw_for(one.number, total)
                        # The same draws: what it has drawn already is in the storage.
                        return Claim(one.number, space.draw(self._trial(one.number)), lock)
            if sum(_counts(one) for one in map(trial_of, frozen)) >= total:
                return None
            waiting = [one.number for one in frozen if one.state == states.WAITING]
            self._draw_for(waiting[0] if waiting else len(frozen), total)
            trial = self._study.ask()
            lock = self._trial_lock(trial.number)
            lock.take()
            return Claim(trial.number, space.draw(trial), lock)

    def _draw_for(self, number: int, total: int) -> None:
        self._study.sampler = self.rules.sampler_of(self.optuna, number, total)

    def tell(
        self,
        claim: Claim,
        state: str,
        values: Sequence[float] | None,
        attrs: Mapping[str, Any],
        excess: float | None = None,
    ) -> None:
        """End a trial.

        Args:
            claim: Its claim, which ends too.
            state: ``complete``, ``pruned``, ``failed`` or ``refused``.
            values: Of the objectives, of a complete trial.
            attrs: What else is recorded.
            excess: By how much it exceeds the constraints, at most 0 where it keeps them; None
                where there are none.
        """
        states = self.optuna.trial.TrialState
        found = {COMPLETE: states.COMPLETE, FAILED: states.FAIL}.get(state, states.PRUNED)
        # One step with the end of the lock: whoever saw it running must not find it free.
        with self._lock(), reached(self.storage):
            trial = self._trial(claim.number)
            for name, value in {**attrs, "ended": state}.items():
                trial.set_user_attr(name, value)
            if excess is not None:
                trial.set_constraint("budget", excess)
            self._study.tell(claim.number, values=values, state=found)
            claim.lock.give_back()

    def note(self, claim: Claim, **attrs: Any) -> None:
        """Record something of a trial that runs."""
        with reached(self.storage):
            for name, value in attrs.items():
                self._trial(claim.number).set_user_attr(name, value)

    def goes_on(self, claim: Claim, epoch: int, value: float, last: int) -> bool:
        """Record the quality after an epoch, from 1; return whether the trial is trained on.

        Points that are tried first are trained to their end: they are what others are measured
        by, and the first to come would end one another.

        Args:
            claim: Of the trial.
            epoch: From 1.
            value: The quality.
            last: Epochs that a trial has at most.
        """
        with reached(self.storage):
            trial = self._trial(claim.number)
            curve = {**trial.user_attrs.get("curve", {}), str(epoch): value}
            trial.set_user_attr("curve", curve)
            if len(self.objectives) == 1:
                # Optuna keeps curves of single objectives only; its dashboard draws them.
                trial.report(value, epoch)
            if FIRST in self._study.get_trials(deepcopy=False)[claim.number].system_attrs:
                return True
            if self.rules.pruner in ("median", "hyperband"):
                return not trial.should_prune()
            rungs = front.rungs(self.rules.first_epochs, self.rules.reduction, last)
            if self.rules.pruner == "none" or epoch not in rungs:
                return True
            points = {
                one.number: point
                for one in self.trials()
                if (point := self._point_at(one, epoch)) is not None
            }
            own = points.pop(claim.number)
            return front.survives(own, list(points.values()), self.rules.reduction)

    def _point_at(self, trial: Trial, epoch: int) -> front.Point | None:
        """Return what is known of a trial at an epoch, the smaller the better; None if nothing."""
        if epoch not in trial.curve:
            return None
        quality, *others = self.objectives
        known = [one.cost(trial.attrs["bytes"]) for one in others if one.name == "bytes"]
        return quality.cost(trial.curve[epoch]), *known

    def trials(self) -> list[Trial]:
        """Return all trials."""
        with reached(self.storage):
            return [trial_of(one) for one in self._study.get_trials(deepcopy=False)]

    def _trial(self, number: int) -> "optuna.trial.Trial":
        frozen = self._study.get_trials(deepcopy=False)[number]
        found = self.optuna.trial.Trial(self._study, frozen._trial_id)
        return cast("optuna.trial.Trial", found)

    def _trial_lock(self, number: int) -> Lock:
        return Lock(self.folder / "locks" / f"trial-{number:04d}")


def _counts(trial: Trial) -> bool:
    return trial.state not in (REFUSED, WAITING)


def _check_settings(
    storage: str, name: str, begun: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> None:
    shown = without_password(storage)
    if begun is None:
        raise RecembError(f"{shown}: study {name!r} was not begun by recemb; name another one")
    other = [key for key in now if begun.get(key) != now[key]]
    if other:
        raise RecembError(
            f"{shown}: study {name!r} was begun with another {' and '.join(other)}; repeat the "
            "command as it was, or give --study a new name"
        )
