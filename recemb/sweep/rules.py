"""Rules: how a study draws, by Optuna's samplers, and what it ends early."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from recemb.errors import RecembError
from recemb.packages import needed

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "nsga2", "gp", "random")
PRUNERS = ("halving", "median", "hyperband", "none")


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

    def check(self, num_objectives: int) -> None:
        """Check that they fit a study, and that what they need is installed.

        Raises:
            RecembError: If not.
        """
        if num_objectives > 1 and self.pruner in ("median", "hyperband"):
            raise RecembError(
                f"--pruner: {self.pruner} compares one number; take halving or none for "
                f"{num_objectives} objectives"
            )
        if self.pruner == "hyperband" and not (self.reduction >= 2 and self.reduction % 1 == 0):
            raise RecembError(
                f"--pruner: hyperband needs a whole --reduction of at least 2, got {self.reduction}"
            )
        if self.sampler == "gp":
            needed("scipy", "--sampler gp")

    def sampler_of(self, library: Any, number: int, total: int) -> "optuna.samplers.BaseSampler":
        """Return the sampler for a trial by its number, of so many in all.

        What is drawn at random, and what the model of tpe begins with, is spread over the ranges.
        """
        # Here, because it imports optuna.
        from recemb.sweep.spread import SpreadSampler

        # A hash: the first numbers of generators whose seeds follow one another are nearly equal.
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        samplers = library.samplers
        first = max(5, total // 4)
        if self.sampler == "random" or (self.sampler == "tpe" and number < first):
            return SpreadSampler(self.seed, number)
        make: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
            "tpe": lambda: samplers.TPESampler(
                seed=seed,
                multivariate=True,
                group=True,
                constant_liar=True,
                n_startup_trials=first,
            ),
            "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=max(8, total // 5)),
            "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
        }
        return make[self.sampler]()

    def pruner_of(self, library: Any) -> "optuna.pruners.BasePruner":
        """Return Optuna's part of what ends trials early."""
        pruners = library.pruners
        first, reduction = self.first_epochs, int(self.reduction)
        make: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
            "median": lambda: pruners.MedianPruner(n_warmup_steps=first - 1),
            "hyperband": lambda: pruners.HyperbandPruner(
                min_resource=first, reduction_factor=reduction
            ),
        }
        return make.get(
            self.pruner, lambda: cast("optuna.pruners.BasePruner", pruners.NopPruner())
        )()
