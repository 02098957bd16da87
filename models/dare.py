"""DARE: one set of tables for finding what matters in a long history, another for what it means.

    a_j = <q, k_j> / sqrt(d) + <t_q, t_kj> / sqrt(d_t)         attention tables: items, times
    h   = sum over the top k of a_j of softmax(a_j) v_j        representation tables
    logit = MLP([t, h, t * h])

A table that serves both is pulled two ways; and attention needs fewer dimensions, so its own are
half as wide by default, which makes the search over thousands of behaviours as much cheaper. A
second loss, of all behaviours before the search, teaches the attention what the search would hide.

:class:`TWIN` has one set of tables for both, or (``projected``) a learned matrix per use.
:class:`recemb.models.long_din.LongDIN` weighs behaviours by a perceptron.

Shapes: B samples, N behaviours, U distinct items of a batch, d attention vector, D representation.

Sources: Feng et al., "Long-Sequence Recommendation Models Need Decoupled Embeddings", ICLR 2025,
arXiv:2410.02604; Chang et al., "TWIN: TWo-stage Interest Network for Lifelong User Behavior
Modeling in CTR Prediction at Kuaishou", KDD 2023, arXiv:2302.02352.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from recemb.features import FeatureConfig
from recemb.models.jagged_products import dots
from recemb.models.long_history import Items, LongHistoryTask, Network, time_vectors
from recemb.models.two_stages import export_stages
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig
from recemb.tables.registry import AnyTable

ATTENTION = "attention_"
"""Starts the name of an attention table, and of the feature that reads it."""


class DotAttention(LongHistoryTask):
    """Logits are scaled products of queries and keys, those of time added."""

    def logits_of(self, items: list[Items]) -> Tensor:
        """Return <q, k> / sqrt(d) + <t_q, t_k> / sqrt(d_t) of each behaviour: (N,)."""
        *columns, times = items
        semantic = [dots(one.query_Ud[one.place_B], one.key_Ud, one.places) for one in columns]
        scale: float = sum(one.key_Ud.shape[1] for one in columns) ** -0.5
        # A target's time is one and the same, so a time's logit is one number.
        time_T = times.key_Ud @ times.query_Ud[0]
        time_scale: float = times.key_Ud.shape[1] ** -0.5
        time_N = (time_T * time_scale).index_select(0, times.places.place_N)
        return sum(semantic[1:], semantic[0]) * scale + time_N

    def export_stages(self, output: Path) -> dict[str, object]:
        """Write search and ranking as programs of their own (:mod:`recemb.models.two_stages`)."""
        return export_stages(self, output)


class DARE(DotAttention):
    """Decoupled attention and representation embeddings over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name. The attention of a table ``item`` is the table ``attention_item``;
            where it is not given it is like ``item``, half as wide.
        features: Features by name: columns with one id, multi-hot columns, and attributes of
            columns. History columns are not features: they read what their target reads.
        history: Target column to history column, at least one; several are parallel.
        seconds: Raw list column parallel to the histories: how long before the target each
            behaviour was. Its power of two is then the time; without, behaviours are numbered
            from the newest.
        network: Layers and search.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.
    """

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        history: dict[str, str],
        seconds: str | None = None,
        network: Network | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        copied = features_of_items(features, history, schema)
        every: dict[str, TableConfig] = {**attention_tables(tables, features, copied), **tables}
        names = {f"{ATTENTION}{name}": name for name in copied}
        reading = {
            copy: replace(features[name], table=f"{ATTENTION}{features[name].table}")
            for copy, name in names.items()
        }
        super().__init__(
            schema,
            every,
            {**features, **reading},
            history,
            seconds,
            network,
            learning_rate,
            rows_optimizer,
            copies=names,
        )
        dim = self.network.attention_time_dim or max(1, self.network.time_dim // 2)
        self.attention_time = time_vectors(self.network.num_times, dim)

    def attention_of(
        self, name: str, vectors: Mapping[str, Tensor], representation_UD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what the attention tables hold, for queries and keys."""
        own_Ud = torch.cat([vectors[f"{ATTENTION}{one}"] for one in self.names_of(name)], 1)
        return own_Ud, own_Ud

    def attention_of_times(self) -> tuple[Tensor, Tensor]:
        """Return the attention's own time vectors."""
        return self.attention_time.weight, self.attention_time.weight


class TWIN(DotAttention):
    """The same with one set of tables for attention and representation.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: As of :class:`DARE`.
        history: As of :class:`DARE`.
        seconds: As of :class:`DARE`.
        network: Layers and search.
        projected: Whether the attention sees the vectors through learned square matrices, one for
            targets and one for behaviours.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.
    """

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        history: dict[str, str],
        seconds: str | None = None,
        network: Network | None = None,
        projected: bool = False,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(
            schema, tables, features, history, seconds, network, learning_rate, rows_optimizer
        )
        self.projections = nn.ModuleDict()
        if projected:
            dims = [self.described_dim(name) for name in self.history]
            for number, dim in enumerate([*dims, self.network.time_dim]):
                for use in ("query", "key"):
                    self.projections[f"{use}_{number}"] = nn.Linear(dim, dim, bias=False)

    def attention_of(
        self, name: str, vectors: Mapping[str, Tensor], representation_UD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the representation vectors, projected or as they are."""
        return self.attention_of_rows(list(self.history).index(name), representation_UD)

    def attention_of_times(self) -> tuple[Tensor, Tensor]:
        """Return the representation's time vectors, projected or as they are."""
        return self.attention_of_rows(len(self.history), self.time.weight)

    def attention_of_rows(self, number: int, vectors_UD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the queries and keys of representation vectors.

        Args:
            number: Of the history column; their count for time.
            vectors_UD: Of items or times.
        """
        if not self.projections:
            return vectors_UD, vectors_UD
        query = self.projections[f"query_{number}"](vectors_UD)
        return query, self.projections[f"key_{number}"](vectors_UD)


def features_of_items(
    features: Mapping[str, FeatureConfig], history: Mapping[str, str], schema: Schema
) -> list[str]:
    """Return the features that describe a behaviour: target columns and attributes of their ids."""
    spaces = {schema.id_space(name) for name in history}
    described = [
        name
        for name, attribute in schema.attributes.items()
        if name in features and attribute.owner in spaces
    ]
    return [*(name for name in history if name in features), *described]


def attention_tables(
    tables: Mapping[str, TableConfig], features: Mapping[str, FeatureConfig], read: Sequence[str]
) -> dict[str, TableConfig]:
    """Return tables half as wide as those that the features ``read`` name."""
    found = {}
    for name in read:
        table = features[name].table
        if table in tables:  # a wrong name is refused where features are resolved
            own = tables[table]
            project = None if own.project is None else max(1, own.project // 2)
            found[f"{ATTENTION}{table}"] = replace(own, dim=max(1, own.dim // 2), project=project)
    return found
