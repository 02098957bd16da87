"""DNIS: gates per dimension and block of ids, learned on rows held out of training.

After a warm-up with gates at 1, each training step is followed by a step of the gates on a batch of
held-out rows:

    g = d loss / d gate + l1        g_b = g_b / mean |g_b| for each block b
    gate = clip(gate - learning_rate * g, 0, 1)

First order: the gradient is that at the rows as they are. The held-out batch is scored as in
evaluation, so that it moves nothing but gates. A block of which the batch has no id stays.

Shapes: S blocks, D dimensions.

Source: Cheng et al., "Differentiable Neural Input Search for Recommender Systems", 2020,
arXiv:2006.04466.
"""

from collections.abc import Generator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recemb.embeddings import Embeddings, embeddings_of
from recemb.errors import RecembError
from recemb.measured import value_of
from recemb.monitor import monitor_of
from recemb.physical import BITS
from recemb.search.held_out import endless_batches
from recemb.tables.frequency_blocks import block_sizes
from recemb.tables.gated import Gated, Gates


class DNIS(Callback):
    """Moves the gates of all tables of kind ``gated``.

    Checkpoints hold the gates (they are buffers of the model) and the state of this callback; a run
    that is resumed goes on from the last epoch, as training does.

    Args:
        warm_up_epochs: Epochs before gates move; at least 0.
        learning_rate: Of the gates; above 0.
        l1: Added to their gradient; at least 0.
        every: Training steps per step of the gates, at least 1.
        patience: The search ends when it has not improved validation (on the held-out rows, with
            the gates) for so many epochs; None: it does not.

    Attributes:
        history: The gates at the end of each epoch, by table.
    """

    def __init__(
        self,
        warm_up_epochs: int = 1,
        learning_rate: float = 0.01,
        l1: float = 1e-5,
        every: int = 1,
        patience: int | None = None,
    ) -> None:
        for name, is_right, rule in (
            ("warm_up_epochs", warm_up_epochs >= 0, "at least 0"),
            ("learning_rate", learning_rate > 0, "above 0"),
            ("l1", l1 >= 0, "at least 0"),
            ("every", every >= 1, "at least 1"),
            ("patience", patience is None or patience >= 1, "at least 1"),
        ):
            if not is_right:
                raise RecembError(f"dnis: {name} must be {rule}, got {locals()[name]}")
        self.warm_up_epochs = warm_up_epochs
        self.learning_rate = learning_rate
        self.l1 = l1
        self.every = every
        self.patience = patience
        self.history: list[dict[str, Tensor]] = []
        self.best: float | None = None
        self.stale = 0
        self._batches: Generator[Any] | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the held-out rows anew, in an order that the epoch decides."""
        self._close()
        self._batches = endless_batches(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the held-out rows."""
        self._close()

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the gates, after the warm-up."""
        if trainer.current_epoch < self.warm_up_epochs or batch_idx % self.every:
            return
        if self._batches is None:  # the epoch was resumed inside
            self._batches = endless_batches(trainer, passed=batch_idx // self.every)
        held_out = pl_module.transfer_batch_to_device(next(self._batches), pl_module.device, 0)
        gates = gates_of(embeddings_of(pl_module))
        pl_module.eval()
        with torch.enable_grad():
            for one in gates.values():
                one.gate_SD.requires_grad_(True)
            loss = pl_module.search_loss(held_out)  # type: ignore[operator]
            grads = torch.autograd.grad(loss, [one.gate_SD for one in gates.values()])
            for one in gates.values():
                one.gate_SD.requires_grad_(False)
        pl_module.train()
        for one, grad_SD in zip(gates.values(), grads, strict=True):
            self.move(one.gate_SD, grad_SD)

    def move(self, gate_SD: Tensor, grad_SD: Tensor) -> None:
        """Take one step of the gates of a table, in place."""
        is_met_S1 = grad_SD.ne(0).any(1, keepdim=True)
        grad_SD = grad_SD + self.l1
        size_S1 = grad_SD.abs().mean(1, keepdim=True)
        step_SD = torch.where(is_met_S1 & (size_S1 > 0), grad_SD / size_S1, 0)
        gate_SD.sub_(self.learning_rate * step_SD).clamp_(0, 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the gates, and log the bytes of the dimensions whose gates are open."""
        embeddings = embeddings_of(pl_module)
        gates = gates_of(embeddings)
        self.history.append({name: one.gate_SD.clone() for name, one in gates.items()})
        pl_module.log("search/bytes", float(open_bytes(embeddings)), prog_bar=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the search where it no longer helps."""
        if self.patience is None or trainer.current_epoch < self.warm_up_epochs:
            return
        monitor = monitor_of(pl_module)
        undefined = getattr(pl_module, "undefined", {})
        measured = {"metrics": trainer.callback_metrics, "undefined": undefined}
        score = value_of(measured, monitor.name)
        if monitor.is_better(score, self.best):
            self.best, self.stale = score, 0
            return
        self.stale += 1
        if self.stale >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        return {"history": self.history, "best": self.best, "stale": self.stale}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.history = state_dict["history"]
        self.best, self.stale = state_dict["best"], state_dict["stale"]


def gates_of(embeddings: Embeddings) -> dict[str, Gates]:
    """Return the gates of all tables that have them.

    Raises:
        RecembError: If none has.
    """
    learned = {name: embeddings.learned_of(name) for name in embeddings.tables}
    gates = {name: one for name, one in learned.items() if isinstance(one, Gates)}
    if not gates:
        raise RecembError("dnis: no table is of kind gated; search through `recemb search`")
    return gates


def open_bytes(embeddings: Embeddings) -> int:
    """Return the bytes of the elements of gated tables whose gates are not closed."""
    total = 0.0
    for name, gates in gates_of(embeddings).items():
        config = embeddings.tables[name]
        assert isinstance(config, Gated)
        sizes = block_sizes(f"table {name!r}", config, embeddings.spaces[name], config.all_ends)
        open_S = (gates.gate_SD > 0).sum(1).tolist()
        elements = sum(size * count for size, count in zip(sizes, open_S, strict=True))
        total += elements * BITS[config.precision] / 8
    return round(total)
