"""Reading: tables asked for the vectors of single ids, whatever their features do with them.

Shapes: K ids, D elements per vector.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.features import FeatureConfig, ResolvedFeature
from recemb.physical import PhysicalTable
from recemb.rows.store import RowsStore
from recemb.tables.kind import IdSpace, TableConfig


def lookups_of(embeddings: Embeddings, table: str, space: str) -> int:
    """Return the most lookups that a feature of an id space makes in a table."""
    return max(
        one.config.lookups
        for one in embeddings.features
        if (one.config.table, one.space.name) == (table, space)
    )


class TableReader:
    """Some tables of given embeddings with one feature per id space that they serve.

    Args:
        embeddings: Whose tables, id spaces and learned modules.
        tables: Names.
        through_projection: Whether vectors are those that the model sees.
        make_store: Holds the rows; by default the embeddings' own store does, and nothing is
            copied.
        change: What is different in the tables' configurations.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        tables: Sequence[str],
        *,
        through_projection: bool,
        make_store: Callable[[Mapping[str, PhysicalTable]], RowsStore] | None = None,
        change: Callable[[TableConfig], TableConfig] = lambda config: config,
    ) -> None:
        self.tables = list(tables)
        features = [
            ResolvedFeature(
                _name(table, space.name),
                FeatureConfig(table=table, lookups=lookups_of(embeddings, table, space.name)),
                space,
                False,
            )
            for table in tables
            for space in embeddings.spaces[table]
        ]
        configs = {name: change(embeddings.tables[name]) for name in tables}
        if not through_projection:
            configs = {name: replace(config, project=None) for name, config in configs.items()}
        # What new modules draw is overwritten.
        with torch.random.fork_rng():
            self.embeddings = Embeddings(
                configs, features, make_store or (lambda physical: embeddings.rows)
            )
        for name in tables:
            own, given = self.embeddings.dense_of(name), embeddings.dense_of(name)
            for module, source in zip(own, given, strict=False):
                module.load_state_dict(source.state_dict())
        self._nothing = {name: torch.empty(0, dtype=torch.int64) for name in self.embeddings.dims}

    def dim(self, table: str, space: IdSpace) -> int:
        """Return D."""
        return self.embeddings.dims[_name(table, space.name)]

    def vectors(self, ids: Mapping[tuple[str, str], Tensor]) -> dict[tuple[str, str], Tensor]:
        """Return the (K, D) vectors of ids, by table and id space."""
        asked = {_name(*key): ids_K for key, ids_K in ids.items()}
        found = self.embeddings({**self._nothing, **asked})
        return {key: cast(Tensor, found[_name(*key)]) for key in ids}

    def rows_read(self, table: str, space: IdSpace, ids_K: Tensor) -> dict[str, Tensor]:
        """Return which rows ids read, by physical table: (K, reads per id) each."""
        return self.embeddings.rows_read(_name(table, space.name), ids_K)


def _name(table: str, space: str) -> str:
    return f"{table}\n{space}"
