"""Collaborative filtering: a vector for each user and each item, and the best items by product.

    s_ui = x_u . y_i        trained by BPR, measured by ranking all items

A model is a subclass that says where vectors come from. Positives, negatives and the loss are here;
the ranking is :mod:`recemb.models.pair_ranking`.

Shapes: B samples, K negatives of each, S distinct nodes, users and items, D elements of a vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recemb import collectives, processes
from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.models.bpr import Negatives, PairSampler, Positives, bpr_losses, hardest
from recemb.models.fast_rp import FastRP
from recemb.models.pair_ranking import Evaluation, PairRanking
from recemb.models.propagation import BipartiteGraph
from recemb.rows.optimizers import UpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig

USER, ITEM = "user", "item"
"""The columns of a pair."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is learned (:mod:`recemb.models.bpr`)."""

    num_negatives: int = 1
    """Items drawn for each positive."""
    negatives: Negatives = "all"
    """Which of them count: the mean of all, or the one that scores highest."""
    positives: Positives = "pairs"
    """Which positives an epoch has: each pair of training once, or as many users with an item
    each."""
    l2: float = 1e-4
    """Times half the squared length of a sample's vectors, all negatives among them, added to its
    loss."""
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
        rows_optimizer: UpdateRule | None = None,
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

    def node_vectors(self, nodes_S: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors of users and items, and what of them is regularised: (S, .) each.

        A subclass says where they come from.

        Args:
            nodes_S: Distinct, ascending: users, and items behind all users.
        """
        raise NotImplementedError

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        settings = self.training_settings
        user_B, item_B = self.pairs_of(batch)
        if settings.positives == "users":
            user_B, item_B = self.sampler.positives(len(user_B))
        size = len(user_B)
        negative_BK = self.sampler.negatives(user_B, settings.num_negatives)
        # Each node once, however often a batch meets it.
        items_M = torch.cat([item_B, negative_BK.reshape(-1)]) + self.num_queries
        nodes_S, node_M = distinct(
            torch.cat([user_B, items_M]), self.num_queries + self.num_answer_ids
        )
        user_B, item_B, negative_M = node_M.split([size, size, negative_BK.numel()])
        candidate_BK = negative_M.view_as(negative_BK)
        share = processes.world_size() / batch.total
        total = torch.zeros((), device=self.device)
        for _ in self.embeddings.training_forms():
            x_SD, regular_SD = self.node_vectors(nodes_S)
            negative_BK = candidate_BK
            if settings.negatives == "hardest":
                negative_BK = hardest(x_SD.detach(), user_B, candidate_BK)
            user_BD = x_SD.index_select(0, user_B)
            positive_B = (user_BD * x_SD.index_select(0, item_B)).sum(1)
            negative_MD = x_SD.index_select(0, negative_BK.reshape(-1))
            negative_BKD = negative_MD.view(*negative_BK.shape, x_SD.shape[1])
            score_BK = torch.einsum("bd,bkd->bk", user_BD, negative_BKD)
            loss = bpr_losses(positive_B, score_BK).sum() * share
            # Of all that were drawn, also those that did not count.
            squares = regular_SD.square().sum(1).index_select(0, node_M).sum()
            total = total + loss + (settings.l2 / 2) * share * squares
        shown = loss.detach()
        if processes.world_size() > 1 and self.is_logged():
            shown = collectives.sum_over_processes(shown) / processes.world_size()
        self.log("train/bpr", shown, prog_bar=True, batch_size=batch.num_samples)
        return total + self.embeddings.loss()


def distinct(node_M: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return the distinct nodes, ascending, and where each of some is among them: (S,), (M,).

    Without sorting, which would take longer than to mark them all.
    """
    is_met_N = torch.zeros(num_nodes, dtype=torch.bool, device=node_M.device)
    is_met_N[node_M] = True
    place_N = is_met_N.cumsum(0) - 1
    return is_met_N.nonzero().squeeze(1), place_N[node_M]
