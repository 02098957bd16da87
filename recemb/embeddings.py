"""Embeddings: where table kinds and the rows store meet.

    ids --encode--> row numbers --gather--> row vectors --compose--> one vector per id --pool--> bag

Planning (which features go through which encode, gather and pool together) happens once, in the
constructor; a forward pass only executes the plan, group by group
(:mod:`recemb.feature_group`).

Shapes: B samples, D elements per vector.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from recemb.asked import check_weights
from recemb.errors import RecembError
from recemb.feature_group import FeatureGroup, Member
from recemb.features import ResolvedFeature, check_features
from recemb.jagged import Ids, Vectors, sizes_of
from recemb.physical import PhysicalTable
from recemb.rows.optimizers import UpdateRule
from recemb.rows.store import RowsStore
from recemb.tables.kind import Handover, IdSpace, TableConfig, TableContent, TableFeature

StoreFactory = Callable[[dict[str, PhysicalTable]], RowsStore]
"""Makes the rows store for the physical tables that the kinds ask for."""


class Embeddings(nn.Module):
    """Turn the ids of all features into vectors.

    Args:
        tables: Table configurations by name.
        features: Which features read them (:func:`recemb.features.resolve_features`).
        make_store: Called once with every physical table.

    Rows get their gradients in every mode, as those of ``nn.Embedding`` do, unless they are frozen
    (``requires_grad_(False)``) or read under ``no_grad``. What the mode decides is what a kind does
    in training alone: admitting ids (dynamic), drawing widths (thresholded), adding to the loss.

    Rows are stepped by a :class:`recemb.optim.RowsOptimizer`, or by :meth:`step` after each batch,
    or after the last of those that are accumulated.

    Raises:
        RecembError: If settings are out of range, if features and tables do not fit, or if two
            features of one id space differ in its size.

    Attributes:
        tables: The configurations, solved: every budget has become a size.
        rows: The rows store. After a backward pass, call :meth:`step`, which steps it.
        dims: Elements of each feature's vector.
        spaces: The id spaces that read each table.
        physical_of: Per table, its parts under the names that the rows store knows them by.
    """

    def __init__(
        self,
        tables: Mapping[str, TableConfig],
        features: Sequence[ResolvedFeature],
        make_store: StoreFactory,
    ) -> None:
        super().__init__()
        check_features(features, tables)
        self.features = tuple(features)
        self.make_store = make_store
        self.spaces = {name: _spaces(name, features) for name in tables}
        self.tables = {
            name: config.solve(_where(name), self.spaces[name], _lookups(name, features))
            for name, config in tables.items()
        }
        parts = {
            name: config.physical_tables(_where(name), self.spaces[name])
            for name, config in self.tables.items()
        }
        self.physical_of = {
            name: _physical_names(name, list(named)) for name, named in parts.items()
        }
        _check_names(self.physical_of)
        self.rows = make_store(
            {
                physical: replace(parts[name][part], reads=self._reads(name, part))
                for name, named in self.physical_of.items()
                for part, physical in named.items()
            }
        )
        self.learned = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        for name, config in self.tables.items():
            learned = config.learned(_where(name), self.spaces[name])
            if learned is not None:
                self.learned[_key(name)] = learned
            if config.project is not None:
                self.projections[_key(name)] = _projection(name, config, features)
        self.dims = {
            feature.name: self.tables[feature.config.table].output_dim(feature.config.lookups)
            for feature in features
        }
        members: dict[Hashable, list[Member]] = {}
        for feature in features:
            member = self._member(feature, parts[feature.config.table])
            forms = tuple(self.rows.storage_key(name) for name in member.physical)
            members.setdefault((type(member.feature.config), forms), []).append(member)
        self.groups = nn.ModuleList(FeatureGroup(group) for group in members.values())

    def serving_bytes(self) -> dict[str, int]:
        """Return the bytes of each served table, by its configuration alone."""
        return {
            name: config.serving_bytes(
                _where(name), self.spaces[name], _lookups(name, self.features)
            )
            for name, config in self.tables.items()
        }

    def _reads(self, table: str, part: str) -> float:
        """Return how many rows of a part a sample reads on average."""
        config = self.tables[table]
        reads = 0.0
        for feature in self.features:
            if feature.config.table == table:
                read = config.parts_of(feature.space)
                if read is None or part in read:
                    asked = feature.ids_per_sample * config.share_of_reads(
                        part, feature.space, self.spaces[table]
                    )
                    reads += asked * config.reads_per_id(part, feature.config.lookups)
        return reads

    def _member(self, feature: ResolvedFeature, parts: Mapping[str, PhysicalTable]) -> "Member":
        table = feature.config.table
        config, spaces = self.tables[table], self.spaces[table]
        read = config.parts_of(feature.space)
        read = tuple(parts) if read is None else read
        physical = tuple(self.physical_of[table][part] for part in read)
        table_feature = TableFeature(
            name=feature.name,
            table=table,
            config=config,
            space=feature.space,
            spaces=tuple(spaces),
            lookups=feature.config.lookups,
            parts=tuple(parts[part] for part in read),
            base_rows=tuple(self.rows.base_row(name) for name in physical),
            reads=tuple(config.reads_per_id(part, feature.config.lookups) for part in read),
            learned=self.learned_of(table),
        )
        form = feature.config.pooling if feature.is_list else "one"
        projection = self.projections[_key(table)] if config.project is not None else None
        return Member(table_feature, form, physical, projection)

    def learned_of(self, table: str) -> nn.Module | None:
        """Return the learned module of a table, if it has one."""
        key = _key(table)
        if key not in self.learned:  # a ModuleDict has no get()
            return None
        return self.learned[key]

    def dense_of(self, table: str) -> list[nn.Module]:
        """Return the learned module and the projection of a table, as far as it has them."""
        key = _key(table)
        return [modules[key] for modules in (self.learned, self.projections) if key in modules]

    def entries(self, table: str) -> list[str]:
        """Return the names of what the rows store keeps of a table."""
        physical = set(self.physical_of[table].values())
        return [
            entry
            for entry in self.rows.entry_bytes()
            if entry in physical or entry.rpartition(".")[0] in physical
        ]

    def content(self, table: str) -> TableContent:
        """Return a table with its rows and its learned module, as they are and not copied."""
        values = {
            part: self.rows.values(physical) for part, physical in self.physical_of[table].items()
        }
        return TableContent(
            config=self.tables[table],
            values=values,
            learned=self.learned_of(table),
            projection_OD=self._projection_of(table),
        )

    def _projection_of(self, table: str) -> Tensor | None:
        key = _key(table)
        return cast(nn.Linear, self.projections[key]).weight if key in self.projections else None

    def converted(self, contents: Mapping[str, TableContent]) -> "Embeddings":
        """Return embeddings of the same features in which some tables have another content.

        Rows of the other tables, learned modules and projections are carried over.

        Args:
            contents: By table; solved configurations.
        """
        tables = {
            name: contents[name].config if name in contents else config
            for name, config in self.tables.items()
        }
        with torch.random.fork_rng():
            new = Embeddings(tables, self.features, self.make_store)
        stored = self.rows.tables()
        entries = new.rows.tables()
        for name in tables:
            if name in contents:
                new.fill(name, contents[name], stored)
            else:
                for entry in new.entries(name):
                    entries[entry].copy_(stored[entry])
                _copy_state(self.learned_of(name), new.learned_of(name))
            projection_OD = new._projection_of(name)
            is_given = name in contents and contents[name].projection_OD is not None
            if projection_OD is not None and not is_given:
                source = self._projection_of(name)
                assert source is not None
                projection_OD.data.copy_(source)
        return new.train(self.training)

    def fill(self, table: str, content: TableContent, stored: Mapping[str, Tensor]) -> None:
        """Let a table hold a content.

        Args:
            table: Its name.
            content: Of its configuration.
            stored: What rows that the content selects are selected from, by physical table, with
                what scales they have.
        """
        entries = self.rows.tables()
        for part, physical in self.physical_of[table].items():
            if part in content.selected:
                _select(stored, entries, physical, content.selected[part])
            else:
                self.rows.assign(physical, content.values[part])
        _copy_state(content.learned, self.learned_of(table))
        projection_OD = self._projection_of(table)
        if projection_OD is not None and content.projection_OD is not None:
            projection_OD.data.copy_(content.projection_OD)

    def served(self) -> "Embeddings":
        """Return the embeddings in the form that is served; themselves where that is the same."""
        contents = {}
        for name, config in self.tables.items():
            where, spaces = _where(name), self.spaces[name]
            if config.served(where, spaces) != config:
                # A new learned module draws numbers before it is filled.
                with torch.random.fork_rng():
                    contents[name] = config.to_served(where, spaces, self.content(name))
        return self.converted(contents) if contents else self

    def is_final(self) -> bool:
        """Return whether all tables have reached the form that is served."""
        return all(config.is_final(self.learned_of(table)) for table, config in self.tables.items())

    @torch.no_grad()
    def start_epoch(self, epoch: int) -> None:
        """Let staged tables take their next stage before training epoch ``epoch``, from 0."""
        for table, config in self.tables.items():
            config.start_epoch(epoch, self.content(table))

    def step(self, reevaluate: Callable[[], object] | None = None) -> None:
        """End a training step: update the rows, then let rows go to other ids.

        Where there are several processes, all call it together.

        Args:
            reevaluate: Runs forward and backward once more on the same batch
                (:meth:`recemb.rows.store.RowsStore.step`).
        """
        kinds = [group.kind for group in self._groups()]
        for kind in kinds:
            kind.count_reads()
        self.rows.step(reevaluate)
        for kind in kinds:
            kind.loss()  # what nobody has asked for holds the graph of its batch
            for handover in kind.end_step():
                self._hand_over(handover)

    @torch.no_grad()
    def _hand_over(self, handover: Handover) -> None:
        physical = self.physical_of[handover.table][handover.part]
        first_U = handover.first_U + self.rows.base_row(physical)
        values_UD = self.rows.gather([physical], first_U, sizes_of([first_U]))
        self.rows.reset(physical, handover.rows_U, values_UD)

    def report(self) -> dict[str, dict[str, float]]:
        """Return by table what its kind reports of it."""
        return {name: config.report(self.learned_of(name)) for name, config in self.tables.items()}

    def loss(self) -> Tensor | float:
        """Return what the tables add to the loss of the last training batch."""
        return sum(group.kind.loss() for group in self._groups())

    def training_forms(self) -> Iterator[int]:
        """Take, one after the other, the forms in which each training batch is to be scored.

        One, unless a kind trains several at once (Matryoshka); their losses are summed.
        """
        kinds = [group.kind for group in self._groups()]
        count = max(kind.forms() for kind in kinds)
        try:
            for number in range(count):
                for kind in kinds:
                    kind.set_form(number if count > 1 else None)
                yield number
        finally:
            for kind in kinds:
                kind.set_form(None)

    def _groups(self) -> "list[FeatureGroup]":
        return cast("list[FeatureGroup]", list(self.groups))

    def rows_read(self, feature: str, ids_N: Tensor) -> dict[str, Tensor]:
        """Return which rows ids of one feature read, by physical table: (N, reads per id) each.

        -1 where an id reads none.
        """
        group = next(one for one in self._groups() if feature in one.names)
        return group.rows_read(feature, ids_N, self.rows)

    # A compiler would record lookups of one batch's sizes, again and again; it goes on behind them.
    @torch._disable_dynamo  # type: ignore[attr-defined, untyped-decorator, unused-ignore]
    def forward(
        self, ids: Mapping[str, Ids], weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, Vectors]:
        """Return the vectors of each feature.

        Args:
            ids: For each feature its ids: a tensor where a sample has one id, a
                :class:`~recemb.jagged.Jagged` where it has a bag. The number of samples may differ
                between features.
            weights: By feature, a number for each of its ids, (N,) float: vectors are multiplied
                by them, and a mean is divided by their sum.

        Returns:
            Per feature (B, D), pooled; or a ``Jagged`` of vectors where its pooling is ``none``.

        Raises:
            RecembError: If the ids of a feature are missing, of another form or type, on another
                device, or outside 0..num_ids - 1; or if there are ids of no feature. Nothing has
                been read then.
        """
        if not isinstance(ids, Mapping):
            raise RecembError(f"embeddings: ids must be given by feature, got {type(ids).__name__}")
        missing = [name for name in self.dims if name not in ids]
        if missing:
            raise RecembError(
                f"feature {missing[0]!r}: its ids are missing, got {sorted(map(str, ids))}"
            )
        if len(ids) > len(self.dims):
            extra = next(name for name in ids if name not in self.dims)
            raise RecembError(
                f"feature {extra!r}: there is none, but ids of it; leave them out, or name it "
                f"among the features {sorted(self.dims)}"
            )
        if weights is not None:
            check_weights(weights, ids, {one.name: one for one in self.features})
        vectors: dict[str, Vectors] = {}
        for group in self.groups:
            vectors.update(group(ids, self.rows, weights or {}))
        return vectors

    @property
    def rules(self) -> dict[str, UpdateRule]:
        """How the rows of each table change; of those that have rows."""
        return {
            table: self.rows.rules[next(iter(parts.values()))]
            for table, parts in self.physical_of.items()
            if parts
        }


def embeddings_of(model: nn.Module) -> Embeddings:
    """Return the embeddings of a model: its attribute ``embeddings``."""
    found = model.embeddings
    assert isinstance(found, Embeddings)
    return found


def _where(table: str) -> str:
    return f"table {table!r}"


def _key(table: str) -> str:
    """Return a module name for a table: one without dots that no method of a module has."""
    return f"table_{table.replace('.', '|')}"


def _spaces(table: str, features: Sequence[ResolvedFeature]) -> list[IdSpace]:
    readers = [feature.space for feature in features if feature.config.table == table]
    return list({space.name: space for space in readers}.values())


def _lookups(table: str, features: Sequence[ResolvedFeature]) -> int:
    """Return the most lookups of a table's features; behind a projection all have as many."""
    return max(one.config.lookups for one in features if one.config.table == table)


