"""Evolution: find the widths of features by selection, mutation and crossover.

A candidate is a width in 1..D for each feature. Every round keeps the fittest candidates as
parents, and adds mutants (each width drawn anew with a probability) and crosses (the first widths
of one parent and the last ones of another) of them. Candidates are tuples: what was scored is never
changed, and each is scored once.

Source: the search of Lyu et al., "OptEmbed", CIKM 2022, arXiv:2208.04482, without the faults of its
public code; it is that of Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform
Sampling", ECCV 2020, arXiv:1904.00420.
"""

import bisect
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recemb.errors import RecembError

Widths = tuple[int, ...]
EXCHANGED = 4
"""Widths that are exchanged at most to fill a budget."""
TRIES = 50
"""New candidates are drawn so often for each that is wanted before a round makes do with fewer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvolutionSettings:
    """Sizes of an evolution, as published."""

    rounds: int = 30
    """Rounds after the first population, at least 0."""
    population: int = 20
    """Candidates drawn at the start, at least 1."""
    parents: int = 15
    """The fittest, of which new ones are made; at least 1."""
    mutants: int = 10
    """Per round, at least 0."""
    crosses: int = 10
    """Per round, at least 0."""
    probability: float = 0.1
    """That a mutant's width is drawn anew, above 0 and at most 1."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name, least in (
            ("rounds", 0), ("population", 1), ("parents", 1), ("mutants", 0), ("crosses", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise RecembError(
                    f"evolution: {name} must be at least {least}, got {getattr(self, name)}"
                )
        if not 0 < self.probability <= 1:
            raise RecembError(
                f"evolution: probability must be above 0 and at most 1, got {self.probability}"
            )


@dataclass(slots=True)
class Evolution:
    """An evolution under way; see the module.

    Args:
        dims: The largest width of each feature.
        settings: Its sizes.
        seed: Of all draws.
        repair: Makes a candidate admissible, as by a budget.

    Attributes:
        scores: All candidates that were scored, with their fitness.
        round: Rounds done.
    """

    dims: Sequence[int]
    settings: EvolutionSettings
    seed: int
    repair: Callable[[Widths, random.Random], Widths] = lambda widths, _: widths
    scores: dict[Widths, float] = field(default_factory=dict)
    round: int = 0

    def __post_init__(self) -> None:
        self.settings.check()

    def fittest(self) -> list[Widths]:
        """Return all scored candidates, the fittest first; of equally fit ones the earliest."""
        return sorted(self.scores, key=lambda one: -self.scores[one])

    def step(self, fitness: Callable[[Widths], float]) -> None:
        """Do one round; the first draws the population.

        A round depends on the seed, its number and the scores alone, so that an evolution goes on
        from saved scores as if it had not been interrupted.
        """
        source = random.Random(f"{self.seed}/{self.round}")
        if not self.round:
            new = self._new(source, self.settings.population, self.draw)
        else:
            parents = self.fittest()[: self.settings.parents]
            new = self._new(
                source,
                self.settings.mutants,
                lambda source: self.mutant(source.choice(parents), source),
            )
            new += self._new(
                source,
                self.settings.crosses,
                lambda source: self.cross(source.choice(parents), source.choice(parents), source),
                new,
            )
        for one in new:
            self.scores[one] = fitness(one)
        self.round += 1

    @property
    def is_over(self) -> bool:
        """Whether all rounds are done."""
        return self.round > self.settings.rounds

    def draw(self, source: random.Random) -> Widths:
        """Return widths, each drawn from 1..D."""
        return tuple(source.randint(1, dim) for dim in self.dims)

    def mutant(self, parent: Widths, source: random.Random) -> Widths:
        """Return a candidate of which some widths are drawn anew, from 1..D."""
        return tuple(
            source.randint(1, dim) if source.random() < self.settings.probability else width
            for width, dim in zip(parent, self.dims, strict=True)
        )

    def cross(self, first: Widths, second: Widths, source: random.Random) -> Widths:
        """Return the widths of one parent up to a feature, and those of the other from it on."""
        if len(first) < 2:
            return first
        point = source.randint(1, len(first) - 1)
        return first[:point] + second[point:]

    def _new(
        self,
        source: random.Random,
        count: int,
        make: Callable[[random.Random], Widths],
        others: Sequence[Widths] = (),
    ) -> list[Widths]:
        """Return candidates that are not scored yet, each of them once."""
        found: list[Widths] = []
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            one = self.repair(make(source), source)
            if one not in self.scores and one not in found and one not in others:
                found.append(one)
        return found


def filled(
    widths: Widths, sizes: Sequence[Sequence[int]], budget: int, source: random.Random
) -> Widths:
    """Return widths changed until they fit a budget and fill it.

    Where all are too large, they are narrowed by one factor, so that what a parent or a cross says
    about features against each other is kept. Then they are made wider one by one while there is
    room; and, as features differ in what a width costs, one is made a little wider and another a
    little narrower where that leaves less room.

    Args:
        widths: To begin with.
        sizes: Bytes of each feature at each width, from 1, rising.
        budget: Bytes of all features together, at least those at width 1.
        source: Of the draws.
    """
    found = list(widths)

    def room() -> int:
        return budget - sum(own[width - 1] for own, width in zip(sizes, found, strict=True))

    if room() < 0:
        # The largest factor among those at which a width changes: one for each step of each width.
        factors = sorted({step / width for width in widths for step in range(1, width)})
        fits = bisect.bisect_left(factors, True, key=lambda one: _size(sizes, widths, one) > budget)
        found = _scaled(widths, factors[fits - 1] if fits else 0.0)
    order = source.sample(range(len(found)), len(found))
    while True:
        wider = [
            place
            for place in order
            if found[place] < len(sizes[place])
            and sizes[place][found[place]] - sizes[place][found[place] - 1] <= room()
        ]
        if not wider:
            break
        for place in wider:
            if sizes[place][found[place]] - sizes[place][found[place] - 1] <= room():
                found[place] += 1
    best = room()
    changes: tuple[tuple[int, int], ...] = ()
    for up, down in itertools.permutations(order, 2):
        for more, less in itertools.product(range(1, EXCHANGED + 1), repeat=2):
            tried = (up, more), (down, -less)
            left = _room_after(found, sizes, room(), *tried)
            if left is not None and left < best:
                best, changes = left, tried
    for place, change in changes:
        found[place] += change
    return tuple(found)


def _scaled(widths: Sequence[int], factor: float) -> list[int]:
    """Return widths times a factor, rounded down, at least 1."""
    return [max(1, int(width * factor + 1e-9)) for width in widths]


def _size(sizes: Sequence[Sequence[int]], widths: Sequence[int], factor: float) -> int:
    """Return the bytes of all features at scaled widths."""
    scaled = _scaled(widths, factor)
    return sum(own[width - 1] for own, width in zip(sizes, scaled, strict=True))


def affordable(sizes: Sequence[Sequence[int]], budget: int) -> list[int]:
    """Return the largest width of each feature that fits a budget while all others have width 1."""
    rest = budget - sum(own[0] for own in sizes)
    return [max(1, bisect.bisect_right(own, own[0] + rest)) for own in sizes]


def _room_after(
    widths: Sequence[int],
    sizes: Sequence[Sequence[int]],
    room: int,
    *changes: tuple[int, int],
) -> int | None:
    """Return what is left of the room after changes of widths; None where they cannot be."""
    for place, change in changes:
        width = widths[place] + change
        if not 1 <= width <= len(sizes[place]):
            return None
        room -= sizes[place][width - 1] - sizes[place][widths[place] - 1]
    return room if room >= 0 else None
