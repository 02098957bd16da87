"""Deep Interest Network: the history is weighted by what the target item is.

    logit = MLP([context, target, sum_j w(target, history_j) history_j])

An item is its id together with its attributes; target and history read the same tables. Items are
embedded once per batch, however often they occur in it: a batch of 4,096 MovieLens-1M rows holds
about 155,000 items but fewer than 3,700 distinct ones.

Shapes: B samples, U distinct items of a batch, L longest history, d item vector, C context.

Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018,
arXiv:1706.06978.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids, Jagged, is_tracing, to_padded
from recemb.models.attention import Form, TargetAttention
from recemb.models.feature_task import FeatureTask
from recemb.models.layers import MLP, Activation
from recemb.models.parallel_histories import common_lengths
from recemb.models.regularization import Met, batch_aware_decay
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Everything of a DIN but its embeddings."""

    hidden: list[int] = field(default_factory=lambda: [256, 128, 64])
    """Widths of the hidden layers."""
    activation: Activation = "dice"
    """Of the hidden layers."""
    dropout: float = 0.0
    """Share of hidden values dropped in training."""
    attention: Form = "concatenation"
    """``concatenation`` (the authors' code) or ``outer_product`` (the paper)."""
    attention_hidden: list[int] = field(default_factory=lambda: [64])
    """Widths of the attention's hidden layers."""
    attention_activation: Activation = "dice"
    """Of the attention's hidden layers."""
    attention_softmax: bool | None = None
    """Whether weights are a softmax; by default as the form has it."""
    decay: float = 0.0
    """Strength of mini-batch aware regularisation (the paper: 0.01)."""


class DIN(FeatureTask):
    """Deep Interest Network over any table kinds.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: Features by name: columns with one id, multi-hot columns, and attributes of
            columns. History columns are not features: they read what their target reads.
        history: Target column to history column; several are parallel (item and category of the
            same behaviours). Empty for the same model without a history.
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
        history: dict[str, str] | None = None,
        network: Network | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(schema, tables, features, learning_rate, rows_optimizer, history)
        self.history = history or {}
        self.network = network or Network()
        check_history(self.history, features, schema)
        self.context = [name for name in self.columns if name not in self.history]
        item_dim = sum(self._item_dim(name) for name in self.history)
        context_dim = sum(self._item_dim(name) for name in self.context) + len(schema.dense)
        if self.history:
            self.attention = TargetAttention(
                item_dim,
                self.network.attention_hidden,
                self.network.attention,
                self.network.attention_activation,
                self.network.attention_softmax,
            )
        self.mlp = MLP(
            context_dim + 2 * item_dim,
            self.network.hidden,
            self.network.activation,
            self.network.dropout,
        )
        self._met: list[Met] = []

    def _item_dim(self, name: str) -> int:
        """Return the width of a column's id vector together with those of its attributes."""
        names = [name, *self.attributes.of_owner(self.schema.id_space(name))]
        return sum(self.embeddings.dims[one] for one in names)

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples; see :meth:`RankingTask.score`."""
        bags = {name: cast(Jagged, ids[column]) for name, column in self.history.items()}
        items = {name: self._distinct(cast(Tensor, ids[name]), bag) for name, bag in bags.items()}
        asked: dict[str, Ids] = {name: ids[name] for name in self.context}
        asked |= {name: distinct_U for name, (distinct_U, _) in items.items()}
        asked = self.described(asked)
        vectors = cast(dict[str, Tensor], self.embeddings(asked))
        if self.training and self.network.decay:
            self._met = [
                Met(own, vectors[name], self._counts_of(name).to(own.device))
                for name, own in asked.items()
                if isinstance(own, Tensor) and self._is_counted(name)
            ]
        parts = [self._described(name, vectors) for name in self.context]
        if self.history:
            parts += self._interest(items, bags, vectors)
        return cast(Tensor, self.mlp(torch.cat([*parts, dense_BK], 1))).squeeze(1)

    def _distinct(self, target_B: Tensor, history: Jagged) -> tuple[Tensor, Tensor]:
        """Return U items and, for each target and then each history item, its place among them.

        A served program is simpler without a sort: there the items stay as they are.
        """
        items_N = torch.cat([target_B, history.values])
        if not is_tracing():
            distinct_U, place_N = torch.unique(items_N, return_inverse=True)
            return distinct_U, place_N
        return items_N, torch.arange(items_N.shape[0], device=items_N.device)

    def _described(self, name: str, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return the vectors of a column's ids beside those of their attributes."""
        described = self.attributes.of_owner(self.schema.id_space(name))
        return torch.cat([vectors[name], *(vectors[one] for one in described)], 1)

    def _interest(
        self,
        items: Mapping[str, tuple[Tensor, Tensor]],
        bags: Mapping[str, Jagged],
        vectors: Mapping[str, Tensor],
    ) -> list[Tensor]:
        """Return the target's vectors and the weighted history's, (B, d) each."""
        lengths_B = common_lengths({self.history[name]: bag for name, bag in bags.items()})
        batch = lengths_B.shape[0]
        targets, histories = [], []
        for name in bags:
            item_Ud = self._described(name, vectors)
            place_N = items[name][1]
            targets.append(item_Ud[place_N[:batch]])
            # Pad places, not vectors: eight bytes per item instead of 4 d.
            place_BL, mask_BL = to_padded(Jagged(place_N[batch:], lengths_B))
            padded = item_Ud.index_select(0, place_BL.flatten())
            histories.append(padded.unflatten(0, mask_BL.shape))
        target_Bd = torch.cat(targets, 1)
        return [target_Bd, self.attention(target_Bd, torch.cat(histories, 2), mask_BL)]

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return mini-batch aware regularisation of the ids that the last batch met."""
        met, self._met = self._met, []
        return self.network.decay * batch_aware_decay(met) if met else 0.0

    def _is_counted(self, name: str) -> bool:
        """Return whether training counted a column's ids: raw ones it did not."""
        return self.schema.id_space(name) in self.schema.vocabularies

    def _counts_of(self, name: str) -> Tensor:
        return self.schema.vocabularies[self.schema.id_space(name)].counts_V


def check_history(
    history: Mapping[str, str], features: Mapping[str, FeatureConfig], schema: Schema
) -> None:
    """Raise a :class:`RecembError` if a history does not fit its target."""
    for target, column in history.items():
        where = f"history of {target!r}"
        if target not in features or target in schema.attributes or schema.is_list(target):
            raise RecembError(
                f"{where}: the target must be a feature with one id per row; got {target!r}"
            )
        if column not in schema.columns or not schema.is_list(column):
            lists = [name for name, one in schema.columns.items() if one.is_list]
            raise RecembError(f"{where} must be a list column, of {lists}; got {column!r}")
        if schema.id_space(column) != schema.id_space(target):
            raise RecembError(
                f"{where}: column {column!r} must share its vocabulary, got vocabulary "
                f"{schema.id_space(column)!r}; set vocabulary: {schema.id_space(target)}"
            )
