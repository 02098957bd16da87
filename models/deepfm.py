"""DeepFM: a factorisation machine and an MLP on the same vectors, their logits added.

    logit = sum_f w_f + sum_{f < g} <v_f, v_g> + MLP([v_1, ..., v_V])
    sum_{f < g} <v_f, v_g> = (|sum_f v_f|^2 - sum_f |v_f|^2) / 2

The paper has two tables per feature: first-order weights w and factors v. Here one vector of D
elements per id holds both: **its first element is w, the other D - 1 are v**. So any table kind
serves, at its own bytes, and an id is gathered once. The w of a multi-hot feature is pooled as its
factors are. A dense column x has a w and a v of its own, both times x (its standardised value).

The pairs are never built: the second line needs one sum over the features and is what the cost of
the paper's factorisation machine, linear in the number of features, comes from.

Shapes: B samples, V vectors per sample, D elements of a vector, K dense columns.

Source: Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction",
IJCAI 2017, arXiv:1703.04247; Rendle, "Factorization Machines", ICDM 2010, for the second line.
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
from recemb.models.layers import MLP, Activation
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Everything of a DeepFM but its embeddings."""

    hidden: list[int] = field(default_factory=lambda: [256, 128])
    """Widths of the perceptron's hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers."""
    dropout: float = 0.0
    """Share of hidden values dropped in training."""


class NumberVectors(nn.Module):
    """A learned vector per dense column, times the column's value.

    Args:
        num_columns: K.
        dim: D.
    """

    def __init__(self, num_columns: int, dim: int) -> None:
        super().__init__()
        self.vector_KD = nn.Parameter(torch.empty(num_columns, dim).uniform_(-0.05, 0.05))

    def forward(self, dense_BK: Tensor) -> Tensor:
        """Return (B, K, D)."""
        return dense_BK.unsqueeze(2) * self.vector_KD


def factorization_machine(vectors_BVD: Tensor) -> Tensor:
    """Return the (B,) sum of first elements and of the dot products of all pairs of the others."""
    weights_BV, factors_BVF = vectors_BVD[..., 0], vectors_BVD[..., 1:]
    pairs_BF = factors_BVF.sum(1).square() - factors_BVF.square().sum(1)
    return weights_BV.sum(1) + 0.5 * pairs_BF.sum(1)


class DeepFM(FeatureTask):
    """DeepFM over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: Features by name: columns with one id, multi-hot columns, and attributes of
            columns. The first element of each vector is the first-order weight.
        network: Layers.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, a setting is out of range, two features
            differ in width, or vectors have no room for a factor.
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
        dim = common_dim("DeepFM", self.embeddings.dims)
        if dim < 2:
            raise RecembError(
                f"DeepFM: vectors must have a first-order weight and at least one factor, got dim "
                f"{dim}; set dim to 2 or more"
            )
        self.numbers = NumberVectors(len(schema.dense), dim)
        self.mlp = MLP(
            (len(self.names) + len(schema.dense)) * (dim - 1),
            self.network.hidden,
            self.network.activation,
            self.network.dropout,
        )

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples; see :meth:`RankingTask.score`."""
        vectors_BFD = torch.stack(self.vectors(ids), 1)
        vectors_BVD = torch.cat([vectors_BFD, self.numbers(dense_BK)], 1)
        deep_B1 = cast(Tensor, self.mlp(vectors_BVD[..., 1:].flatten(1)))
        return factorization_machine(vectors_BVD) + deep_B1.squeeze(1)
