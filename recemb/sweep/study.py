"""Study: trials in a storage of Optuna, shared by any number of processes.

Every trial that runs is held by a lock in the study's folder. The system frees the lock of a
process that dies, so a trial that the storage calls running and that nobody holds is taken over, as
the same trial, by whoever asks next: none is lost, none counted twice and none left running.

Draws depend on the seed and on what the study holds, not on the process that asks: a study that is
stopped and goes on draws what it would have drawn.
"""

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from recemb.errors import RecembError
from recemb.sweep import front
from recemb.sweep.locks import Lock, held
from recemb.sweep.objectives import Objective
from recemb.sweep.space import Space

if TYPE_CHECKING:
    import optuna

COMPLETE, PRUNED, FAILED, REFUSED = "complete", "pruned", "failed", "refused"
RUNNING, WAITING = "running", "waiting"
SAMPLERS = ("tpe", "nsga2", "gp", "random")
PRUNERS = ("halving", "median", "hyperband", "none")
SETTINGS = "recemb"
"""The attribute of a study that says how it was begun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a study holds of a trial.

    Attributes:
        number: From 0.
        state: ``complete``; ``pruned``, trained for a while; ``failed``; ``refused`` before it was
            trained; ``running`` or ``waiting``.
        params: What was drawn, by name.
        values: Of the objectives, where it is complete.
        curve: Quality by epoch, from 1.
        attrs: What else was recorded: ``config``, ``bytes``, ``reason``, ``seconds``, ...
    """

    number: int
    state: str
    params: dict[str, Any]
    values: list[float]
    curve: dict[int, float]
    attrs: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a study draws and prunes.

    Attributes:
        sampler: One of :data:`SAMPLERS`.
        pruner: One of :data:`PRUNERS`; the two of Optuna know one objective only.
        first_epochs: After how many epochs trials are first compared.
        reduction: One trial in so many goes on, and for so many times the epochs.
        seed: Of the draws.
    """

    sampler: str
    pruner: str
    first_epochs: int
    reduction: float
    seed: int


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
        if len(objectives) > 1 and rules.pruner in ("median", "hyperband"):
            raise RecembError(
                f"--pruner: {rules.pruner} compares one number; take halving or none for "
                f"{len(objectives)} objectives"
            )
        self.optuna = _optuna()
        if rules.sampler == "gp":
            _require_scipy()
        directions = ["maximize" if one.mode == "max" else "minimize" for one in objectives]
        with self._lock(), _reached(storage):
            backend = _backend(self.optuna, storage)
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
                study_name=name, storage=backend, pruner=self._pruner()
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
        with self._lock(), _reached(self.storage):
            frozen = self._study.get_trials(deepcopy=False)
            for one in frozen:
                if one.state == self.optuna.trial.TrialState.RUNNING:
                    lock = self._trial_lock(one.number)
                    if lock.take():
                        # The same draws: what it has drawn already is in the storage.
                        return Claim(one.number, space.draw(self._trial(one.number)), lock)
            if sum(_counts(one) for one in map(_trial_of, frozen)) >= total:
                return None
            self._study.sampler = self._sampler(len(frozen), total)
            trial = self._study.ask()
            lock = self._trial_lock(trial.number)
            lock.take()
            return Claim(trial.number, space.draw(trial), lock)

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
        with self._lock(), _reached(self.storage):
            trial = self._trial(claim.number)
            for name, value in {**attrs, "ended": state}.items():
                trial.set_user_attr(name, value)
            if excess is not None:
                trial.set_constraint("budget", excess)
            self._study.tell(claim.number, values=values, state=found)
            claim.lock.give_back()

    def note(self, claim: Claim, **attrs: Any) -> None:
        """Record something of a trial that runs."""
        with _reached(self.storage):
            for name, value in attrs.items():
                self._trial(claim.number).set_user_attr(name, value)

    def goes_on(self, claim: Claim, epoch: int, value: float, last: int) -> bool:
        """Record the quality after an epoch, from 1; return whether the trial is trained on.

        Args:
            claim: Of the trial.
            epoch: From 1.
            value: The quality.
            last: Epochs that a trial has at most.
        """
        with _reached(self.storage):
            trial = self._trial(claim.number)
            curve = {**trial.user_attrs.get("curve", {}), str(epoch): value}
            trial.set_user_attr("curve", curve)
            if len(self.objectives) == 1:
                # Optuna keeps curves of single objectives only; its dashboard draws them.
                trial.report(value, epoch)
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
        with _reached(self.storage):
            return [_trial_of(one) for one in self._study.get_trials(deepcopy=False)]

    def _trial(self, number: int) -> "optuna.trial.Trial":
        frozen = self._study.get_trials(deepcopy=False)[number]
        found = self.optuna.trial.Trial(self._study, frozen._trial_id)
        return cast("optuna.trial.Trial", found)

    def _trial_lock(self, number: int) -> Lock:
        return Lock(self.folder / "locks" / f"trial-{number:04d}")

    def _sampler(self, drawn: int, total: int) -> "optuna.samplers.BaseSampler":
        """Return the sampler for a study that has drawn so many trials."""
        seed = (self.rules.seed * 100_003 + drawn) % 2**32
        samplers = self.optuna.samplers
        make: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
            "tpe": lambda: samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=max(5, total // 4),
            ),
            "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=max(8, total // 5)),
            "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
            "random": lambda: samplers.RandomSampler(seed=seed),
        }
        return make[self.rules.sampler]()

    def _pruner(self) -> "optuna.pruners.BasePruner":
        pruners = self.optuna.pruners
        first, reduction = self.rules.first_epochs, round(self.rules.reduction)
        make: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
            "median": lambda: pruners.MedianPruner(n_warmup_steps=first - 1),
            "hyperband": lambda: pruners.HyperbandPruner(
                min_resource=first, reduction_factor=reduction
            ),
        }
        return make.get(
            self.rules.pruner, lambda: cast("optuna.pruners.BasePruner", pruners.NopPruner())
        )()


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return the complete trials that none dominates, the best quality first."""
    done = {one.number: one for one in trials if one.state == COMPLETE}
    points = {
        number: tuple(own.cost(value) for own, value in zip(objectives, one.values, strict=True))
        for number, one in done.items()
    }
    return [done[number] for number in front.front(points)]


