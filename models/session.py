"""Session transformer: the next item of a sequence, items known by id, by metadata, or by both.

    x_n   = sum over features f of vector_f(item_n)        a feature is the id, or an attribute
    h     = causal transformer(x)
    s_v   = h_n . y_v             y = x of item v, or a row of an output table of its own
    loss  = mean over all positions of cross-entropy of the item that came next
            + sum over heads of weight x cross-entropy of that item's attribute

Without the id, an item is nothing but its attributes, and one that nobody has clicked on yet is
ranked as well as any other. Attributes are looked up in the model, not sent.

Shapes: B sequences, N tokens, V items of the catalogue, C candidates, D elements of a vector.

Source: Shalaby et al., "M2TRec: Metadata-aware Multi-task Transformer for Large-scale and
Cold-start free Session-based Recommendations", RecSys 2022, arXiv:2209.11824; ids alone are SASRec
(Kang and McAuley, ICDM 2018, arXiv:1808.09781) with the loss of Klenitskiy and Vasilev, RecSys
2023, arXiv:2309.07602.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from recemb import collectives, processes
from recemb.attributes import AttributeLookup
from recemb.data.batch import Batch
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids, Jagged, bag_of_each, position_of_each, split_keyed, to_padded
from recemb.models.catalogue_ranking import best_items, found_items, metric_names, metrics, ranks
from recemb.models.codebook_logits import CodebookLogits
from recemb.models.embedding_task import STAGES, EmbeddingTask
from recemb.models.feature_task import common_dim
from recemb.models.matmul_precision import Bf16Products
from recemb.models.next_item_loss import next_item_loss
from recemb.models.sampled_candidates import Candidates, all_candidates, sampled_candidates
from recemb.models.session_features import HISTORY, ITEM, OUTPUT, resolve_item
from recemb.models.session_settings import Codebook, Evaluation, Network, Objective
from recemb.models.transformer import CausalTransformer
from recemb.monitor import Monitor
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable

NUM_PREDICTED = 20
"""Items that a prediction lists."""
PART = 1 << 16
"""Items whose vectors are made at a time where all are."""


class SessionTransformer(EmbeddingTask):
    """A causal transformer over items of any table kinds.

    Args:
        schema: What the data holds: columns ``item`` and ``history``, attributes of items.
        tables: Tables by name.
        features: What an item is: ``item`` (its id), attributes of it, or both; their vectors are
            added. Tables whose width differs say ``project``.
        output: Table of the output's own vectors, read by id; by default outputs are what inputs
            are.
        network: Layers.
        objective: Losses.
        codebook: Output by codes instead of by a vector per item.
        evaluation: Metrics.
        learning_rate: Of AdamW on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.

    Attributes:
        predicted_ids: By prediction that holds ids, the id space that they are indices of.
        answers: Columns that are what is predicted: rows to predict may lack them.
    """

    predicted_ids = {"items": ITEM}
    answers = (ITEM,)

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        output: str | None = None,
        network: Network | None = None,
        objective: Objective | None = None,
        codebook: Codebook | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        resolved = resolve_item(schema, tables, features, output)
        super().__init__(schema, tables, resolved, learning_rate, rows_optimizer)
        self.network = network or Network()
        self.objective = objective or Objective()
        self.evaluation = evaluation or Evaluation()
        self.dim = common_dim("session transformer", self.embeddings.dims)
        self.network.check(self.dim)
        self.objective.check(schema)
        self.evaluation.check()
        self.monitor = Monitor(f"val/{self.evaluation.monitor}", "max")
        self.names = list(features)
        self.output = output
        self.is_described = ITEM not in features and output is None
        used = {*features, *self.objective.heads}
        self.attributes = AttributeLookup(
            {name: one for name, one in schema.attributes.items() if name in used}
        )
        settings = self.network
        self.encoder = CausalTransformer(
            self.dim,
            settings.num_layers,
            settings.num_heads,
            settings.hidden,
            settings.dropout,
            settings.attention_dropout,
            settings.max_length,
            settings.readout == "items",
        )
        vocabulary = schema.vocabularies[ITEM]
        self.num_items, self.num_ids = vocabulary.num_known, vocabulary.num_ids
        self.register_buffer("counts_V", vocabulary.counts_V.clone(), persistent=False)
        self.counts_V: Tensor
        # Ids are numbered by falling counts, so the unseen ones are the last.
        self.num_seen = int((vocabulary.counts_V > 0).sum())
        self.heads = nn.ModuleDict(
            {
                f"head_{name}": nn.Linear(self.dim, schema.num_ids(name) or 0)
                for name in self.objective.heads
            }
        )
        self.codebook: CodebookLogits | None = None
        self.codebook_settings = codebook
        if codebook is not None:
            if output is not None:
                raise RecembError("codebook: it is an output, got an output table too; drop either")
            codebook.check(self.num_items)
            self.codebook = CodebookLogits(
                self.num_items, self.dim, codebook.num_codes, codebook.num_probes
            )
        self._catalogue_VD: Tensor | None = None
        self._sums: list[Tensor] = []
        self._num_bad: Tensor | int = 0

    # Items

    def embed(self, asked: Mapping[str, Ids], output_C: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return vectors of items by their features, and those of an output table by id.

        Args:
            asked: By feature, an id or a bag of ids per item.
            output_C: Ids, which only a model with an output table reads.
        """
        own: dict[str, Ids] = {name: asked[name] for name in self.names}
        if self.output is not None:
            own[OUTPUT] = output_C
        found = cast(dict[str, Tensor], self.embeddings(own))
        vectors = [found[name] for name in self.names]
        vectors_ND = torch.stack(vectors).sum(0) if len(vectors) > 1 else vectors[0]
        output_CD = found.get(OUTPUT)
        if self.objective.temperature is not None:
            vectors_ND = F.normalize(vectors_ND, dim=1)
            output_CD = None if output_CD is None else F.normalize(output_CD, dim=1)
        return vectors_ND, output_CD

    def described(self, ids_N: Tensor) -> dict[str, Ids]:
        """Return the features of items by id."""
        return {ITEM: ids_N, **self.attributes(ITEM, ids_N)}

    def as_query(self, hidden_ND: Tensor) -> Tensor:
        """Return what the encoder found in the form that scores are products with."""
        if self.objective.temperature is None:
            return hidden_ND
        return F.normalize(hidden_ND, dim=1) / self.objective.temperature

    def outputs(self, ids_C: Tensor) -> Tensor:
        """Return the output vectors of items by id."""
        vectors_CD, output_CD = self.embed(self.described(ids_C), ids_C)
        return vectors_CD if output_CD is None else output_CD

    def item_vectors(self) -> Tensor:
        """Return the output vectors of all items: (V, D)."""
        every_V = torch.arange(self.num_items, device=self.device)
        return torch.cat([self.outputs(ids_C) for ids_C in every_V.split(PART)])

    # Sequences

    def forward(self, history: Jagged) -> Tensor:
        """Return what each of B sequences of ids is followed by, as a query (B, D)."""
        vectors_ND, _ = self.embed(self.described(history.values), history.values[:0])
        return self.query(Jagged(vectors_ND, history.lengths))

    def query(self, vectors: Jagged) -> Tensor:
        """Return the queries (B, D) of sequences of item vectors; zeros for an empty one."""
        vectors = last_of_each(vectors, self.network.max_length)
        hidden_ND = self.as_query(self.encoder(vectors.values, vectors.lengths))
        ends_B = vectors.lengths.cumsum(0)
        # One row more, of zeros, for those that have no last item.
        hidden_ND = torch.cat([hidden_ND, hidden_ND.new_zeros(1, self.dim)])
        place_B = torch.where(vectors.lengths > 0, ends_B - 1, vectors.lengths.sum())
        return hidden_ND[place_B]

    def scores(self, query_BD: Tensor, tile: slice) -> Tensor:
        """Return the scores of B queries for a slice of the catalogue."""
        catalogue_VD = self._catalogue_VD
        if catalogue_VD is not None:
            return query_BD @ catalogue_VD[tile].t()
        ids_C = torch.arange(tile.start, tile.stop, device=query_BD.device)
        return query_BD @ self.outputs(ids_C).t()

    def best(self, history: Jagged, count: int) -> tuple[Tensor, Tensor]:
        """Return the best items of B sequences, as indices, and their scores: (B, K) each.

        Where a sequence has fewer items to choose from, the last are -1 and their scores minus
        infinity.

        Args:
            history: Sequences of ids.
            count: K; all items where they are fewer.
        """
        count = min(count, self.num_items)
        query_BD = self(history)
        if self.codebook is not None and self.is_final():
            return self._best_of_codes(self.codebook, query_BD, history, count)
        excluded = None
        if self.evaluation.exclude_history:
            excluded = (bag_of_each(history.lengths), history.values)
        return best_items(query_BD, self.scores, self.num_items, count, excluded)

    def _best_of_codes(
        self, codebook: CodebookLogits, query_BD: Tensor, history: Jagged, count: int
    ) -> tuple[Tensor, Tensor]:
        """Return the best of the items of the likeliest codes; see :meth:`best`."""
        assert self.codebook_settings is not None
        near, score_M = codebook.near(query_BD)
        item_BL, is_item_BL = to_padded(near)
        if self.codebook_settings.rerank:
            flat, catalogue_VD = item_BL.flatten(), self._catalogue_VD
            vectors = self.outputs(flat) if catalogue_VD is None else catalogue_VD[flat]
            scores = torch.bmm(vectors.unflatten(0, item_BL.shape), query_BD.unsqueeze(2))
            score_BL = scores.squeeze(2).masked_fill(~is_item_BL, -torch.inf)
        else:
            score_BL, _ = to_padded(Jagged(score_M, near.lengths), -torch.inf)
        if self.evaluation.exclude_history:
            row_B1 = torch.arange(query_BD.shape[0], device=query_BD.device).unsqueeze(1)
            had = bag_of_each(history.lengths) * self.num_ids + history.values
            is_had_BL = torch.isin(row_B1 * self.num_ids + item_BL, had)
            score_BL = score_BL.masked_fill(is_had_BL, -torch.inf)
        # So many columns more that there are always enough.
        more_BK = score_BL.new_full((1, count), -torch.inf).expand(query_BD.shape[0], -1)
        found = torch.cat([score_BL, more_BK], 1).topk(count, 1)
        item_BL = torch.cat([item_BL, torch.zeros_like(more_BK, dtype=torch.int64)], 1)
        return found_items(item_BL.gather(1, found.indices), found.values), found.values

    # Training

    def configure_callbacks(self) -> list[Callback]:
        """Choose how products are made in training."""
        return [Bf16Products()] if self.network.products == "bf16" else []

    def training_step(self, batch: Batch) -> dict[str, Any]:
        """Return the loss of a batch, the mean over all positions, and how many those are."""
        history, item_B = columns_of(batch)
        target_N = next_of_each(history, item_B)
        num_positions = len(target_N)
        world = processes.world_size()
        total = num_positions
        if world > 1:
            total = int(collectives.sum_over_processes(item_B.new_tensor(num_positions)))
        self._start_codebook()
        hidden_ND, output_CD, candidates = self._training_vectors(history, target_N)
        loss = hidden_ND.new_zeros(())
        settings, is_coded = self.codebook_settings, False
        if self.codebook is not None and settings is not None and self.is_final():
            is_known_N = target_N < self.num_items
            loss = loss + self.codebook.loss(hidden_ND[is_known_N], target_N[is_known_N])
            is_coded = not settings.rerank
        if not is_coded:
            loss = loss + next_item_loss(
                hidden_ND,
                output_CD,
                candidates.target_N,
                candidates.bias_C,
                (target_N < self.num_items).to(hidden_ND),
                own_bias=False,
            )
        shown = loss.detach() / max(1, num_positions)
        for name, weight in self.objective.heads.items():
            loss = loss + weight * self._head_loss(name, hidden_ND, target_N)
        self.log("train/loss", shown, prog_bar=True, batch_size=max(1, num_positions))
        loss = loss * (world / max(1, total)) + self.embeddings.loss()
        return {"loss": loss, "samples": total}

    def is_final(self) -> bool:
        """Return whether training has reached the form that is served."""
        has_codes = self.codebook is None or self.codebook.is_assigned
        return has_codes and super().is_final()

    def _start_codebook(self) -> None:
        """Give items their codes when it is time."""
        settings = self.codebook_settings
        if self.codebook is None or settings is None or self.codebook.is_assigned:
            return
        if self.current_epoch >= settings.start_epoch:
            with torch.no_grad():
                vectors_VD = self.outputs(torch.arange(self.num_items, device=self.device))
            self.codebook.fit(vectors_VD, self.counts_V)

    def _training_vectors(
        self, history: Jagged, target_N: Tensor
    ) -> tuple[Tensor, Tensor, Candidates]:
        """Return queries (N, D), output vectors of the candidates (C, D), and who those are."""
        num_candidates = self.num_items if self.objective.unseen else self.num_seen
        known_N = target_N.clamp(max=num_candidates - 1)
        if self.objective.num_sampled is None:
            candidates = all_candidates(known_N, num_candidates)
            ids_U = torch.arange(self.num_ids, device=target_N.device)
            input_N, place_C = history.values, candidates.ids_C
        else:
            counts_V = self.counts_V[:num_candidates]
            candidates = sampled_candidates(known_N, counts_V, self.objective.num_sampled)
            every = torch.cat([history.values, candidates.ids_C])
            ids_U, place = torch.unique(every, return_inverse=True)
            input_N, place_C = place.split([len(history.values), len(candidates.ids_C)])
        vectors_UD, output_CD = self.embed(self.described(ids_U), candidates.ids_C)
        if output_CD is None:
            output_CD = vectors_UD[place_C]
        hidden_ND = self.encoder(vectors_UD[input_N], history.lengths)
        return self.as_query(hidden_ND), output_CD, candidates

    def _head_loss(self, name: str, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
        """Return the sum over positions of the cross-entropy of an attribute of the next item.

        An item with several values has each of them as the answer, with equal shares; one without
        values has none.
        """
        found = self.attributes(ITEM, target_N)[name]
        values = found if isinstance(found, Jagged) else Jagged(found, torch.ones_like(found))
        position_M = bag_of_each(values.lengths)
        weight_M = 1.0 / values.lengths[position_M].to(hidden_ND)
        head = cast(nn.Linear, self.heads[f"head_{name}"])
        return next_item_loss(
            hidden_ND[position_M], head.weight, values.values, head.bias, weight_M
        )

    # Evaluation

    def on_validation_epoch_start(self) -> None:
        """Make the catalogue once."""
        self._start()

    def on_test_epoch_start(self) -> None:
        """Make the catalogue once."""
        self._start()

    def on_predict_epoch_start(self) -> None:
        """Make the catalogue once."""
        self._start()

    def _start(self) -> None:
        self._catalogue_VD = item_VD = self.item_vectors()
        self._sums, self._num_bad = [], 0
        num_bad = int((~item_VD.isfinite()).any(1).sum())
        self.check_finite("the catalogue", num_bad, len(item_VD), "item vectors")

    def validation_step(self, batch: Batch) -> None:
        """Count a validation batch."""
        self._count(batch)

    def test_step(self, batch: Batch) -> None:
        """Count a test batch."""
        self._count(batch)

    def predict_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the best items of each row, -1 where there are no more, and their scores."""
        items_BK, scores_BK = self.best(split_keyed(batch.ids)[HISTORY], NUM_PREDICTED)
        return {"items": items_BK, "scores": scores_BK}

    def on_predict_epoch_end(self) -> None:
        """Forget the catalogue."""
        self._catalogue_VD = None

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of validation."""
        self._log("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        self._log("test")

    def _count(self, batch: Batch) -> None:
        history, item_B = columns_of(batch)
        found = metrics(self.rank(history, item_B), self.evaluation.cutoffs)
        clicks_B = torch.cat([self.counts_V, self.counts_V.new_zeros(1)])[
            item_B.clamp(max=self.num_items)
        ]
        groups = (clicks_B >= 0, clicks_B < self.evaluation.cold, clicks_B == 0)
        self._sums.append(
            torch.stack(
                [torch.cat([found[own].sum(0), own.sum().view(1).to(found)]) for own in groups]
            )
        )

    def rank(self, history: Jagged, item_B: Tensor) -> Tensor:
        """Return the ranks of the items that came next among all items, from 1: (B,)."""
        if self.codebook is not None and self.is_final():
            items_BK, scores_BK = self.best(history, max(self.evaluation.cutoffs))
            self._num_bad += (scores_BK.isnan() | (scores_BK == torch.inf)).any(1).sum()
            is_it_BK = (items_BK == item_B.unsqueeze(1)) & (scores_BK > -torch.inf)
            place_B = is_it_BK.int().argmax(1)
            return torch.where(is_it_BK.any(1), place_B + 1, self.num_items + 1)
        excluded = None
        if self.evaluation.exclude_history:
            excluded = (bag_of_each(history.lengths), history.values)
        query_BD = self(history)
        self._num_bad += (~query_BD.isfinite()).any(1).sum()
        return ranks(query_BD, self.scores, self.num_items, item_B, excluded)

    def _log(self, stage: str) -> None:
        """Log the mean of each metric over all predictions, and over those of cold items."""
        self._catalogue_VD = None
        sums = torch.stack(self._sums).sum(0)
        bad = sums.new_zeros(1) + self._num_bad
        if processes.world_size() > 1:
            sums, bad = collectives.sum_over_processes(sums), collectives.sum_over_processes(bad)
        self.check_finite(STAGES[stage], int(bad), int(sums[0, -1]))
        names = metric_names(self.evaluation.cutoffs)
        for group, own in zip(("", "cold_", "unseen_"), sums, strict=True):
            count = own[-1]
            if group:
                self.log_metric(f"{stage}/{group}targets", float(count), prog_bar=False)
            for name, value in zip(names, own[:-1], strict=True):
                if group == "" or (count > 0 and name.startswith("hr@")):
                    mean = float(value / count)
                    self.log_metric(f"{stage}/{group}{name}", mean, prog_bar=not group)

    def dense_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return AdamW over everything but the rows."""
        decay = self.network.weight_decay
        return torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=decay)


def columns_of(batch: Batch) -> tuple[Jagged, Tensor]:
    """Return the histories of a batch, and the items that came next."""
    columns = split_keyed(batch.ids)
    return columns[HISTORY], columns[ITEM].values


def last_of_each(history: Jagged, length: int) -> Jagged:
    """Return the last ``length`` ids, or vectors, of each sequence."""
    lengths_B = history.lengths
    left_N = lengths_B[bag_of_each(lengths_B)] - position_of_each(lengths_B)
    return Jagged(history.values[left_N <= length], lengths_B.clamp(max=length))


def next_of_each(history: Jagged, item_B: Tensor) -> Tensor:
    """Return the item that follows each of the N items of histories."""
    values_N, lengths_B = history
    next_N = torch.roll(values_N, -1)
    next_N[lengths_B.cumsum(0)[lengths_B > 0] - 1] = item_B[lengths_B > 0]
    return next_N
