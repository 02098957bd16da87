"""Deep Learning Recommendation Model: dot products of all pairs of features, then an MLP.

    bottom = MLP(numbers)                                  D wide; absent without dense columns
    logit  = MLP([bottom, <v_i, v_j> for all i < j])       v: the features' vectors and bottom

All features need vectors of the same width D, which any table kind can give.

Shapes: B samples, V vectors per sample, D elements of a vector, P = V (V - 1) / 2 pairs.

Source: Naumov et al., "Deep Learning Recommendation Model for Personalization and Recommendation
Systems", 2019, arXiv:1906.00091.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids
from recemb.models.feature_task import FeatureTask, common_dim
from recemb.models.layers import MLP, Activation, hidden_layers
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Everything of a DLRM but its embeddings."""

    bottom: list[int] = field(default_factory=lambda: [64])
    """Widths of the hidden layers between the numbers and a vector of the features' width."""
    top: list[int] = field(default_factory=lambda: [256, 128])
    """Widths of the hidden layers between the pairs and the logit."""
    activation: Activation = "relu"
    """Of both perceptrons; the bottom one applies it to its output too."""
    dropout: float = 0.0
    """Share of the top's hidden values dropped in training."""


class DotInteraction(nn.Module):
    """The dot products of all pairs of V vectors.

    Args:
        num_vectors: V.
    """

    place_P: Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        i_P, j_P = torch.triu_indices(num_vectors, num_vectors, offset=1)
        self.register_buffer("place_P", i_P * num_vectors + j_P, persistent=False)

    def forward(self, vectors_BVD: Tensor) -> Tensor:
        """Return (B, P): <v_0, v_1>, <v_0, v_2>, ..., <v_1, v_2>, ..."""
        products_BVV = torch.bmm(vectors_BVD, vectors_BVD.transpose(1, 2))
        return products_BVV.flatten(1).index_select(1, self.place_P)


class DLRM(FeatureTask):
    """Deep Learning Recommendation Model over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: Features by name: columns with one id, multi-hot columns, and attributes of
            columns.
        network: Layers.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, a setting is out of range, two features
            differ in width, or there is no pair of vectors.
    """

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        network: Network | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(schema, tables, features, learning_rate, rows_optimizer)
        self.network = network or Network()
        dim = common_dim("DLRM", self.embeddings.dims)
        num_vectors = len(self.names) + bool(schema.dense)
        if num_vectors < 2:
            raise RecembError("DLRM: there must be two features, or one and a dense column, got 1")
        name = self.network.activation
        self.bottom: nn.Sequential | None = None
        if schema.dense:
            widths = [*self.network.bottom, dim]
            self.bottom = nn.Sequential(*hidden_layers(len(schema.dense), widths, name, 0.0))
        self.interaction = DotInteraction(num_vectors)
        num_pairs = num_vectors * (num_vectors - 1) // 2
        num_inputs = num_pairs + (dim if schema.dense else 0)
        self.top = MLP(num_inputs, self.network.top, name, self.network.dropout)

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples; see :meth:`RankingTask.score`."""
        vectors = self.vectors(ids)
        bottom = [self.bottom(dense_BK)] if self.bottom is not None else []
        pairs_BP = self.interaction(torch.stack([*bottom, *vectors], 1))
        return cast(Tensor, self.top(torch.cat([*bottom, pairs_BP], 1))).squeeze(1)
