"""Ranking task: what every model that scores samples does with the scores, in Lightning's terms."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recemb import collectives, processes
from recemb.data.batch import Batch
from recemb.features import FeatureConfig, resolve_features
from recemb.jagged import Ids, KeyedIds, split_keyed
from recemb.models.embedding_task import STAGES, EmbeddingTask
from recemb.models.objective import Clicks, Objective
from recemb.rows.optimizers import UpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig


class RankingTask(EmbeddingTask):
    """A score for each sample, trained and measured by an objective; by default clicks.

    A model is a subclass that builds its layers in the constructor and defines :meth:`score`.

    Args:
        schema: What the data holds.
        tables: Tables by name.
        features: Features by name; each must be in the data.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.
        histories: By feature, a list column whose ids are read as that feature's too.
        copies: By feature, another one whose ids it reads once more, from a table of its own.

    Attributes:
        objective: Of the scores.
    """

    objective: Objective = Clicks()

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        learning_rate: float = 0.001,
        rows_optimizer: UpdateRule | None = None,
        histories: Mapping[str, str] | None = None,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        resolved = resolve_features(features, tables, schema.with_copies(copies or {}), histories)
        super().__init__(schema, tables, resolved, learning_rate, rows_optimizer)
        numbers = list(schema.dense.values())
        self.register_buffer("dense_mean_K", torch.tensor([number.mean for number in numbers]))
        self.register_buffer("dense_scale_K", torch.tensor([number.scale for number in numbers]))
        self.monitor = self.objective.monitor
        self.metrics = nn.ModuleDict({stage: self.objective.metrics() for stage in ("val", "test")})
        self._counted: list[Tensor] = []

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the scores of B samples: logits, or what the objective has them be.

        Args:
            ids: By column: a tensor where a sample has one id, else the bags.
            dense_BK: Numbers, standardised.
        """
        raise NotImplementedError

    def standardize(self, dense_BK: Tensor) -> Tensor:
        """Return numbers on the scale that the model was trained on."""
        mean_K, scale_K = self.get_buffer("dense_mean_K"), self.get_buffer("dense_scale_K")
        return (dense_BK - mean_K) / scale_K

    def forward(self, keyed: KeyedIds, dense_BK: Tensor) -> Tensor:
        """Return the scores of a batch as the data module makes it."""
        ids: dict[str, Ids] = {
            name: bags if self.schema.columns[name].is_list else bags.values
            for name, bags in split_keyed(keyed).items()
        }
        return self.score(ids, self.standardize(dense_BK))

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, plus what the model adds to it."""
        total = batch.label_B.new_zeros(())
        for _ in self.embeddings.training_forms():
            loss = self.mean_loss(self(batch.ids, batch.dense_BK), batch)
            total = total + loss + self.penalty(batch)
        shown = loss.detach()
        if processes.world_size() > 1 and self.is_logged():
            shown = collectives.sum_over_processes(shown) / processes.world_size()
        self.log(f"train/{self.objective.loss}", shown, prog_bar=True, batch_size=batch.num_samples)
        # What the tables add: codebooks that learn (zero for most kinds).
        return total + self.embeddings.loss()

    def search_loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, for a search that learns from it."""
        return self.objective.losses(self(batch.ids, batch.dense_BK), batch.label_B).mean()

    def mean_loss(self, score_B: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a batch, or of a process's part of one: their mean is the batch's."""
        total = self.objective.losses(score_B, batch.label_B).sum()
        return total * (processes.world_size() / batch.total)

    def prediction(self, score_B: Tensor) -> Tensor:
        """Return what scores predict: click probabilities, or what the objective says."""
        return self.objective.prediction(score_B)

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return what the model adds to the loss of the batch just scored."""
        return 0.0

    def on_validation_epoch_start(self) -> None:
        """Forget what was counted the last time."""
        self._start("val")

    def on_test_epoch_start(self) -> None:
        """Forget what was counted the last time."""
        self._start("test")

    def validation_step(self, batch: Batch) -> None:
        """Count a validation batch."""
        self._count("val", batch)

    def test_step(self, batch: Batch) -> None:
        """Count a test batch."""
        self._count("test", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of validation."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test."""
        self._log_metrics("test")

    def predict_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the objective predicts, by its name.

        Raises:
            RecembError: If a score is NaN or infinite.
        """
        score_B = self(batch.ids, batch.dense_BK)
        self.check_finite("the batch", int((~score_B.isfinite()).sum()), len(score_B))
        return {self.objective.predicted: self.prediction(score_B)}

    def _metrics_of(self, stage: str) -> Any:
        return self.metrics[stage]

    def _start(self, stage: str) -> None:
        self._counted = []
        for metric in self._metrics_of(stage).values():
            metric.reset()

    def _count(self, stage: str, batch: Batch) -> None:
        score_B = self(batch.ids, batch.dense_BK)
        self.objective.measure(self._metrics_of(stage), score_B, batch.label_B)
        num_bad = (~score_B.isfinite()).sum()
        self._counted.append(torch.stack([num_bad, torch.full_like(num_bad, len(score_B))]))

    def _log_metrics(self, stage: str) -> None:
        counted = torch.stack(self._counted).sum(0)
        if processes.world_size() > 1:
            counted = collectives.sum_over_processes(counted)
        self.check_finite(STAGES[stage], *counted.tolist())
        for name, metric in self._metrics_of(stage).items():
            value = float(metric.compute())
            self.log_metric(f"{stage}/{name}", value, getattr(metric, "undefined", None))
        self._start(stage)
