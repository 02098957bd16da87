"""NGCF: vectors that propagate, each layer with weights of its own.

    m       = A x^(l),   A_vw = 1 / sqrt(degree_v degree_w) on edges
    x^(l+1) = unit length of dropout of LeakyReLU((x^(l) + m) W1 + b1 + (x^(l) * m) W2 + b2)
    x       = x^(0), x^(1), .., x^(L) side by side

The next layer reads what came before the unit length. What is regularised is x^(0): the layers
have unit length, so that to regularise x, as the authors do, only adds a constant.

Source: Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, arXiv:1905.08108; unit
length, slope 0.2 and biases as in the authors' code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.collaborative_filtering import Training
from models.graph_filtering import GraphFiltering, Propagation
from models.pair_ranking import Evaluation
from models.propagation import Layer
from recemb.features import FeatureConfig
from recemb.rows.optimizers import AnyRowsOptimizer
from recemb.schema import Schema
from recemb.tables.registry import AnyTable

SLOPE = 0.2
"""Of LeakyReLU below 0."""


class NGCF(GraphFiltering):
    """Propagation with weights; see :class:`GraphFiltering`.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: ``user`` and ``item``.
        propagation: Layers, sampling and dropout.
        training: Positives, negatives and regularisation.
        evaluation: Metrics.
        learning_rate: Of Adam on the layers' weights.
        rows_optimizer: Of the tables' rows.
    """

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        propagation: Propagation | None = None,
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyRowsOptimizer | None = None,
    ) -> None:
        super().__init__(
            schema,
            tables,
            features,
            propagation,
            training,
            evaluation,
            learning_rate,
            rows_optimizer,
        )
        count, dim = self.propagation.num_layers, self.dim
        self.sums = nn.ModuleList(nn.Linear(dim, dim) for _ in range(count))
        self.products = nn.ModuleList(nn.Linear(dim, dim) for _ in range(count))
        for linear in (*self.sums, *self.products):
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.dropout = nn.Dropout(self.propagation.message_dropout)

    def propagate(self, x_ND: Tensor, layers: list[Layer]) -> tuple[Tensor, Tensor]:
        """Return all layers side by side, and the vectors that go in."""
        sends_N1 = self.senders(x_ND)
        found = [x_ND]
        for layer, add, multiply in zip(layers, self.sums, self.products, strict=True):
            message_ND = self.send(x_ND, layer, sends_N1)
            *before, own_ND = map(layer.own, found)
            mixed_ND = add(own_ND + message_ND) + multiply(own_ND * message_ND)
            x_ND = self.dropout(F.leaky_relu(mixed_ND, SLOPE))
            found = [*before, own_ND, x_ND]
        # Last, for it is of few nodes then; and a layer reads what came before the unit length.
        units = [F.normalize(one_SD, dim=1) for one_SD in found[1:]]
        return torch.cat([found[0], *units], 1), found[0]
