"""Deep & Cross Network, version 2: explicit products of features of bounded degree, beside an MLP.

    x0 = [vectors of all features, numbers]
    x_{l+1} = x0 * (W x_l + b) + x_l               full rank
    x_{l+1} = x0 * (U (V^T x_l) + b) + x_l         low rank
    stacked    logit = MLP(x_L)
    parallel   logit = w . [x_L, hidden layers of the MLP(x0)]

L layers reach every product of up to L + 1 elements of x0. Features may be of different widths.

Shapes: B samples, W elements of x0.

Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale
Learning to Rank Systems", WWW 2021, arXiv:2008.13535, sections 3.2 to 3.4.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids
from recemb.models.feature_task import FeatureTask
from recemb.models.layers import MLP, Activation, hidden_layers
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable

Structure = Literal["stacked", "parallel"]
"""Whether the perceptron reads the cross layers' output or works beside them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Everything of a DCN but its embeddings."""

    num_cross_layers: int = 3
    """L, at least 1."""
    rank: int | None = None
    """Columns of U and V, at least 1; None: full rank."""
    structure: Structure = "stacked"
    """``stacked`` or ``parallel``."""
    hidden: list[int] = field(default_factory=lambda: [256, 128])
    """Widths of the perceptron's hidden layers; empty (stacked) for the cross layers alone."""
    activation: Activation = "relu"
    """Of the hidden layers."""
    dropout: float = 0.0
    """Share of hidden values dropped in training."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name in ("num_cross_layers", "rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecembError(f"DCN: network.{name} must be at least 1, got {value}")
        if self.structure not in ("stacked", "parallel"):
            raise RecembError(
                f"DCN: network.structure must be 'stacked' or 'parallel', got {self.structure!r}"
            )
        if self.structure == "parallel" and not self.hidden:
            raise RecembError(
                "DCN: network.hidden must hold a width where the structure is parallel, got []; "
                "use stacked for the cross layers alone"
            )


class CrossLayer(nn.Module):
    """x0 * (W x + b) + x.

    Args:
        width: W.
        rank: Of the matrix; None: full.
    """

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.linear = (
            nn.Linear(width, width)
            if rank is None
            else nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
        )

    def forward(self, first_BW: Tensor, own_BW: Tensor) -> Tensor:
        """Return the next layer's input, of x0 and this layer's."""
        return torch.addcmul(own_BW, first_BW, self.linear(own_BW))


class DCN(FeatureTask):
    """Deep & Cross Network over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: Features by name: columns with one id, multi-hot columns, and attributes of
            columns.
        network: Layers.
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
        network: Network | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(schema, tables, features, learning_rate, rows_optimizer)
        self.network = network or Network()
        self.network.check()
        width = sum(self.embeddings.dims[name] for name in self.names) + len(schema.dense)
        self.cross = nn.ModuleList(
            CrossLayer(width, self.network.rank) for _ in range(self.network.num_cross_layers)
        )
        shape = (width, self.network.hidden, self.network.activation, self.network.dropout)
        if self.network.structure == "stacked":
            self.mlp = MLP(*shape)
        else:
            self.deep = nn.Sequential(*hidden_layers(*shape))
            self.output = nn.Linear(width + self.network.hidden[-1], 1)

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples; see :meth:`RankingTask.score`."""
        first_BW = torch.cat([*self.vectors(ids), dense_BK], 1)
        crossed_BW = first_BW
        for layer in self.cross:
            crossed_BW = layer(first_BW, crossed_BW)
        if self.network.structure == "stacked":
            logit_B1 = self.mlp(crossed_BW)
        else:
            logit_B1 = self.output(torch.cat([crossed_BW, self.deep(first_BW)], 1))
        return cast(Tensor, logit_B1).squeeze(1)
