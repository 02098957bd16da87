"""LightGCN: a mean of vectors that propagate, with nothing learned but the tables.

    x^(l+1) = A x^(l),   A_vw = 1 / sqrt(degree_v degree_w) on edges
    x       = mean over layers l = 0 .. L of x^(l)

What is regularised are the vectors that go in.

Source: He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for
Recommendation", SIGIR 2020, arXiv:2002.02126.
"""

from torch import Tensor

from recemb.features import FeatureConfig
from recemb.models.collaborative_filtering import Training
from recemb.models.graph_filtering import GraphFiltering, Propagation
from recemb.models.pair_ranking import Evaluation
from recemb.models.propagation import Layer
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


class LightGCN(GraphFiltering):
    """Propagation without weights; see :class:`GraphFiltering`.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: ``user`` and ``item``.
        propagation: Layers, sampling and dropout of nodes; there are no messages to drop from.
        training: Positives, negatives and regularisation.
        evaluation: Metrics.
        learning_rate: Of Adam on what tables have beside rows.
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
        rows_optimizer: AnyUpdateRule | None = None,
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

    def propagate(self, x_ND: Tensor, layers: list[Layer]) -> tuple[Tensor, Tensor]:
        """Return the mean of layers, and the vectors that go in."""
        sends_N1 = self.senders(x_ND)
        _, x_ND, first_SD = layers[0](x_ND, sends_N1)
        sum_SD = first_SD
        for layer in layers[1:]:
            _, x_ND, asked_SD = layer(x_ND, sends_N1)
            sum_SD = sum_SD + asked_SD
        return (sum_SD + x_ND) / (len(layers) + 1), first_SD