def _physical_names(table: str, parts: Sequence[str]) -> dict[str, str]:
    """Return the names by which a rows store knows the parts of a table."""
    if len(parts) == 1:
        return {parts[0]: table}
    return {part: f"{table}.{part}" for part in parts}


def _check_names(physical_of: Mapping[str, Mapping[str, str]]) -> None:
    """Raise a :class:`RecembError` if two tables would store something under one name."""
    owner_of: dict[str, str] = {}
    for table, parts in physical_of.items():
        entries = [name + end for name in parts.values() for end in ("", ".step", ".scale")]
        for entry in entries:
            other = owner_of.setdefault(entry, table)
            if other != table:
                raise RecembError(
                    f"{_where(table)}: table {other!r} stores something under the name {entry!r}; "
                    "rename either"
                )


def _projection(table: str, config: TableConfig, features: Sequence[ResolvedFeature]) -> nn.Linear:
    """Return the learned matrix that a table's vectors go through."""
    lookups = {feature.config.lookups for feature in features if feature.config.table == table}
    if len(lookups) > 1:
        raise RecembError(
            f"{_where(table)}: project needs features with equal lookups, got {sorted(lookups)}"
        )
    assert config.project is not None
    return nn.Linear(config.vector_dim(lookups.pop()), config.project, bias=False)


def _select(
    stored: Mapping[str, Tensor], entries: Mapping[str, Tensor], physical: str, rows: Tensor | None
) -> None:
    """Copy rows of a physical table, cut to the target's width, with what scales they have."""
    num_rows = len(stored[physical])
    for entry, target in entries.items():
        if entry == physical or entry.rpartition(".")[0] == physical:
            source = stored[entry]
            if rows is not None and len(source) == num_rows:
                source = source[rows]
            target.copy_(source[:, : target.shape[1]] if source.ndim == 2 else source)


def _copy_state(source: nn.Module | None, target: nn.Module | None) -> None:
    if target is not None:
        assert source is not None
        target.load_state_dict(source.state_dict())
