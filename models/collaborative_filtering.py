"""Collaborative filtering: a vector for each user and each item, and the best items by product.

    s_ui = x_u . y_i        trained by BPR, measured by ranking all items

A model is a subclass that says where vectors come from. Everything else is here: positives and
negatives, the loss, and a ranking of all items for the users of validation or test, without those
that training has of them.

Shapes: B samples, K negatives of each, C items read, U users, V items, D elements of a vector.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from data.batch import Batch
from models.bpr import PairSampler, Positives, bpr_losses
from models.catalogue_ranking import (
    TILE_ITEMS,
    TILE_SCORES,
    best_items,
    metric_names,
    set_metrics,
)
from models.embedding_task import EmbeddingTask
from models.fast_rp import FastRP
from models.feature_task import common_dim
from models.propagation import BipartiteGraph
from recemb import collectives, processes
from recemb.errors import RecembError
from recemb.features import FeatureConfig, resolve_features
from recemb.jagged import Jagged, bag_of_each, position_of_each, split_keyed
from recemb.monitor import Monitor
from recemb.rows.optimizers import RowsOptimizer
from recemb.schema import Attribute, Schema
from recemb.tables.kind import TableConfig

USER, ITEM, SEEN = "user", "item", "seen"
"""The columns of a pair, and the attribute of users that has the items of training."""
PART = 1 << 16
"""Ids whose vectors are made at a time where all are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is learned (:mod:`models.bpr`)."""

    num_negatives: int = 1
    """Items drawn for each positive."""
    positives: Positives = "pairs"
    """Which positives an epoch has: each pair of training once, or as many users with an item
    each."""
    l2: float = 1e-4
    """Times half the squared length of the vectors of a sample, added to its loss."""
    initial: FastRP | None = None
    """If given, tables begin with these vectors and not at random; tables of kind full."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        if self.num_negatives < 1:
            raise RecembError(
                f"training: num_negatives must be at least 1, got {self.num_negatives}"
            )
        if not self.l2 >= 0:
            raise RecembError(f"training: l2 must be at least 0, got {self.l2}")
        if self.initial is not None:
            self.initial.check()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How rankings are measured: all items that training does not have of a user are ranked."""

    cutoffs: list[int] = field(default_factory=lambda: [10, 20])
    """The k of hr@k, recall@k, ndcg@k and mrr@k: means over users."""
    monitor: str = "recall@20"
    """The metric by which the best epoch is chosen."""
    popularity: list[float] = field(default_factory=lambda: [0.01, 0.1, 0.5])
    """Shares of the catalogue, by falling training counts, between which recall at the largest
    cutoff is reported apart: of all right answers there, how many were found."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        if not self.cutoffs or min(self.cutoffs) < 1:
            raise RecembError(f"evaluation: cutoffs must be at least 1, got {self.cutoffs}")
        if self.monitor not in metric_names(self.cutoffs):
            raise RecembError(
                f"evaluation: monitor must be one of {metric_names(self.cutoffs)}, got "
                f"{self.monitor!r}"
            )
        shares = [0.0, *self.popularity, 1.0]
        if any(low >= high for low, high in itertools.pairwise(shares)):
            raise RecembError(
                "evaluation: popularity must be rising shares above 0 and below 1, got "
                f"{self.popularity}"
            )

    @property
    def buckets(self) -> list[str]:
        """The names of what is reported by popularity."""
        edges = [f"{100 * share:g}%" for share in (0.0, *self.popularity, 1.0)]
        k = max(self.cutoffs)
        return [f"recall@{k}_of_{a}_to_{b}" for a, b in itertools.pairwise(edges)]


class SampleVectors(NamedTuple):
    """What a step scores.

    Attributes:
        user_BD: Of each sample's user.
        item_CD: Of items.
        squares: Sum of the squares of what is regularised, over all of these.
    """

    user_BD: Tensor
    item_CD: Tensor
    squares: Tensor


