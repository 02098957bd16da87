"""Embedding task: what every model over the engine does in training, in Lightning's terms.

The tables' rows have an optimizer of their own, which :class:`recemb.optim.RowsOptimizer` puts
beside the dense one, so that a trainer sees one optimizer.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule
from torch import nn

from recemb import processes
from recemb.arguments import remembering, settings_of
from recemb.checkpoint_callbacks import Header
from recemb.data.batch import Batch
from recemb.divergence import diverged, not_finite
from recemb.embeddings import Embeddings
from recemb.errors import NotFiniteError, RecembError
from recemb.features import ResolvedFeature
from recemb.monitor import AUC, Monitor
from recemb.optim import RowsOptimizer, dense_parameters
from recemb.rows.choice import new_store
from recemb.rows.optimizers import Adam, UpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig
from recemb.trainer_settings import check_trainer

STAGES = {"val": "validation", "test": "the test"}
"""What the stages of metrics are called in words."""


class EmbeddingTask(LightningModule):
    """A model with embeddings, trained by two optimizers: one of rows, one of all else.

    Args:
        schema: What the data holds.
        tables: Tables by name.
        features: Resolved against the data.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.

    Raises:
        RecembError: If a setting is out of range.

    Attributes:
        embeddings: Tables, features and the rows store.
        monitor: The metric by which the best checkpoint is chosen.
        undefined: Why metrics that were measured last have no value, by name.
    """

    monitor: Monitor = AUC

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have the constructor keep its arguments: what a checkpoint says of the model."""
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = remembering(cls.__init__)  # type: ignore[method-assign]

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Sequence[ResolvedFeature],
        learning_rate: float = 0.001,
        rows_optimizer: UpdateRule | None = None,
    ) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise RecembError(f"model: learning_rate must be above 0, got {learning_rate}")
        optimizer = rows_optimizer or Adam()
        optimizer.check("rows_optimizer")
        self.schema = schema
        self.learning_rate = learning_rate
        self.started_epoch: int | None = None
        self.undefined: dict[str, str] = {}
        self.embeddings = Embeddings(
            tables, features, lambda physical: new_store(physical, optimizer)
        )

    def setup(self, stage: str) -> None:
        """Refuse a trainer's settings that rows cannot have, before training."""
        if stage == "fit":
            check_trainer(self.trainer, is_sharded=not self.embeddings.rows.has_buffers)

    def configure_callbacks(self) -> list[Callback]:
        """Have a plain trainer write checkpoints that can be exported and resumed."""
        if any(isinstance(one, Header) for one in self.trainer.callbacks):  # type: ignore[attr-defined]
            return []
        sections = {"model": settings_of(self, without=("schema",)), "data": {}}
        return [Header(sections, self.schema)]

    def is_logged(self) -> bool:
        """Return whether loggers get this step's loss: a message for each would cost too much."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return (self.global_step + 1) % every == 0

    def log_metric(
        self, name: str, value: float, undefined: str | None = None, prog_bar: bool = True
    ) -> None:
        """Log a metric of a stage, or keep why there is none.

        Args:
            name: With its stage.
            value: Of all processes together.
            undefined: Why there is none.
            prog_bar: Whether the progress bar shows it.
        """
        self.undefined.pop(name, None)
        if undefined is not None:
            self.undefined[name] = undefined
            return
        # It is of all processes by now; to say so keeps the trainer from a warning.
        self.log(name, value, prog_bar=prog_bar, sync_dist=processes.world_size() > 1)

    def check_finite(self, where: str, num_bad: int, count: int, what: str = "predictions") -> None:
        """Raise a :class:`RecembError` if some of what was predicted is NaN or infinite.

        Args:
            where: Of what, such as a stage.
            num_bad: How many are not finite; the same in all processes.
            count: Of how many.
            what: What is counted.
        """
        if num_bad:
            said = f"{num_bad:,} of {count:,} {what} of {where} are not finite numbers"
            raise not_finite(self, said)

    def is_final(self) -> bool:
        """Return whether training has reached the form that is served: the best is kept then."""
        return self.embeddings.is_final()

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
        """Step, and say where training was if a row would become a number that it cannot be."""
        try:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        except NotFiniteError as error:
            # What the rows say ends with their own advice.
            raise diverged(self.trainer, str(error), self.global_step, advice="") from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the state of rows under a name of its own, where checkpoints have had it always.

        Rows that are no buffers are saved with theirs, in files of their own.
        """
        for state in checkpoint.get("optimizer_states", []):
            if "rows" in state:
                checkpoint["rows_optimizer"] = state.pop("rows")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the state of the rows' optimizer, where it is not in files of its own.

        Raises:
            RecembError: If it is nowhere.
        """
        if "rows_optimizer" in checkpoint:
            for state in checkpoint.get("optimizer_states", []):
                state["rows"] = checkpoint["rows_optimizer"]
        elif checkpoint["recemb"].get("rows") is None:
            raise RecembError(
                "the checkpoint has no state of the rows' optimizer, so that training cannot go on "
                "from it; begin another with --warm_start"
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of the rows, and within it that of everything else."""
        # A model of rows alone has nothing else; an optimizer must have something.
        nothing = nn.Parameter(torch.empty(0, device=self.device))
        return RowsOptimizer(
            self.embeddings, self.dense_optimizer(dense_parameters(self) or [nothing])
        )

    def dense_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimizer of everything but the rows: Adam.

        Args:
            parameters: All that it steps.
        """
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    def on_fit_start(self) -> None:
        """Refuse a training whose optimizers know nothing of the rows."""
        if not any(isinstance(one, RowsOptimizer) for one in self.trainer.optimizers):
            raise RecembError(
                f"{type(self).__name__}: configure_optimizers must return a "
                "recemb.optim.RowsOptimizer, or no row is trained; override dense_optimizer "
                "instead, which is for all other parameters"
            )
