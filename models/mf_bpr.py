"""Matrix factorisation by BPR: the vectors of users and items are those of the tables.

    s_ui = x_u . y_i

The floor of all that propagates. A step reads the rows of its samples and no others.

Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
arXiv:1205.2618.
"""

from torch import Tensor

from models.collaborative_filtering import (
    CollaborativeFiltering,
    SampleVectors,
    Training,
)
from models.pair_ranking import Evaluation
from recemb.features import FeatureConfig
from recemb.rows.optimizers import AnyRowsOptimizer
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
        rows_optimizer: AnyRowsOptimizer | None = None,
    ) -> None:
        super().__init__(
            schema, tables, features, training, evaluation, learning_rate, rows_optimizer
        )

    def sample_vectors(self, user_B: Tensor, item_C: Tensor) -> SampleVectors:
        """Return the tables' vectors."""
        user_BD, item_CD = self.vectors(user_B, item_C)
        return SampleVectors(user_BD, item_CD, user_BD.square().sum() + item_CD.square().sum())
