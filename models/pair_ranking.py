"""Pair ranking: the vectors of what asks and of what is asked for, and the best by product.

    s_qa = x_q . y_a        q a query (a user, or an item), a an answer (an item)

All answers are ranked for the queries of validation or test, without those that training has of
them. What is learned, and from what, is a subclass's.

Shapes: B samples, C answers read, U queries, V answers, D elements of a vector.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recemb import collectives, processes
from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig, resolve_features
from recemb.jagged import Jagged, bag_of_each, position_of_each, split_keyed
from recemb.models.catalogue_ranking import (
    TILE_ITEMS,
    TILE_SCORES,
    best_items,
    metric_names,
    set_metrics,
)
from recemb.models.embedding_task import STAGES, EmbeddingTask
from recemb.models.feature_task import common_dim
from recemb.monitor import Monitor
from recemb.rows.optimizers import UpdateRule
from recemb.schema import Attribute, Schema
from recemb.tables.kind import TableConfig

SEEN = "seen"
"""The attribute of queries that has the answers of training."""
PART = 1 << 16
"""Ids whose vectors are made at a time where all are."""


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


class PairRanking(EmbeddingTask):
    """Vectors of queries and answers; a subclass says where they come from and what is learned.

    Args:
        schema: What the data holds: a column of queries and one of answers, and the attribute
            ``seen`` of queries.
        tables: Tables by name.
        features: The two columns.
        evaluation: Metrics.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.

    Attributes:
        query: The column of queries.
        answer: The column of answers.
        data_modules: What data modules of such columns are called.
        is_propagated: Whether vectors are more than what the tables compose.
        seen: The answers that training has of each query.
        num_queries: Ids, one for unknown queries among them.
        num_items: Answers that are known, and so ranked.
    """

    query, answer = "user", "item"
    data_modules = "interactions"
    is_propagated = False

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: UpdateRule | None = None,
    ) -> None:
        name = type(self).__name__
        self.check_data(name, schema, features)
        resolved = resolve_features(features, tables, schema)
        super().__init__(schema, tables, resolved, learning_rate, rows_optimizer)
        self.evaluation = evaluation or Evaluation()
        self.evaluation.check()
        self.monitor = Monitor(f"val/{self.evaluation.monitor}", "max")
        self.dim = common_dim(name, self.embeddings.dims)
        self.seen: Attribute = schema.attributes[SEEN]
        self.num_queries = schema.vocabularies[schema.id_space(self.query)].num_ids
        answers = schema.vocabularies[schema.id_space(self.answer)]
        self.num_answer_ids, self.num_items = answers.num_ids, answers.num_known
        self.register_buffer("seen_items_P", self.seen.values_M, persistent=False)
        self.register_buffer("seen_offsets_U1", self.seen.offsets_V, persistent=False)
        self.seen_items_P: Tensor
        self.seen_offsets_U1: Tensor
        edges = torch.tensor(self.evaluation.popularity, dtype=torch.float64) * self.num_items
        self.register_buffer("bucket_ends", edges.round().long(), persistent=False)
        self.bucket_ends: Tensor
        self._pairs: list[tuple[Tensor, ...]] = []
        self._bad = 0, 0

    @classmethod
    def check_data(cls, name: str, schema: Schema, features: Mapping[str, FeatureConfig]) -> None:
        """Raise a :class:`RecembError` if the data are no pairs, or the features are not these."""
        both = {cls.query, cls.answer}
        seen = schema.attributes.get(SEEN)
        fits = both <= set(schema.columns) and seen is not None
        if fits and seen is not None:
            spaces = (schema.id_space(cls.query), schema.id_space(cls.answer))
            fits = (seen.owner, seen.vocabulary) == spaces
        if not fits:
            raise RecembError(
                f"{name}: the data must have columns {cls.query!r} and {cls.answer!r} and the "
                f"attribute {SEEN!r} of the first, got "
                f"{sorted([*schema.columns, *schema.attributes])}; use a data module of "
                f"{cls.data_modules}"
            )
        if set(features) != both:
            raise RecembError(
                f"{name}: features must be {cls.query!r} and {cls.answer!r}, got {sorted(features)}"
            )

    # Vectors

    def vectors(self, user_B: Tensor, item_C: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors that tables compose of queries and answers."""
        found = self.embeddings({self.query: user_B, self.answer: item_C})
        return found[self.query], found[self.answer]

    def item_vectors(self) -> Tensor:
        """Return the vectors of all answers that are ranked: (V, D)."""
        return self.all_vectors()[1]

    def all_vectors(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all queries and of all answers that are ranked: (U, D) and (V, D).

        A query that nothing is known of is the mean of the others.
        """
        user_UD, item_VD = self.embed_all()
        return self.with_unknown(user_UD), item_VD[: self.num_items]

    def with_unknown(self, user_UD: Tensor) -> Tensor:
        """Return vectors in which those of queries that are not known are the others' mean."""
        is_known_U1 = self.is_known(torch.arange(len(user_UD), device=user_UD.device)).unsqueeze(1)
        mean_1D = (user_UD * is_known_U1).sum(0, keepdim=True) / is_known_U1.sum()
        return torch.where(is_known_U1, user_UD, mean_1D)

    def is_known(self, user_B: Tensor) -> Tensor:
        """Return whether training has learned something of queries: (B,)."""
        return self.seen_offsets_U1[user_B + 1] > self.seen_offsets_U1[user_B]

    def embed_all(self) -> tuple[Tensor, Tensor]:
        """Return the tables' vectors of all queries and all answers, unknown ones included."""
        count = {self.query: self.num_queries, self.answer: self.num_answer_ids}
        parts = []
        for first in range(0, max(count.values()), PART):
            user_A, item_C = (
                torch.arange(min(first, end), min(first + PART, end), device=self.device)
                for end in count.values()
            )
            parts.append(self.vectors(user_A, item_C))
        return torch.cat([user_AD for user_AD, _ in parts]), torch.cat([one for _, one in parts])

    # Evaluation

    def pairs_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the queries and the answers of a batch."""
        columns = split_keyed(batch.ids)
        return columns[self.query].values, columns[self.answer].values

    def on_validation_epoch_start(self) -> None:
        """Forget the pairs of the last time."""
        self._pairs = []

    def on_test_epoch_start(self) -> None:
        """Forget the pairs of the last time."""
        self._pairs = []

    def validation_step(self, batch: Batch) -> None:
        """Keep the pairs of a validation batch: a ranking needs all of a user's."""
        self._pairs.append(self.pairs_of(batch))

    def test_step(self, batch: Batch) -> None:
        """Keep the pairs of a test batch."""
        self._pairs.append(self.pairs_of(batch))

    def on_validation_epoch_end(self) -> None:
        """Rank, and log the metrics of validation."""
        self._log_ranking("val")

    def on_test_epoch_end(self) -> None:
        """Rank, and log the metrics of the test."""
        self._log_ranking("test")

    def _log_ranking(self, stage: str) -> None:
        user_UD, item_VD = self.all_vectors()
        values = self.measure(user_UD, item_VD, *self.gathered_pairs())
        self.log_metrics(stage, values, self.evaluation.monitor)

    def log_metrics(self, stage: str, values: Mapping[str, float], monitor: str) -> None:
        """Log metrics; where the one that epochs are compared by is missing, keep why.

        Raises:
            RecembError: If one was made of scores that are NaN or infinite.
        """
        bad, self._bad = self._bad, (0, 0)
        self.check_finite(STAGES[stage], *bad, "rankings")
        for name, value in values.items():
            self.log_metric(f"{stage}/{name}", value, prog_bar=name == monitor)
        if monitor not in values:
            self.log_metric(f"{stage}/{monitor}", torch.nan, f"{STAGES[stage]} has no pairs for it")

    def gathered_pairs(self) -> tuple[Tensor, ...]:
        """Return what :meth:`pairs_of` gave of all batches, of all processes."""
        parts = tuple(torch.cat(tensors) for tensors in zip(*self._pairs, strict=True))
        if processes.world_size() > 1:
            # Each has a part of every batch: together first, then each some of the queries.
            everyone = processes.from_all(tuple(part.cpu() for part in parts))
            parts = tuple(
                torch.cat(tensors).to(self.device) for tensors in zip(*everyone, strict=True)
            )
        return parts

    @torch.no_grad()
    def measure(
        self, user_UD: Tensor, item_VD: Tensor, user_P: Tensor, item_P: Tensor
    ) -> dict[str, float]:
        """Return the metrics of vectors on pairs that came, by name; all processes together.

        There are none without pairs, and none by popularity without answers there.

        Args:
            user_UD: Vectors of all users.
            item_VD: Of all items that are ranked.
            user_P: Users of the pairs.
            item_P: Their items; one that is not known counts as an answer that is never given.

        How many users have a best score that is NaN or infinite is kept: :meth:`log_metrics` ends
        on them. Here such scores are no hits.
        """
        order_P = user_P.argsort(stable=True)
        users_A, count_A = torch.unique_consecutive(user_P[order_P], return_counts=True)
        item_P = item_P[order_P]
        own, world = processes.rank(), processes.world_size()
        ends_A = count_A.cumsum(0)
        size = max(1, TILE_SCORES // min(self.num_items, TILE_ITEMS))
        num_metrics, num_buckets = 4 * len(self.evaluation.cutoffs), len(self.bucket_ends) + 1
        sums = torch.zeros(num_metrics + 2 + 2 * num_buckets, device=self.device).double()
        for start in range(own * size, len(users_A), world * size):
            rows = slice(start, start + size)
            first = int(ends_A[start] - count_A[start])
            right = Jagged(item_P[first : int(ends_A[rows][-1])], count_A[rows])
            sums += self._measured(user_UD, item_VD, users_A[rows], right)
        if world > 1:
            sums = collectives.sum_over_processes(sums)
        metrics, num_users, num_bad = sums[:num_metrics], sums[num_metrics], sums[num_metrics + 1]
        self._bad = self._bad[0] + int(num_bad), self._bad[1] + int(num_users)
        hits, answers = sums[num_metrics + 2 :].split(num_buckets)
        values = torch.cat([metrics / num_users, hits / answers])
        names = [*metric_names(self.evaluation.cutoffs), *self.evaluation.buckets]
        # A bucket without answers has no recall, and a ranking for nobody no metric.
        return {
            name: value
            for name, value in zip(names, values.tolist(), strict=True)
            if value == value
        }

    def _measured(self, user_UD: Tensor, item_VD: Tensor, users_A: Tensor, right: Jagged) -> Tensor:
        """Return sums over users: of metrics, users, bad scores, hits and answers by bucket."""
        count = min(max(self.evaluation.cutoffs), self.num_items)
        items_AK, scores_AK = self.recommend(user_UD[users_A], item_VD, users_A, count)
        row_A1 = torch.arange(len(users_A), device=users_A.device).unsqueeze(1)
        width = self.num_items + 1  # an item that is not known has the number V
        right_P = bag_of_each(right.lengths) * width + right.values.clamp(max=self.num_items)
        # Minus infinity is what is left out; NaN and infinity are larger than any, so come first.
        is_bad_A = (scores_AK.isnan() | (scores_AK == torch.inf)).any(1)
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
        counts = metrics.new_tensor([len(users_A), int(is_bad_A.sum())])
        return torch.cat([metrics, counts, *by_bucket])

    def recommend(
        self, user_BD: Tensor, item_VD: Tensor, user_B: Tensor, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the best items of users without those that training has of them: (B, K) each.

        Where fewer are left, the last are -1 and their scores minus infinity.

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
        user_B, item_B = self.pairs_of(batch)
        user_UD, item_VD = self._vectors
        known_B = item_B < self.num_items
        score_B = (user_UD[user_B] * item_VD[item_B.clamp(max=self.num_items - 1)]).sum(1)
        self.check_finite("the batch", int((~score_B.isfinite()).sum()), len(score_B))
        return {"score": torch.where(known_B, score_B, -torch.inf)}
