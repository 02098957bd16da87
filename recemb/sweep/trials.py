"""Trials: what a study holds of each, and which of them are the front."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from recemb.sweep import front
from recemb.sweep.objectives import Objective

if TYPE_CHECKING:
    import optuna

COMPLETE, PRUNED, FAILED, REFUSED = "complete", "pruned", "failed", "refused"
RUNNING, WAITING = "running", "waiting"


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


def trial_of(frozen: "optuna.trial.FrozenTrial") -> Trial:
    """Return a trial of Optuna's as what it means here."""
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
        # Optuna gives a pruned one the last number that it has reported.
        values=list(frozen.values or []) if name == COMPLETE else [],
        curve=curve,
        attrs=attrs,
    )


def front_of(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Return the complete trials that none dominates, the best quality first."""
    done = {one.number: one for one in trials if one.state == COMPLETE}
    points = {
        number: tuple(own.cost(value) for own, value in zip(objectives, one.values, strict=True))
        for number, one in done.items()
    }
    return [done[number] for number in front.front(points)]
