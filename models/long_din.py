"""Deep Interest Network over long histories: a perceptron weighs every behaviour, none is cut.

    logit = MLP([t, h])      h = sum_j softmax(perceptron([q, k_j, q - k_j, q * k_j]) / sqrt(D)) k_j

What :mod:`recemb.models.dare` is compared with: the same items, times and layers, one set of
tables. It costs a perceptron per behaviour, where a search costs a product.

Shapes: B samples, L longest history, N behaviours, D vector of a behaviour.

Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018,
arXiv:1706.06978, in the form of the authors' code.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from recemb.features import FeatureConfig
from recemb.jagged import Jagged, to_padded
from recemb.models.attention import TargetAttention
from recemb.models.layers import Activation
from recemb.models.long_history import Items, LongHistoryTask, Network
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


class LongDIN(LongHistoryTask):
    """DIN whose behaviours have times, over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: As of :class:`recemb.models.dare.DARE`.
        history: As of :class:`recemb.models.dare.DARE`.
        seconds: As of :class:`recemb.models.dare.DARE`.
        network: Layers; ``keep``, ``auxiliary`` and ``attention_time_dim`` say nothing here.
        attention_hidden: Widths of the perceptron's hidden layers, at least one.
        attention_activation: Of those.
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
        attention_hidden: list[int] | None = None,
        attention_activation: Activation = "dice",
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(
            schema,
            tables,
            features,
            history,
            seconds,
            network,
            learning_rate,
            rows_optimizer,
            is_crossed=False,
            is_searched=False,
        )
        self.attention = TargetAttention(
            self.vector_dim, attention_hidden or [32], "concatenation", attention_activation
        )

    def attention_of(
        self, name: str, vectors: Mapping[str, Tensor], representation_UD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the representation vectors."""
        return representation_UD, representation_UD

    def attention_of_times(self) -> tuple[Tensor, Tensor]:
        """Return the representation's time vectors."""
        return self.time.weight, self.time.weight

    def logits_of(self, items: list[Items]) -> Tensor:
        """Return what the perceptron says of each behaviour, over sqrt(D): (N,)."""
        lengths_B = items[0].places.lengths_B
        keys = []
        for one in items:
            # Pad places, not vectors: eight bytes per behaviour instead of 4 D.
            place_BL, mask_BL = to_padded(Jagged(one.places.place_N, lengths_B))
            keys.append(one.key_Ud.index_select(0, place_BL.flatten()))
        query_BD = torch.cat([one.query_Ud[one.place_B] for one in items], 1)
        key_BLD = torch.cat(keys, 1).unflatten(0, mask_BL.shape)
        score_BL = self.attention.scores(query_BD, key_BLD, mask_BL)
        scale: float = self.vector_dim**-0.5
        return score_BL[mask_BL] * scale