class CollaborativeFiltering(EmbeddingTask):
    """Vectors of users and items, trained by BPR.

    Args:
        schema: What the data holds: columns ``user`` and ``item``, the attribute ``seen`` of users.
        tables: Tables by name.
        features: ``user`` and ``item``.
        training: Positives, negatives and regularisation.
        evaluation: Metrics.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.

    Attributes:
        is_propagated: Whether vectors are more than what the tables compose.
        seen: The items of each user.
        num_users: Ids, one for unknown users among them.
        num_items: Items that are known, and so ranked.
    """

    is_propagated = False

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: RowsOptimizer | None = None,
    ) -> None:
        name = type(self).__name__
        self.check_data(name, schema, features)
        resolved = resolve_features(features, tables, schema)
        super().__init__(schema, tables, resolved, learning_rate, rows_optimizer)
        self.training_settings = training or Training()
        self.evaluation = evaluation or Evaluation()
        self.training_settings.check()
        self.evaluation.check()
        self.monitor = Monitor(f"val/{self.evaluation.monitor}", "max")
        self.dim = common_dim(name, self.embeddings.dims)
        self.seen: Attribute = schema.attributes[SEEN]
        self.num_users = schema.vocabularies[USER].num_ids
        self.num_items = schema.vocabularies[ITEM].num_known
        self.sampler = PairSampler(self.seen, self.num_items)
        self.register_buffer("seen_items_P", self.seen.values_M, persistent=False)
        self.register_buffer("seen_offsets_U1", self.seen.offsets_V, persistent=False)
        self.seen_items_P: Tensor
        self.seen_offsets_U1: Tensor
        edges = torch.tensor(self.evaluation.popularity, dtype=torch.float64) * self.num_items
        self.register_buffer("bucket_ends", edges.round().long(), persistent=False)
        self.bucket_ends: Tensor
        self._pairs: list[tuple[Tensor, Tensor]] = []
        if self.training_settings.initial is not None:
            self.begin_with(self.training_settings.initial)

    def begin_with(self, initial: FastRP) -> None:
        """Let the tables begin with vectors that need no training."""
        num_ids = self.schema.vocabularies[ITEM].num_ids
        x_ND = initial.vectors(BipartiteGraph(self.seen, num_ids), self.dim)
        x_ND *= initial.scale / x_ND.square().mean().sqrt().clamp(min=1e-12)
        of_feature = {feature.name: feature.config.table for feature in self.embeddings.features}
        for name, own_ND in zip((USER, ITEM), x_ND.split([self.num_users, num_ids]), strict=True):
            table = of_feature[name]
            config, spaces = self.embeddings.tables[table], self.embeddings.spaces[table]
            if config.kind_name != "full" or config.project is not None or len(spaces) > 1:
                raise RecembError(
                    f"initial: table {table!r} must be of kind full, without project and for one "
                    f"feature, got kind {config.kind_name}; drop training.initial"
                )
            (physical,) = self.embeddings.physical_of[table].values()
            self.embeddings.rows.assign(physical, own_ND)

    @staticmethod
    def check_data(name: str, schema: Schema, features: Mapping[str, FeatureConfig]) -> None:
        """Raise a :class:`RecembError` if the data are no pairs, or the features are not these."""
        seen = schema.attributes.get(SEEN)
        is_of_users = seen is not None and (seen.owner, seen.vocabulary) == (USER, ITEM)
        if not ({USER, ITEM} <= set(schema.columns) and is_of_users):
            raise RecembError(
                f"{name}: the data must have columns {USER!r} and {ITEM!r} and the attribute "
                f"{SEEN!r} of users, got {sorted([*schema.columns, *schema.attributes])}; use a "
                "data module of interactions"
            )
        if set(features) != {USER, ITEM}:
            raise RecembError(
                f"{name}: features must be {USER!r} and {ITEM!r}, got {sorted(features)}"
            )

    # Vectors

    def vectors(self, user_B: Tensor, item_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors that tables compose of users and items."""
        found = self.embeddings({USER: user_B, ITEM: item_C})
        return found[USER], found[ITEM]

    def item_vectors(self) -> Tensor:
        """Return the vectors of all items that are ranked: (V, D)."""
        return self.all_vectors()[1]

    def sample_vectors(self, user_B: Tensor, item_C: Tensor) -> SampleVectors:
        """Return the vectors of a training step."""
        raise NotImplementedError

    def all_vectors(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users and of all items that are ranked: (U, D) and (V, D).

        An unknown user is the mean of those that have taken something.
        """
        raise NotImplementedError

    def with_unknown_user(self, user_UD: Tensor) -> Tensor:
        """Return vectors in which those of users without items are the mean of the others."""
        has_items_U1 = (self.seen_offsets_U1.diff() > 0).unsqueeze(1)
        mean_1D = (user_UD * has_items_U1).sum(0, keepdim=True) / has_items_U1.sum()
        return torch.where(has_items_U1, user_UD, mean_1D)

    def embed_all(self) -> tuple[Tensor, Tensor]:
        """Return the tables' vectors of all users and all items, unknown ones included."""
        count = {USER: self.num_users, ITEM: self.schema.vocabularies[ITEM].num_ids}
        parts = []
        for first in range(0, max(count.values()), PART):
            user_A, item_C = (
                torch.arange(min(first, end), min(first + PART, end), device=self.device)
                for end in count.values()
            )
            parts.append(self.vectors(user_A, item_C))
        return torch.cat([user_AD for user_AD, _ in parts]), torch.cat([one for _, one in parts])

    # Training

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        settings = self.training_settings
        user_B, item_B = pairs_of(batch)
        if settings.positives == "users":
            user_B, item_B = self.sampler.positives(len(user_B))
        size, count = len(user_B), settings.num_negatives
        negative_BK = self.sampler.negatives(user_B, count)
        item_C = torch.cat([item_B, negative_BK.reshape(-1)])
        share = processes.world_size() / batch.total
        total = torch.zeros((), device=self.device)
        for _ in self.embeddings.training_forms():
            user_BD, item_CD, squares = self.sample_vectors(user_B, item_C)
            positive_B = (user_BD * item_CD[:size]).sum(1)
            negative_BKD = item_CD[size:].view(size, count, item_CD.shape[1])
            score_BK = torch.einsum("bd,bkd->bk", user_BD, negative_BKD)
            loss = bpr_losses(positive_B, score_BK).sum() * share
            total = total + loss + (settings.l2 / 2) * share * squares
        shown = loss.detach()
        if processes.world_size() > 1 and self.is_logged():
            shown = collectives.sum_over_processes(shown) / processes.world_size()
        self.log("train/bpr", shown, prog_bar=True, batch_size=batch.num_samples)
        return total + self.embeddings.loss()

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Forget the pairs of the last time."""
        self._pairs = []

    def on_test_epoch_start(self) -> None:
        """Forget the pairs of the last time."""
        self._pairs = []

    def validation_step(self, batch: Batch) -> None:
        """Keep the pairs of a validation batch: a ranking needs all of a user's."""
        self._pairs.append(pairs_of(batch))

    def test_step(self, batch: Batch) -> None:
        """Keep the pairs of a test batch."""
        self._pairs.append(pairs_of(batch))

    def on_validation_epoch_end(self) -> None:
        """Rank, and log the metrics of validation."""
        self._log_ranking("val")

    def on_test_epoch_end(self) -> None:
        """Rank, and log the metrics of the test."""
        self._log_ranking("test")

    def _log_ranking(self, stage: str) -> None:
        user_P = torch.cat([user_B for user_B, _ in self._pairs])
        item_P = torch.cat([item_B for _, item_B in self._pairs])
        if processes.world_size() > 1:
            # Each has a part of every batch: together first, then each some of the users.
            both = processes.from_all((user_P.cpu(), item_P.cpu()))
            user_P = torch.cat([user for user, _ in both]).to(self.device)
            item_P = torch.cat([item for _, item in both]).to(self.device)
        user_UD, item_VD = self.all_vectors()
        for name, value in self.measure(user_UD, item_VD, user_P, item_P).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == self.evaluation.monitor)

    @torch.no_grad()
    def measure(
        self, user_UD: Tensor, item_VD: Tensor, user_P: Tensor, item_P: Tensor
    ) -> dict[str, float]:
        """Return the metrics of vectors on pairs that came, by name; all processes together.

        Args:
            user_UD: Vectors of all users.
            item_VD: Of all items that are ranked.
            user_P: Users of the pairs.
            item_P: Their items; one that is not known counts as an answer that is never given.
        """
        order_P = user_P.argsort(stable=True)
        users_A, count_A = torch.unique_consecutive(user_P[order_P], return_counts=True)
        item_P = item_P[order_P]
        own, world = processes.rank(), processes.world_size()
        ends_A = count_A.cumsum(0)
        size = max(1, TILE_SCORES // min(self.num_items, TILE_ITEMS))
        num_metrics, num_buckets = 4 * len(self.evaluation.cutoffs), len(self.bucket_ends) + 1
        sums = torch.zeros(num_metrics + 1 + 2 * num_buckets, device=self.device).double()
        for start in range(own * size, len(users_A), world * size):
            rows = slice(start, start + size)
            first = int(ends_A[start] - count_A[start])
            right = Jagged(item_P[first : int(ends_A[rows][-1])], count_A[rows])
            sums += self._measured(user_UD, item_VD, users_A[rows], right)
        if world > 1:
            sums = collectives.sum_over_processes(sums)
        metrics, num_users = sums[:num_metrics], sums[num_metrics]
        hits, answers = sums[num_metrics + 1 :].split(num_buckets)
        values = torch.cat([metrics / num_users, hits / answers])
        names = [*metric_names(self.evaluation.cutoffs), *self.evaluation.buckets]
        # A bucket without answers has no recall.
        return {
            name: value
            for name, value in zip(names, values.tolist(), strict=True)
            if value == value
        }

    def _measured(self, user_UD: Tensor, item_VD: Tensor, users_A: Tensor, right: Jagged) -> Tensor:
        """Return, for some users: sums of metrics, their number, hits and answers by bucket."""
        count = min(max(self.evaluation.cutoffs), self.num_items)
        items_AK, scores_AK = self.recommend(user_UD[users_A], item_VD, users_A, count)
        row_A1 = torch.arange(len(users_A), device=users_A.device).unsqueeze(1)
        width = self.num_items + 1  # an item that is not known has the number V
        right_P = bag_of_each(right.lengths) * width + right.values.clamp(max=self.num_items)
        # A score that is no number is no hit: a broken model finds nothing.
        is_hit_AK = torch.isin(row_A1 * width + items_AK, right_P) & scores_AK.isfinite()
        metrics = set_metrics(is_hit_AK, right.lengths, self.evaluation.cutoffs).sum(0)
        num_buckets = len(self.bucket_ends) + 1
        known_P = right.values[right.values < self.num_items]
        by_bucket = [
            torch.bincount(
                torch.bucketize(items, self.bucket_ends, right=True), minlength=num_buckets
            )
            for items in (items_AK[is_hit_AK], known_P)
        ]
        return torch.cat([metrics, metrics.new_tensor([len(users_A)]), *by_bucket])

    def recommend(
        self, user_BD: Tensor, item_VD: Tensor, user_B: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the best items of users without those that training has of them: (B, K) each.

        Args:
            user_BD: Vectors of the users.
            item_VD: Of all items.
            user_B: The users.
            count: K.
        """
        start_B = self.seen_offsets_U1[user_B]
        lengths_B = self.seen_offsets_U1[user_B + 1] - start_B
        row_E = bag_of_each(lengths_B)
        item_E = self.seen_items_P[start_B[row_E] + position_of_each(lengths_B)]

        def score(query_BD: Tensor, tile: slice) -> Tensor:
            return query_BD @ item_VD[tile].t()

        return best_items(user_BD, score, self.num_items, count, (row_E, item_E))

    def on_predict_epoch_start(self) -> None:
        """Make the vectors once."""
        self._vectors = self.all_vectors()

    def predict_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the score of each pair."""
        user_B, item_B = pairs_of(batch)
        user_UD, item_VD = self._vectors
        known_B = item_B < self.num_items
        score_B = (user_UD[user_B] * item_VD[item_B.clamp(max=self.num_items - 1)]).sum(1)
        return {"score": torch.where(known_B, score_B, -torch.inf)}


def pairs_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the users and the items of a batch."""
    columns = split_keyed(batch.ids)
    return columns[USER].values, columns[ITEM].values
