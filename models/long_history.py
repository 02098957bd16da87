"""Models of long histories: what DARE, TWIN and DIN over thousands of behaviours have in common.

    logit = MLP([context, t, h]) or MLP([context, t, h, t * h])      h = sum_j w_j history_j

A behaviour is an item (its id with its attributes) and when it was; t, the target, is an item at
time 0. Histories stay jagged: N behaviours of a batch are N places among its U distinct items.

Shapes: B samples, L longest history, N behaviours, U distinct items of a batch, k kept behaviours,
d attention vector, D representation vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids, Jagged, is_tracing, position_of_each, to_padded
from recemb.models.din import check_history
from recemb.models.feature_task import FeatureTask
from recemb.models.jagged_products import Places, sums
from recemb.models.layers import MLP, Activation, averages_kept
from recemb.models.parallel_histories import common_lengths
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig

AGES = "ages"
"""Key of the ids under which a request may say how many behaviours came after each one."""
TIME_SCALE = 0.05
"""Time vectors start in about -TIME_SCALE..TIME_SCALE, as tables do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Everything of a model of long histories but its tables."""

    hidden: list[int] = field(default_factory=lambda: [200, 80])
    """Widths of the hidden layers."""
    activation: Activation = "dice"
    """Of the hidden layers."""
    dropout: float = 0.0
    """Share of hidden values dropped in training."""
    keep: int = 20
    """Behaviours that the search keeps; at least 1."""
    time_dim: int = 16
    """Elements of a time vector in the representation."""
    attention_time_dim: int | None = None
    """Elements of a time vector in the attention, where it has its own; by default half of
    ``time_dim``."""
    num_times: int = 200
    """Distinct times. Older behaviours share the last."""
    auxiliary: float = 1.0
    """Weight of the loss of the whole history, weighted by its attention before the search."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        for name in ("keep", "time_dim", "attention_time_dim", "num_times"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RecembError(f"network: {name} must be at least 1, got {value}")
        if not self.auxiliary >= 0:
            raise RecembError(f"network: auxiliary must be at least 0, got {self.auxiliary}")


class Items(NamedTuple):
    """What a batch's targets and behaviours read of one column (or of time)."""

    representation_UD: Tensor
    """What is summed."""
    query_Ud: Tensor
    """What a target asks with."""
    key_Ud: Tensor
    """What a behaviour answers with."""
    place_B: Tensor
    """Of each target among the U."""
    places: Places
    """Of the behaviours among the U."""


class Kept(NamedTuple):
    """The behaviours of a batch that the search keeps, the most attended first."""

    logit_Bk: Tensor
    position_Bk: Tensor
    """Among the sample's behaviours, from the oldest, 0."""
    is_real_Bk: Tensor
    """False where a history has fewer than k behaviours."""


def search_histories(logits: Jagged, keep: int) -> Kept:
    """Return the ``keep`` behaviours of each history with the largest logits.

    Padding is masked before the search, and a history shorter than ``keep`` has fewer.
    """
    logit_BL, _ = to_padded(logits, fill=torch.finfo(logits.values.dtype).min)
    if is_tracing():
        # A traced program cannot take the smaller of two sizes; it can make each row long enough.
        logit_BL = F.pad(logit_BL, (0, keep), value=torch.finfo(logits.values.dtype).min)
        count = keep
    else:
        count = min(keep, logit_BL.shape[1])
    logit_Bk, position_Bk = logit_BL.topk(count, 1)
    number_k = torch.arange(count, device=logit_BL.device)
    return Kept(logit_Bk, position_Bk, number_k < logits.lengths.unsqueeze(1))


def softmax_of_real(logit_BL: Tensor, is_real_BL: Tensor) -> Tensor:
    """Return the softmax over the real entries of each row; zeros elsewhere and in empty rows."""
    lowest = torch.finfo(logit_BL.dtype).min
    weight_BL = logit_BL.masked_fill(~is_real_BL, lowest).softmax(1)
    return weight_BL.masked_fill(~is_real_BL, 0.0)


