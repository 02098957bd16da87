"""Matrix factorisation: a rating is the product of two vectors, and a bias of either side.

    rating = offset + b_u + b_i + <p_u, q_i>

One vector of D elements per id holds both: **its first element is the bias b, the other D - 1 are
the factors**, as in :mod:`recemb.models.deepfm`. So any table kind serves, at its own bytes.

Shapes: B samples, D elements of a vector.

Source: Koren, Bell and Volinsky, "Matrix Factorization Techniques for Recommender Systems",
Computer 2009.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids
from recemb.models.feature_task import FeatureTask, common_dim
from recemb.models.objective import Ratings
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


class MatrixFactorization(FeatureTask):
    """Ratings by two features, over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: The two sides by name, such as user and movie. The first element of each vector
            is the bias.
        offset: What a rating without any bias would be: about the mean of the training ratings.
        dropout: Share of the factors' products dropped in training, 0 to 1.
        learning_rate: Unused where no table has a dense part.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If there are not two features, they differ in width, vectors have no room for
            a factor, or a setting is out of range.
    """

    objective = Ratings()

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        offset: float = 0.0,
        dropout: float = 0.0,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(schema, tables, features, learning_rate, rows_optimizer)
        name = "MatrixFactorization"
        if len(features) != 2 or schema.dense:
            raise RecembError(
                f"{name}: a rating must be by two features and no numbers, got "
                f"{[*features, *schema.dense]}"
            )
        if not 0 <= dropout < 1:
            raise RecembError(f"{name}: dropout must be at least 0 and below 1, got {dropout}")
        dim = common_dim(name, self.embeddings.dims)
        if dim < 2:
            raise RecembError(
                f"{name}: vectors must have a bias and at least one factor, got dim {dim}; set dim "
                "to 2 or more"
            )
        # A parameter, for the optimizer of dense parts must have one.
        self.offset = nn.Parameter(Tensor([offset]))
        self.dropout = nn.Dropout(dropout)

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the ratings of B samples; see :meth:`RankingTask.score`."""
        first_BD, second_BD = self.vectors(ids)
        products_BF: Tensor = self.dropout(first_BD[:, 1:] * second_BD[:, 1:])
        return self.offset + first_BD[:, 0] + second_BD[:, 0] + products_BF.sum(1)