def read_trials(storage: str, name: str | None) -> tuple[dict[str, Any], list[Trial]]:
    """Return how a study in a storage was begun, and its trials.

    Args:
        storage: As SQLAlchemy names databases.
        name: Of the study; None where there is only one.

    Raises:
        RecembError: If there is no such study, or it is not one of recemb.
    """
    optuna = _optuna()
    with _reached(storage):
        backend = _backend(optuna, storage)
        known = sorted(one.study_name for one in optuna.get_all_study_summaries(backend))
        if name is None and len(known) == 1:
            name = known[0]
        if name not in known:
            raise RecembError(f"{storage}: --study must be one of {known}, got {name!r}")
        study = optuna.load_study(study_name=name, storage=backend)
        begun = study.user_attrs.get(SETTINGS)
        if begun is None:
            raise RecembError(f"{storage}: study {name!r} was not begun by recemb")
        return dict(begun), [_trial_of(one) for one in study.get_trials(deepcopy=False)]


def _counts(trial: Trial) -> bool:
    return trial.state not in (REFUSED, WAITING)


def _trial_of(frozen: "optuna.trial.FrozenTrial") -> Trial:
    attrs = dict(frozen.user_attrs)
    curve = {int(epoch): value for epoch, value in attrs.pop("curve", {}).items()}
    ended = attrs.pop("ended", None)
    name = frozen.state.name.lower()
    if name in ("pruned", "fail"):
        name = ended or {"fail": FAILED}.get(name, PRUNED)
    return Trial(
        number=frozen.number,
        state=name,
        params=dict(frozen.params),
        values=list(frozen.values or []),
        curve=curve,
        attrs=attrs,
    )


def _optuna() -> Any:
    """Return optuna.

    Raises:
        RecembError: If it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise RecembError(
            "sweeps need optuna, which is not installed; pip install -e '.[sweep]'"
        ) from None
    optuna.logging.set_verbosity(logging.ERROR)
    # Names of metrics, and trees of parameters that depend on others.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def _require_scipy() -> None:
    if importlib.util.find_spec("scipy") is None:
        raise RecembError(
            "--sampler gp needs scipy, which is not installed; pip install scipy, or take tpe"
        )


def _backend(library: Any, storage: str) -> "optuna.storages.BaseStorage":
    import sqlalchemy

    # Several processes write: SQLite waits for its turn, long on a busy machine.
    options = {"connect_args": {"timeout": 120}} if storage.startswith("sqlite") else {}
    try:
        sqlalchemy.engine.make_url(storage)
    except ValueError as error:
        raise sqlalchemy.exc.ArgumentError(str(error)) from error
    return cast(
        "optuna.storages.BaseStorage", library.storages.RDBStorage(storage, engine_kwargs=options)
    )


@contextmanager
def _reached(storage: str) -> Iterator[None]:
    """Say on one line that a storage cannot be reached."""
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        words = " ".join(str(cause).split())[:200]
        raise RecembError(
            f"--storage: {storage} cannot be reached ({words}); it must be such as "
            "sqlite:///study.db in a folder that is there, or the address of a database"
        ) from error


def _check_settings(
    storage: str, name: str, begun: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> None:
    if begun is None:
        raise RecembError(f"{storage}: study {name!r} was not begun by recemb; name another one")
    other = [key for key in now if begun.get(key) != now[key]]
    if other:
        raise RecembError(
            f"{storage}: study {name!r} was begun with another {' and '.join(other)}; repeat the "
            "command as it was, or give --study a new name"
        )
