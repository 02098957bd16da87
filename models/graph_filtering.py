"""Graph filtering: vectors of users and items that propagate along the pairs of training.

A step makes one propagation, of all nodes or to the nodes it asks for from samples of their
neighbours, and all its samples share it. What goes in are the vectors that tables compose, of any
kind; the gradient of the propagation goes back through them to the rows.

Shapes: N nodes, users and then items, S nodes asked for, D elements of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.models.collaborative_filtering import (
    ITEM,
    CollaborativeFiltering,
    Training,
)
from recemb.models.pair_ranking import Evaluation
from recemb.models.propagation import BipartiteGraph, Layer, Neighbourhood
from recemb.rows.optimizers import UpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Propagation:
    """How far vectors travel, and what of it is dropped in training."""

    num_layers: int = 3
    """Steps along edges."""
    fanout: int | None = None
    """If given, a step samples at most so many neighbours of each node instead of propagating all
    nodes: for graphs that are too large for that, and for sharded tables."""
    node_dropout: float = 0.0
    """Share of nodes that send nothing in a step."""
    message_dropout: float = 0.0
    """Share of elements dropped of what a layer makes; of models that make something (NGCF)."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name in ("num_layers", "fanout"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecembError(f"propagation: {name} must be at least 1, got {value}")
        for name in ("node_dropout", "message_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise RecembError(
                    f"propagation: {name} must be at least 0 and below 1, got {getattr(self, name)}"
                )


class GraphFiltering(CollaborativeFiltering):
    """Collaborative filtering over propagated vectors; a subclass says what a layer does.

    Args:
        schema: What the data holds.
        tables: Tables by name.
        features: ``user`` and ``item``.
        propagation: Layers, sampling and dropout.
        training: Positives, negatives and regularisation.
        evaluation: Metrics.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.
    """

    is_propagated = True

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        propagation: Propagation | None = None,
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: UpdateRule | None = None,
    ) -> None:
        super().__init__(
            schema, tables, features, training, evaluation, learning_rate, rows_optimizer
        )
        self.propagation = propagation or Propagation()
        self.propagation.check()
        self.graph = BipartiteGraph(self.seen, schema.vocabularies[ITEM].num_ids)

    def propagate(self, x_ND: Tensor, layers: list[Layer]) -> tuple[Tensor, Tensor]:
        """Return vectors of the nodes that layers lead to, and what of them is regularised.

        A subclass says how.

        Args:
            x_ND: Vectors that go in.
            layers: In their order.
        """
        raise NotImplementedError

    def senders(self, x_ND: Tensor) -> Tensor | None:
        """Return which nodes send in a training step, 1 / share or 0: (N, 1); None where all do."""
        rate = self.propagation.node_dropout
        if not (self.training and rate):
            return None
        return (torch.rand(len(x_ND), 1, device=x_ND.device) >= rate).to(x_ND) / (1 - rate)

    def node_vectors(self, nodes_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return propagated vectors, and those that go in; one propagation for all samples."""
        settings = self.propagation
        if settings.fanout is None:
            around = self.graph.whole(settings.num_layers, nodes_S)
        else:
            around = self.graph.sampled(nodes_S, [settings.fanout] * settings.num_layers)
        return self.propagate(self.read(around), around.layers)

    def read(self, around: Neighbourhood) -> Tensor:
        """Return the tables' vectors of nodes: (N, D)."""
        x_ND = torch.cat(self.vectors(around.users_A, around.items_C))
        return x_ND if around.place_N is None else x_ND.index_select(0, around.place_N)

    def all_vectors(self) -> tuple[Tensor, Tensor]:
        """Return the propagated vectors of all, from all neighbours."""
        x_ND = torch.cat(self.embed_all())
        found_ND, _ = self.propagate(x_ND, self.graph.whole(self.propagation.num_layers).layers)
        user_UD, item_VD = found_ND[: self.num_queries], found_ND[self.num_queries :]
        return self.with_unknown(user_UD), item_VD[: self.num_items]
