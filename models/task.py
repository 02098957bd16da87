"""Ranking task: what every click-through-rate model does with its logits, in Lightning's terms."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC

from data.batch import Batch
from recemb import collectives, processes
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.features import FeatureConfig, resolve_features
from recemb.jagged import Ids, KeyedIds, split_keyed
from recemb.rows.choice import new_store
from recemb.rows.optimizers import Adam, RowsOptimizer
from recemb.schema import Schema
from recemb.tables.kind import TableConfig


class RankingTask(LightningModule):
    """Binary cross-entropy in training, AUC and log loss otherwise.

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
        embeddings: Tables, features and the rows store.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        learning_rate: float = 0.001,
        rows_optimizer: RowsOptimizer | None = None,
        histories: Mapping[str, str] | None = None,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise RecembError(f"model: learning_rate must be above 0, got {learning_rate}")
        optimizer = rows_optimizer or Adam()
        optimizer.check("rows_optimizer")
        self.schema = schema
        self.learning_rate = learning_rate
        self.started_epoch: int | None = None
        self.embeddings = Embeddings(
            tables,
            resolve_features(features, tables, schema.with_copies(copies or {}), histories),
            lambda physical: new_store(physical, optimizer),
        )
        numbers = list(schema.dense.values())
        self.register_buffer("dense_mean_K", torch.tensor([number.mean for number in numbers]))
        self.register_buffer("dense_scale_K", torch.tensor([number.scale for number in numbers]))
        self.metrics = nn.ModuleDict(
            {
                stage: nn.ModuleDict({"auc": BinaryAUROC(), "logloss": MeanMetric()})
                for stage in ("val", "test")
            }
        )

    def score(self, ids: Mapping[str, Ids], dense_BK: Tensor) -> Tensor:
        """Return the logits of B samples.

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
        """Return the logits of a batch as the data module makes it."""
        ids: dict[str, Ids] = {
            name: bags if self.schema.columns[name].is_list else bags.values
            for name, bags in split_keyed(keyed).items()
        }
        return self.score(ids, self.standardize(dense_BK))

    def training_step(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, plus what the model adds to it."""
        total = batch.label_B.new_zeros(())
        for _ in self.embeddings.training_forms():
            loss = cross_entropy(self(batch.ids, batch.dense_BK), batch)
            total = total + loss + self.penalty(batch)
        shown = loss.detach()
        if processes.world_size() > 1 and self._is_logged():
            shown = collectives.sum_over_processes(shown) / processes.world_size()
        self.log("train/logloss", shown, prog_bar=True, batch_size=batch.num_samples)
        # What the tables add: codebooks that learn (zero for most kinds).
        return total + self.embeddings.loss()

    def _is_logged(self) -> bool:
        """Return whether loggers get this step's loss: a message for each would cost too much."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return (self.global_step + 1) % every == 0

    def search_loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy of a batch, for a search that learns from it."""
        logits_B = self(batch.ids, batch.dense_BK)
        return nn.functional.binary_cross_entropy_with_logits(logits_B, batch.label_B)

    def penalty(self, batch: Batch) -> Tensor | float:
        """Return what the model adds to the loss of the batch just scored."""
        return 0.0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let staged tables take their next stage before the first batch of an epoch."""
        # Not in on_train_epoch_start: Lightning leaves that out of the epoch after a checkpoint
        # that was written at the last batch of one. Begun again, an epoch changes nothing.
        if self.started_epoch != self.current_epoch:
            self.started_epoch = self.current_epoch
            self.embeddings.start_epoch(self.current_epoch)

    def on_train_epoch_end(self) -> None:
        """Log what the tables report."""
        for table, report in self.embeddings.report().items():
            for name, value in report.items():
                self.log(f"{table}/{name}", float(value), sync_dist=processes.world_size() > 1)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step the dense optimizer, whose closure runs the backward pass, then the tables."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.embeddings.step(optimizer_closure)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of the rows' optimizer, which the trainer does not know of.

        Rows that are no buffers are saved with theirs, in files of their own.
        """
        if self.embeddings.rows.has_buffers:
            checkpoint["rows_optimizer"] = self.embeddings.rows.optimizer_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the rows' optimizer."""
        if "rows_optimizer" in checkpoint:
            self.embeddings.rows.load_optimizer_state(checkpoint["rows_optimizer"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over everything but the rows, which have an optimizer of their own."""
        rows = {id(parameter) for parameter in self.embeddings.rows.parameters()}
        dense = [parameter for parameter in self.parameters() if id(parameter) not in rows]
        return torch.optim.Adam(dense, lr=self.learning_rate)

    def validation_step(self, batch: Batch) -> None:
        """Count a validation batch."""
        self._count("val", batch)

    def test_step(self, batch: Batch) -> None:
        """Count a test batch."""
        self._count("test", batch)

    def predict_step(self, batch: Batch) -> Tensor:
        """Return click probabilities."""
        return torch.sigmoid(self(batch.ids, batch.dense_BK))

    def _count(self, stage: str, batch: Batch) -> None:
        logits_B = self(batch.ids, batch.dense_BK)
        losses_B = nn.functional.binary_cross_entropy_with_logits(
            logits_B, batch.label_B, reduction="none"
        )
        metrics: Any = self.metrics[stage]
        if batch.num_samples:  # a small last batch has no part for every process
            metrics["auc"].update(torch.sigmoid(logits_B), batch.label_B.long())
            metrics["logloss"].update(losses_B)
        for name, metric in metrics.items():
            self.log(
                f"{stage}/{name}",
                metric,
                on_step=False,
                on_epoch=True,
                prog_bar=True,
                batch_size=batch.num_samples,
            )


def cross_entropy(logits_B: Tensor, batch: Batch) -> Tensor:
    """Return the loss of a batch, or of a process's part of one: their mean is the batch's."""
    loss = nn.functional.binary_cross_entropy_with_logits(logits_B, batch.label_B, reduction="sum")
    return loss * (processes.world_size() / batch.total)
