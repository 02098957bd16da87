"""Collaborative filtering: a vector for each user and each item, and the best items by product.

    s_ui = x_u . y_i        trained by BPR, measured by ranking all items

A model is a subclass that says where vectors come from. Positives, negatives and the loss are here;
the ranking is :mod:`models.pair_ranking`.

Shapes: B samples, K negatives of each, C items read, U users, V items, D elements of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.batch import Batch
from models.bpr import Negatives, PairSampler, Positives, bpr_losses
from models.fast_rp import FastRP
from models.pair_ranking import Evaluation, PairRanking
from models.propagation import BipartiteGraph
from recemb import collectives, processes
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.rows.optimizers import RowsOptimizer
from recemb.schema import Schema
from recemb.tables.kind import TableConfig

USER, ITEM = "user", "item"
"""The columns of a pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is learned (:mod:`models.bpr`)."""

    num_negatives: int = 1
    """Items drawn for each positive."""
    negatives: Negatives = "all"
    """Which of them count: the mean of all, or the one that scores highest."""
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
        if self.negatives == "hardest" and self.num_negatives < 2:
            raise RecembError(
                "training: negatives 'hardest' chooses among num_negatives, which must be at least "
                f"2, got {self.num_negatives}"
            )
        if not self.l2 >= 0:
            raise RecembError(f"training: l2 must be at least 0, got {self.l2}")
        if self.initial is not None:
            self.initial.check()


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


class CollaborativeFiltering(PairRanking):
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
    """

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
        super().__init__(schema, tables, features, evaluation, learning_rate, rows_optimizer)
        self.training_settings = training or Training()
        self.training_settings.check()
        self.sampler = PairSampler(self.seen, self.num_items)
        if self.training_settings.initial is not None:
            self.begin_with(self.training_settings.initial)

    def begin_with(self, initial: FastRP) -> None:
        """Let the tables begin with vectors that need no training."""
        num_ids = self.schema.vocabularies[ITEM].num_ids
        x_ND = initial.vectors(BipartiteGraph(self.seen, num_ids), self.dim)
        x_ND *= initial.scale / x_ND.square().mean().sqrt().clamp(min=1e-12)
        of_feature = {feature.name: feature.config.table for feature in self.embeddings.features}
        for name, own_ND in zip((USER, ITEM), x_ND.split([self.num_queries, num_ids]), strict=True):
            table = of_feature[name]
            config, spaces = self.embeddings.tables[table], self.embeddings.spaces[table]
            if config.kind_name != "full" or config.project is not None or len(spaces) > 1:
                raise RecembError(
                    f"initial: table {table!r} must be of kind full, without project and for one "
                    f"feature, got kind {config.kind_name}; drop training.initial"
                )
            (physical,) = self.embeddings.physical_of[table].values()
            self.embeddings.rows.assign(physical, own_ND)

    def sample_vectors(self, user_B: Tensor, item_C: Tensor) -> SampleVectors:
        """Return the vectors of a training step."""
        raise NotImplementedError

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        settings = self.training_settings
        user_B, item_B = self.pairs_of(batch)
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
            loss = bpr_losses(positive_B, score_BK, settings.negatives).sum() * share
            total = total + loss + (settings.l2 / 2) * share * squares
        shown = loss.detach()
        if processes.world_size() > 1 and self.is_logged():
            shown = collectives.sum_over_processes(shown) / processes.world_size()
        self.log("train/bpr", shown, prog_bar=True, batch_size=batch.num_samples)
        return total + self.embeddings.loss()
