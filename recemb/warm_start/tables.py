"""Tables: what each table of a new model takes over from a checkpoint, the most exact first.

``unchanged``: configuration and ids are as they were; everything is copied. ``moved``: rows go to
where the same ids read them now (:mod:`recemb.warm_start.moving`), learned modules are copied.
``fitted``: the table, of whatever kind, learns the vectors that ids had
(:mod:`recemb.warm_start.fitting`); its optimizer state is fresh. ``fresh``: nothing is known.
Whether moving is right is measured by the vectors, and not assumed of kinds.

A table takes over from the table that its features read in the checkpoint, so tables may be
renamed, joined and divided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from recemb import processes
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import Adam
from recemb.schema import Schema
from recemb.tables.kind import IdSpace, TableConfig
from recemb.warm_start.fitting import EXACT, Lesson, Student
from recemb.warm_start.ids import Space, TrainingIds, pair
from recemb.warm_start.moving import (
    Moves,
    find_moves,
    is_identity,
    moved_entries,
    moved_state,
    moved_values,
)
from recemb.warm_start.reading import TableReader, lookups_of

Level = Literal["unchanged", "moved", "fitted", "fresh"]
PROGRESS_IDS = 100_000
"""Tables of so many ids show a bar while they are fitted."""


@dataclass(kw_only=True, slots=True)
class Kept:
    """What a table has taken over.

    Attributes:
        level: How exactly.
        known: Raw ids whose vectors were taken over.
        num_ids: Raw ids of the new table (where they are not numbered: of the training file, as
            far as it was read).
        dropped: Raw ids that only the old table had.
        error: Weighted root mean square of what is wrong in the vectors of known ids, relative to
            the vectors.
        optimizer_state: Whether the rows optimizer's state was taken over too.
        notes: What could not be kept, and why.
    """

    level: Level = "fresh"
    known: int = 0
    num_ids: int = 0
    dropped: int = 0
    error: float = 0.0
    optimizer_state: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """The embeddings of the checkpoint or of the new model, and what their ids mean."""

    embeddings: Embeddings
    schema: Schema
    state: Mapping[str, Tensor]
    """Of the rows optimizer; empty where there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where the ids of an id space of a new table were before."""

    space: IdSpace
    feature: str
    old_table: str
    old_space: IdSpace


@dataclass(frozen=True, slots=True)
class Changes:
    """What the rows store gets once all tables are done, under its own names."""

    entries: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def keep_tables(old: Side, new: Side, training_ids: TrainingIds | None) -> dict[str, Kept]:
    """Let every table of ``new`` take over what it can of ``old``; return what that was.

    Args:
        old: The checkpoint's, over a local store.
        new: Freshly initialised, over any store; its rows, learned modules and optimizer state
            change. Where there are several processes, all call this and do the same.
        training_ids: Lists raw ids where no vocabulary does.
    """
    changes, rows = Changes(), new.embeddings.rows
    kept = {
        table: _Takeover(old, new, table, training_ids, changes).run()
        for table in new.embeddings.tables
    }
    if changes.entries:
        rows.load_tables({**rows.tables(), **changes.entries})
    if any(one.optimizer_state for one in kept.values()):
        # The state goes on, and so does the count of steps that corrects young moments.
        step = {"step": old.state["step"]}
        rows.load_optimizer_state({**rows.optimizer_state(), **changes.state, **step})
    return kept


class _Takeover:
    """That of one table."""

    def __init__(
        self,
        old: Side,
        new: Side,
        table: str,
        training_ids: TrainingIds | None,
        changes: Changes,
    ) -> None:
        self.old, self.new, self.table = old, new, table
        self.training_ids, self.changes = training_ids, changes
        self.config = new.embeddings.tables[table]
        self.spaces = new.embeddings.spaces[table]
        self.physical = list(new.embeddings.physical_of[table].values())
        self.kept = Kept()

    def run(self) -> Kept:
        """Take over what can be; return what that was."""
        origins = [one for one in map(self._origin, self.spaces) if one is not None]
        origins, is_inner = self._comparable(origins)
        if not origins:
            return self.kept
        is_same = is_inner and self._is_same(origins)
        # Counts alone may decide which ids are frequent, and so who reads what.
        if is_same and all(_same_counts(one.old_space, one.space) for one in origins):
            return self._copy()
        lessons = self._lessons(origins)
        if not self.kept.known:
            self.kept.notes.append("none of its ids is known")
            return self.kept
        names = list(dict.fromkeys(one.old_table for one in origins))
        self.teacher = TableReader(self.old.embeddings, names, through_projection=not is_inner)
        self.reader = TableReader(
            self.new.embeddings,
            [self.table],
            through_projection=not is_inner,
            make_store=lambda physical: LocalRowsStore(physical, Adam()),
            change=_in_fp32,
        )
        values = {name: self.new.embeddings.rows.values(name).cpu() for name in self.physical}
        self._assign(values)
        student = Student(self.reader, self.table, self.teacher, lessons)
        fresh, before = student.state(), student.error()
        moves = self._moves(lessons, values)
        if moves is not None:
            error = student.error()
            if error <= EXACT:
                return self._copy() if is_same and is_identity(moves) else self._move(moves, values)
            if error > before:
                student.load(fresh)
        with torch.enable_grad():
            student.learn(self.kept.known >= PROGRESS_IDS and not processes.rank())
        return self._store_fitted(student)

    # What is known of it

    def _origin(self, space: IdSpace) -> Origin | None:
        """Return where the ids of a space were: where a feature of the same name read them."""
        before = {one.name: one for one in self.old.embeddings.features}
        readers = [
            one.name
            for one in self.new.embeddings.features
            if (one.config.table, one.space.name) == (self.table, space.name)
        ]
        both = [name for name in readers if name in before]
        # If they read several tables, the one of this name.
        both.sort(key=lambda name: before[name].config.table != self.table)
        if not both:
            self.kept.notes.append(f"feature {readers[0]!r} is not in the checkpoint")
            return None
        feature = before[both[0]]
        return Origin(
            space=space,
            feature=feature.name,
            old_table=feature.config.table,
            old_space=feature.space,
        )

    def _comparable(self, origins: Sequence[Origin]) -> tuple[list[Origin], bool]:
        """Return the origins whose vectors are as wide, and whether before the projection."""
        inner, seen = {}, {}
        for one in origins:
            before = lookups_of(self.old.embeddings, one.old_table, one.old_space.name)
            now = lookups_of(self.new.embeddings, self.table, one.space.name)
            config = self.old.embeddings.tables[one.old_table]
            inner[one.space.name] = config.vector_dim(before), self.config.vector_dim(now)
            seen[one.space.name] = config.output_dim(before), self.config.output_dim(now)
        tables = {one.old_table for one in origins}
        projects = {self.old.embeddings.tables[name].project for name in tables}
        self.keeps_projection = (
            self.config.project is not None
            and len(tables) == 1
            and projects == {self.config.project}
            and all(before == now for before, now in inner.values())
        )
        is_seen = any(before == now for before, now in seen.values())
        is_inner = (
            self.keeps_projection or not is_seen or {*projects, self.config.project} == {None}
        )
        widths = inner if is_inner else seen
        for before, now in dict.fromkeys(seen.values()):
            if before != now:
                self.kept.notes.append(f"the model saw {before} elements of it and sees {now}")
        fitting = [one for one in origins if len(set(widths[one.space.name])) == 1]
        if fitting and is_inner and self.config.project is not None and not self.keeps_projection:
            self.kept.notes.append("its projection is fresh")
        return fitting, is_inner

    def _is_same(self, origins: Sequence[Origin]) -> bool:
        """Return whether configuration and ids are as they were."""
        old, new = self.old.embeddings, self.new.embeddings
        if self.table not in old.tables or not _is_alike(old.tables[self.table], self.config):
            return False
        here = [space.name for space in self.spaces]
        if [space.name for space in old.spaces[self.table]] != here:
            return False
        if [(one.old_table, one.old_space.name) for one in origins] != [
            (self.table, name) for name in here
        ]:
            return False
        return all(
            Space.of(self.old.schema, one.feature).is_same(Space.of(self.new.schema, one.feature))
            and lookups_of(old, self.table, one.space.name)
            == lookups_of(new, self.table, one.space.name)
            for one in origins
        )

    def _lessons(self, origins: Sequence[Origin]) -> list[Lesson]:
        lessons = []
        for space in self.spaces:
            self.kept.num_ids += 0 if space.counts_V is None else len(space.counts_V)
        for one in origins:
            before, now = (Space.of(side.schema, one.feature) for side in (self.old, self.new))
            try:
                pairs = pair(before, now, one.feature, self.training_ids)
            except RecembError as reason:
                self.kept.notes.append(str(reason))
                continue
            self.kept.num_ids += pairs.num_ids if one.space.counts_V is None else 0
            self.kept.known += pairs.num_known
            self.kept.dropped += pairs.num_dropped
            lessons.append(
                Lesson(
                    space=one.space,
                    old_table=one.old_table,
                    old_space=one.old_space,
                    pairs=pairs,
                )
            )
        return lessons

    # Taking it over

    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, values_RD in values.items():
            self.reader.embeddings.rows.assign(name, values_RD)

    def _copy(self) -> Kept:
        """Take over everything as it is."""
        before = self.old.embeddings
        stored = before.rows.tables()
        self.changes.entries.update({one: stored[one] for one in before.entries(self.table)})
        own = self.new.embeddings.dense_of(self.table)
        for source, target in zip(before.dense_of(self.table), own, strict=False):
            if _shapes(source) == _shapes(target):  # a projection may be of another width
                target.load_state_dict(source.state_dict())
        wanted = self._state_entries()
        self._keep_state({name: self.old.state[name] for name in wanted if name in self.old.state})
        numbers = [len(one.counts_V) for one in self.spaces if one.counts_V is not None]
        self.kept.level = "unchanged"
        self.kept.known = self.kept.num_ids = sum(numbers)
        return self.kept

    def _moves(self, lessons: Sequence[Lesson], values: Mapping[str, Tensor]) -> Moves | None:
        """Move rows and copy what is learned, in the student; None where there is no way to."""
        own, tables = self.reader.embeddings, {one.old_table for one in lessons}
        target = own.dense_of(self.table)
        for name in tables:
            source = self.teacher.embeddings.dense_of(name)
            if len(tables) > 1 and (source or target):
                return None
            if [_shapes(one) for one in source] != [_shapes(one) for one in target]:
                return None
        moves = find_moves(self.teacher, self.reader, self.table, lessons)
        if moves is None:
            return None
        rows = self.old.embeddings.rows
        there = {one.old: rows.values(one.old) for own_moves in moves.values() for one in own_moves}
        self._assign({name: moved_values(values[name], moves[name], there) for name in values})
        for name in tables:
            for module, learned in zip(target, self.teacher.embeddings.dense_of(name), strict=True):
                module.load_state_dict(learned.state_dict())
        return moves

    def _move(self, moves: Moves, values: Mapping[str, Tensor]) -> Kept:
        """Store what has been moved."""
        before, rows = self.old.embeddings.rows, self.new.embeddings.rows
        stored, is_rounded = before.tables(), False
        for name in self.physical:
            entries = moved_entries(
                (name, rows.physical[name]), values[name], moves[name], before.physical, stored
            )
            if entries is None:
                self._store_rows(name)
                is_rounded = self.config.precision != "fp32"
            else:
                self.changes.entries.update(entries)
        if is_rounded:
            self.kept.notes.append(f"rows are rounded to {self.config.precision} anew")
        self._store_learned()
        self._keep_state(moved_state(self._state_entries(), moves, self.old.state))
        self.kept.level = "moved"
        return self.kept

    def _store_fitted(self, student: Student) -> Kept:
        for name in self.physical:
            self._store_rows(name)
        self._store_learned()
        self.kept.level = "fitted"
        # As it is stored, in whatever precision.
        self._assign({name: self.new.embeddings.rows.values(name).cpu() for name in self.physical})
        self.kept.error = student.error()
        return self.kept

    def _store_rows(self, name: str) -> None:
        rows = self.new.embeddings.rows
        # Processes on other machines may have computed other last bits.
        values_RD = processes.from_first(self.reader.embeddings.rows.values(name))
        rows.assign(name, values_RD.to(rows.values(name).device))

    def _store_learned(self) -> None:
        """Store the learned module and, where it was compared through it, the projection."""
        own, new = self.reader.embeddings, self.new.embeddings
        for module, target in zip(own.dense_of(self.table), new.dense_of(self.table), strict=False):
            target.load_state_dict(processes.from_first(module.state_dict()))
        if self.keeps_projection:
            (name,) = self.teacher.tables
            source = self.old.embeddings.dense_of(name)[-1]
            new.dense_of(self.table)[-1].load_state_dict(source.state_dict())

    def _state_entries(self) -> dict[str, Tensor]:
        """Return the rows optimizer's state of this table."""
        return {
            name: one
            for name, one in self.new.state.items()
            if name.rpartition("/")[0] in self.physical
        }

    def _keep_state(self, state: Mapping[str, Tensor]) -> None:
        """Take state over if it is all there (and there is any)."""
        wanted = {name: one.shape for name, one in self._state_entries().items()}
        if wanted and {name: one.shape for name, one in state.items()} == wanted:
            self.changes.state.update(state)
            self.kept.optimizer_state = True


def _in_fp32(config: TableConfig) -> TableConfig:
    """Return a table's configuration with rows as they are while they are fitted."""
    return replace(config, precision="fp32", step="table")


def _is_alike(old: TableConfig, new: TableConfig) -> bool:
    """Return whether rows and learned modules mean the same in both."""
    unimportant = {"sharding": None, "init_scale": 1.0, "project": None}
    return replace(old, **unimportant) == replace(new, **unimportant)  # type: ignore[arg-type]


def _same_counts(old: IdSpace, new: IdSpace) -> bool:
    if old.counts_V is None or new.counts_V is None:
        return old.counts_V is new.counts_V
    return torch.equal(old.counts_V, new.counts_V)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: one.shape for name, one in module.state_dict().items()}
