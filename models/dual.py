"""Dual embeddings: two vectors of every item, for what goes with it and for what is like it.

    complements of q   IN_q . OUT_c       trained by skip-gram with negative sampling
    substitutes of q   IN_q . IN_c        items with the same complements have like vectors

Pairs (item, context) of baskets, sessions or relations are those of a skip-gram: the item is read
from an IN table, its context from an OUT table, tables of any kind. Where features name one table
for both, there is one vector per item, and no difference between the two products.

Shapes: B pairs, K negatives of each, V items, D elements of a vector.

Source: Kvernadze et al., "Two Is Better Than One: Dual Embeddings for Complementary Product
Recommendations", ICKG 2022, arXiv:2211.14982.
"""

import torch
from torch import Tensor

from recemb import collectives, processes
from recemb.data.batch import Batch
from recemb.features import FeatureConfig
from recemb.models.catalogue_ranking import metric_names
from recemb.models.pair_ranking import Evaluation, PairRanking
from recemb.models.skip_gram import Noise, SkipGram, skip_gram_losses
from recemb.monitor import Monitor
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable

SYNTHETIC = "synthetic"
"""The attribute of items that has the contexts of synthetic pairs."""


class Dual(PairRanking):
    """IN and OUT vectors of items by skip-gram.

    What ``seen`` has of an item (itself, and its contexts of training) is not ranked. Metrics
    without a prefix are those of complements by IN.OUT; ``complements_in_in/...``,
    ``substitutes_in_in/...`` and ``substitutes_in_out/...`` are those of the other pairings of
    truth and vectors; ``covered/...`` are those without a prefix of items that have training pairs,
    ``uncovered/...`` of the others. ``both/...`` are the means of complements by IN.OUT and
    substitutes by IN.IN: a model is for both, so by ``both`` and the metric of
    ``evaluation.monitor`` its epochs are compared. ``coverage`` is the share of all items that have
    training pairs, synthetic ones included.

    Args:
        schema: What the data holds: columns ``item`` and ``context`` of one vocabulary, the
            attributes ``seen`` and ``synthetic`` of items.
        tables: Tables by name.
        features: ``item`` reads the IN table, ``context`` the OUT table.
        skip_gram: Negatives, sub-sampling and regularisation.
        evaluation: Metrics; the means are over items with an answer.
        learning_rate: Of Adam on what tables have beside rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.

    Attributes:
        noise: Negatives and sub-sampling.
    """

    query, answer = "item", "context"
    data_modules = "complements"

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        skip_gram: SkipGram | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        evaluation = evaluation or Evaluation(cutoffs=[10], monitor="recall@10")
        super().__init__(schema, tables, features, evaluation, learning_rate, rows_optimizer)
        self.monitor = Monitor(f"val/both/{self.evaluation.monitor}", "max")
        self.skip_gram = skip_gram or SkipGram()
        self.skip_gram.check()
        vocabulary = schema.vocabularies[schema.id_space(self.query)]
        self.noise = Noise(vocabulary.counts_V, self.skip_gram)
        self.has_pairs_V: Tensor
        self.is_known_V: Tensor
        # An item's own place in ``seen`` is no pair.
        has_pairs_V = self.seen.offsets_V.diff() > 1
        has_synthetic_V = schema.attributes[SYNTHETIC].offsets_V.diff() > 0
        self.register_buffer("has_pairs_V", has_pairs_V, persistent=False)
        self.register_buffer("is_known_V", has_pairs_V | has_synthetic_V, persistent=False)

    # Vectors

    def is_known(self, user_B: Tensor) -> Tensor:
        """Return whether training has pairs of items, synthetic ones included: (B,)."""
        return self.is_known_V[user_B]

    def in_vectors(self) -> Tensor:
        """Return the IN vectors of all items that are ranked: (V, D)."""
        return self.all_vectors()[0][: self.num_items]

    # Training

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch."""
        settings = self.skip_gram
        item_B, context_B = self.pairs_of(batch)
        is_kept_B = self.noise.kept(item_B, context_B)
        item_B, context_B = item_B[is_kept_B], context_B[is_kept_B]
        size, count = len(item_B), settings.num_negatives
        negative_BK = self.noise.negatives(size, count)
        is_other_BK = negative_BK != context_B.unsqueeze(1)
        read_C = torch.cat([context_B, negative_BK.reshape(-1)])
        share = processes.world_size() / batch.total
        total = torch.zeros((), device=self.device)
        for _ in self.embeddings.training_forms():
            item_BD, context_CD = self.vectors(item_B, read_C)
            positive_B = (item_BD * context_CD[:size]).sum(1)
            negative_BKD = context_CD[size:].view(size, count, self.dim)
            score_BK = torch.einsum("bd,bkd->bk", item_BD, negative_BKD)
            loss = skip_gram_losses(positive_B, score_BK, is_other_BK).sum() * share
            total = total + loss
            if settings.l2:
                squares = item_BD.square().sum() + context_CD.square().sum()
                total = total + (settings.l2 / 2) * share * squares
        shown = loss.detach()
        if processes.world_size() > 1 and self.is_logged():
            shown = collectives.sum_over_processes(shown) / processes.world_size()
        self.log("train/skip_gram", shown, prog_bar=True, batch_size=batch.num_samples)
        return total + self.embeddings.loss()

    # Evaluation

    def validation_step(self, batch: Batch) -> None:
        """Keep the pairs of a batch, and which of them are complements."""
        self._pairs.append((*self.pairs_of(batch), batch.label_B > 0))

    def test_step(self, batch: Batch) -> None:
        """Keep the pairs of a batch, and which of them are complements."""
        self.validation_step(batch)

    def _log_ranking(self, stage: str) -> None:
        item_P, context_P, is_complement_P = self.gathered_pairs()
        in_VD, out_VD = self.all_vectors()
        values = self.compare(in_VD, out_VD, item_P, context_P, is_complement_P)
        self.log_metrics(stage, values, self.monitor.metric)

    def compare(
        self,
        in_VD: Tensor,
        out_VD: Tensor,
        item_P: Tensor,
        context_P: Tensor,
        is_complement_P: Tensor,
    ) -> dict[str, float]:
        """Return the metrics of the class on pairs held out, by name; all processes together.

        Args:
            in_VD: IN vectors of all items, unknown ones included.
            out_VD: OUT vectors of all that are ranked.
            item_P: Items that ask.
            context_P: Their answers.
            is_complement_P: Which pairs are complements; the others are substitutes.
        """
        like_VD = in_VD[: self.num_items]
        is_covered_P = self.has_pairs_V[item_P]
        cases = {
            "": (out_VD, is_complement_P),
            "complements_in_in/": (like_VD, is_complement_P),
            "substitutes_in_in/": (like_VD, ~is_complement_P),
            "substitutes_in_out/": (out_VD, ~is_complement_P),
            "covered/": (out_VD, is_complement_P & is_covered_P),
            "uncovered/": (out_VD, is_complement_P & ~is_covered_P),
        }
        found = {"coverage": float(self.is_known_V[: self.num_items].double().mean())}
        buckets = set(self.evaluation.buckets)
        for prefix, (answers_VD, is_own_P) in cases.items():
            if not bool(is_own_P.any()):
                continue
            measured = self.measure(in_VD, answers_VD, item_P[is_own_P], context_P[is_own_P])
            found |= {
                prefix + name: value
                for name, value in measured.items()
                if not (prefix and name in buckets)
            }
        for name in metric_names(self.evaluation.cutoffs):
            # Where there are no substitutes, or no complements, the other is all that is asked for.
            own = [found[key] for key in (name, f"substitutes_in_in/{name}") if key in found]
            found |= {f"both/{name}": sum(own) / len(own)} if own else {}
        return found
