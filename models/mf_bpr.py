"""Matrix factorisation by BPR: the vectors of users and items are those of the tables.

    s_ui = x_u . y_i

The floor of all that propagates. A step reads the rows of its samples and no others.

Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
arXiv:1205.2618.
"""

import torch
from torch import Tensor

from recemb.features import FeatureConfig
from recemb.models.collaborative_filtering import (
    CollaborativeFiltering,
    Training,
)
from recemb.models.pair_ranking import Evaluation
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


class MatrixFactorizationBPR(CollaborativeFiltering):
    """Users and items by vectors of any table kinds; see :class:`CollaborativeFiltering`.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: ``user`` and ``item``.
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
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(
            schema, tables, features, training, evaluation, learning_rate, rows_optimizer
        )

    def node_vectors(self, nodes_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tables' vectors, twice: all of them is regularised."""
        is_user_S = nodes_S < self.num_queries
        found = self.vectors(nodes_S[is_user_S], nodes_S[~is_user_S] - self.num_queries)
        x_SD = torch.cat(found)
        return x_SD, x_SD