class LongHistoryTask(FeatureTask):
    """A ranking task that attends to long histories; a subclass says how.

    Args:
        schema: What the data holds.
        tables: Tables by name.
        features: Features by name. History columns are no features: they read what their target
            reads.
        history: Target column to history column, at least one; several are parallel.
        seconds: Raw list column parallel to the histories: how long before the target each
            behaviour was. Its power of two is then the time; without, behaviours are numbered
            from the newest.
        network: Layers and search.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.
        copies: By feature, another one whose ids it reads once more.
        is_crossed: Whether the network sees the product of target and history.
        is_searched: Whether the search cuts the history, or all of it is summed.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        history: Mapping[str, str],
        seconds: str | None,
        network: Network | None,
        learning_rate: float,
        rows_optimizer: AnyUpdateRule | None,
        copies: Mapping[str, str] | None = None,
        is_crossed: bool = True,
        is_searched: bool = True,
    ) -> None:
        read = {copy: history[one] for copy, one in (copies or {}).items() if one in history}
        super().__init__(
            schema, tables, features, learning_rate, rows_optimizer, {**history, **read}, copies
        )
        if not history:
            raise RecembError("model: history must name a target and its history column, got none")
        own = {name: one for name, one in features.items() if name not in (copies or {})}
        check_history(history, own, schema)
        if seconds is not None:
            check_seconds(seconds, schema)
        self.history = dict(history)
        self.seconds = seconds
        self.network = network or Network()
        self.network.check()
        self.copies = dict(copies or {})
        self.is_crossed = is_crossed
        self.is_searched = is_searched
        self.context = [name for name in self.columns if name not in self.history]
        self.time = time_vectors(self.network.num_times, self.network.time_dim)
        edges = 2 ** torch.arange(min(self.network.num_times - 1, 62))
        self.register_buffer("edges_T", edges, persistent=False)
        self.item_dim = sum(self.described_dim(name) for name in self.history)
        self.vector_dim = self.item_dim + self.network.time_dim
        context_dim = sum(self.described_dim(name) for name in self.context) + len(schema.dense)
        parts = 3 if is_crossed else 2
        self.mlp = MLP(
            context_dim + parts * self.vector_dim,
            self.network.hidden,
            self.network.activation,
            self.network.dropout,
        )
        self._whole_B: Tensor | None = None

    def names_of(self, name: str) -> list[str]:
        """Return a column and the attributes of its ids, as far as they are features."""
        return [name, *self.attributes.of_owner(self.schema.id_space(name))]

    def described_dim(self, name: str) -> int:
        """Return the width of a column's id vector together with those of its attributes."""
        return sum(self.embeddings.dims[one] for one in self.names_of(name))

    def attention_of(
        self, name: str, vectors: Mapping[str, Tensor], representation_UD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the queries and keys of a column's items: (U, d) both, or one tensor twice."""
        raise NotImplementedError

    def attention_of_times(self) -> tuple[Tensor, Tensor]:
        """Return queries and keys of times: (num_times + 1, d); time 0 is the target's."""
        raise NotImplementedError

    def logits_of(self, items: list[Items]) -> Tensor:
        """Return the attention logit of each behaviour: (N,).

        Args:
            items: By history column, then time.
        """
        raise NotImplementedError

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples; see :meth:`RankingTask.score`."""
        items, context = self.read(ids)
        return self.score_items(items, torch.cat([*context, dense_BK], 1))

    def read(self, ids: Mapping[str, Ids]) -> tuple[list[Items], list[Tensor]]:
        """Return what targets and behaviours read, and the context's vectors: (B, ...) each."""
        bags = {name: cast(Jagged, ids[column]) for name, column in self.history.items()}
        lengths_B = common_lengths(self._parallel(ids))
        times_N = self.times(ids, lengths_B)
        asked: dict[str, Ids] = {name: ids[name] for name in self.context}
        places = {}
        for name, bag in bags.items():
            asked[name], places[name] = distinct_items(cast(Tensor, ids[name]), bag.values)
        asked = self.described(asked)
        asked |= {copy: asked[original] for copy, original in self.copies.items()}
        vectors = cast(dict[str, Tensor], self.embeddings(asked))
        batch = lengths_B.shape[0]
        items = []
        for name in self.history:
            representation_UD = torch.cat([vectors[one] for one in self.names_of(name)], 1)
            query_Ud, key_Ud = self.attention_of(name, vectors, representation_UD)
            place_N = places[name]
            own = Places(place_N[batch:], lengths_B)
            items.append(Items(representation_UD, query_Ud, key_Ud, place_N[:batch], own))
        query_Td, key_Td = self.attention_of_times()
        at_target_B = torch.zeros_like(lengths_B)
        own = Places(times_N, lengths_B)
        items.append(Items(self.time.weight, query_Td, key_Td, at_target_B, own))
        context = [vectors[one] for name in self.context for one in self.names_of(name)]
        return items, context

    def _parallel(self, ids: Mapping[str, Ids]) -> dict[str, Jagged]:
        """Return the histories, and the seconds if there are any."""
        columns = [*self.history.values(), *([self.seconds] if self.seconds else [])]
        return {column: cast(Jagged, ids[column]) for column in columns}

    def times(self, ids: Mapping[str, Ids], lengths_B: Tensor) -> Tensor:
        """Return the time of each behaviour: 1 (newest) .. num_times."""
        if self.seconds is not None:
            gap_N = cast(Jagged, ids[self.seconds]).values
            return times_of_seconds(gap_N, self.get_buffer("edges_T"))
        if AGES in ids:
            age_N = cast(Jagged, ids[AGES]).values
        else:
            length_N = torch.repeat_interleave(lengths_B, lengths_B)
            age_N = length_N - 1 - position_of_each(lengths_B)
        return times_of_ages(age_N, self.network.num_times)

    def score_items(self, items: list[Items], context_BC: Tensor) -> Tensor:
        """Return the logits of B samples from what their targets and behaviours have read."""
        logit_N = self.logits_of(items)
        target_BD = self.targets_of(items)
        if self.training and self.is_searched and self.network.auxiliary:
            whole_BD = self.whole_history(items, logit_N)
            # Its values differ from those that are served, whose averages are to be kept.
            with averages_kept(self.mlp):
                self._whole_B = self.head(context_BC, target_BD, whole_BD)
        return self.head(context_BC, target_BD, self.history_of(items, logit_N))

    def targets_of(self, items: list[Items]) -> Tensor:
        """Return the vectors of the targets: (B, D)."""
        return torch.cat([one.representation_UD[one.place_B] for one in items], 1)

    def history_of(self, items: list[Items], logit_N: Tensor) -> Tensor:
        """Return the vectors of the histories, after the search if there is one: (B, D)."""
        if self.is_searched:
            return self.kept_history(items, logit_N)
        return self.whole_history(items, logit_N)

    def head(self, context_BC: Tensor, target_BD: Tensor, history_BD: Tensor) -> Tensor:
        """Return the logits of B samples from the vectors of target and history."""
        parts = [context_BC, target_BD, history_BD]
        if self.is_crossed:
            parts.append(target_BD * history_BD)
        return cast(Tensor, self.mlp(torch.cat(parts, 1))).squeeze(1)

    def whole_history(self, items: list[Items], logit_N: Tensor) -> Tensor:
        """Return the sum of all behaviours by their softmax: (B, D)."""
        weight_N = self.weights_of(items, logit_N)
        return torch.cat([sums(weight_N, one.representation_UD, one.places) for one in items], 1)

    def weights_of(self, items: list[Items], logit_N: Tensor) -> Tensor:
        """Return the softmax of each history's logits: (N,)."""
        logit_BL, mask_BL = to_padded(Jagged(logit_N, items[0].places.lengths_B))
        return softmax_of_real(logit_BL, mask_BL)[mask_BL]

    def kept_history(self, items: list[Items], logit_N: Tensor) -> Tensor:
        """Return the sum of the behaviours that the search keeps, by a softmax over those."""
        lengths_B = items[0].places.lengths_B
        kept = search_histories(Jagged(logit_N, lengths_B), self.network.keep)
        weight_Bk = softmax_of_real(kept.logit_Bk, kept.is_real_Bk)
        at_Bk = kept.position_Bk + items[0].places.starts.unsqueeze(1)
        # What is not real has weight 0 and may be any behaviour; there may be none at all.
        at_Bk = torch.where(kept.is_real_Bk, at_Bk, logit_N.shape[0])
        each_B = torch.ones_like(lengths_B) * at_Bk.shape[1]
        found = []
        for one in items:
            place_N = F.pad(one.places.place_N, (0, 1))
            own = Places(place_N[at_Bk.flatten()], each_B)
            found.append(sums(weight_Bk.flatten(), one.representation_UD, own))
        return torch.cat(found, 1)

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return the auxiliary loss: that of the whole history, before the search cuts it."""
        whole_B, self._whole_B = self._whole_B, None
        if whole_B is None:
            return 0.0
        return self.network.auxiliary * self.mean_loss(whole_B, batch)


def time_vectors(num_times: int, dim: int) -> nn.Embedding:
    """Return a vector per time; time 0 is the target's own."""
    vectors = nn.Embedding(num_times + 1, dim)
    nn.init.uniform_(vectors.weight, -TIME_SCALE, TIME_SCALE)
    return vectors


def times_of_ages(age_N: Tensor, num_times: int) -> Tensor:
    """Return the times, 1 .. num_times, of behaviours after which so many came."""
    return age_N.clamp(0, num_times - 1) + 1


def times_of_seconds(seconds_N: Tensor, edges_T: Tensor) -> Tensor:
    """Return the times of behaviours so many seconds before their target.

    Args:
        seconds_N: Negative ones count as 0.
        edges_T: Powers of two: what is below the first has time 1, below the next 2, and so on.
    """
    return torch.bucketize(seconds_N, edges_T, right=True) + 1


def distinct_items(target_B: Tensor, history_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return U items and, for each target and then each behaviour, its place among them.

    A served program is simpler without a sort: there the items stay as they are.
    """
    items_M = torch.cat([target_B, history_N])
    if not is_tracing():
        found: Any = torch.unique(items_M, return_inverse=True)
        return found[0], found[1]
    return items_M, torch.arange(items_M.shape[0], device=items_M.device)


def check_seconds(column: str, schema: Schema) -> None:
    """Raise a :class:`RecembError` if a column cannot say how long ago behaviours were."""
    if column not in schema.columns or not schema.columns[column].is_list:
        lists = [name for name, one in schema.columns.items() if one.is_list]
        raise RecembError(f"seconds must be a list column, of {lists}; got {column!r}")
    if schema.columns[column].vocabulary is not None:
        raise RecembError(f"seconds: column {column!r} must hold numbers; set raw: true")
