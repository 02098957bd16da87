"""OptEmbed: thresholds of rows, learned in training, on a supernet of all widths.

While it trains, each id is read at a width drawn from 1..D (under a budget: from those that its
table can have within it), and the thresholds follow

    loss + alpha * sum_f exp(-threshold_f)

by gradient descent of their own: the loss keeps rows that are of use, the other term drops rows.
Which width each id space gets is found afterwards, without training
(:mod:`recemb.search.evolution`).

Source: Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction",
CIKM 2022, arXiv:2208.04482.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recemb.embeddings import Embeddings, embeddings_of
from recemb.errors import RecembError
from recemb.tables.thresholded import Thresholds


class OptEmbed(Callback):
    """Moves the thresholds of all tables of kind ``thresholded``, and draws widths.

    Checkpoints hold the thresholds, which are buffers of the model.

    Args:
        learning_rate: Of the thresholds; above 0.
        alpha: Weight of the term that drops rows; at least 0.
        widest: By table, the largest width that is drawn; by default its dimension.

    Attributes:
        history: Thresholds at the end of each epoch, by table.
    """

    def __init__(
        self,
        learning_rate: float = 1e-4,
        alpha: float = 1e-4,
        widest: Mapping[str, int] | None = None,
    ) -> None:
        if not learning_rate > 0:
            raise RecembError(f"optembed: learning_rate must be above 0, got {learning_rate}")
        if not alpha >= 0:
            raise RecembError(f"optembed: alpha must be at least 0, got {alpha}")
        for name, width in (widest or {}).items():
            if width < 1:
                raise RecembError(
                    f"optembed: widest must be at least 1, got {width} for table {name!r}"
                )
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.widest = dict(widest or {})
        self.history: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let gradients reach the thresholds, and draw widths."""
        for name, one in thresholds_of(embeddings_of(pl_module)).items():
            one.sampled = self.widest.get(name, one.dim)
            one.threshold_F.requires_grad_(True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Undo that."""
        for one in thresholds_of(embeddings_of(pl_module)).values():
            one.sampled = 0
            one.threshold_F.requires_grad_(False)
            one.threshold_F.grad = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the thresholds by the gradient that the training step has left."""
        for one in thresholds_of(embeddings_of(pl_module)).values():
            self.move(one)

    @torch.no_grad()
    def move(self, thresholds: Thresholds) -> None:
        """Take one step of the thresholds of a table."""
        threshold_F = thresholds.threshold_F
        grad_F = -self.alpha * torch.exp(-threshold_F)
        if threshold_F.grad is not None:
            grad_F = grad_F + threshold_F.grad
            threshold_F.grad = None
        threshold_F.sub_(self.learning_rate * grad_F)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the thresholds, and log the share of rows that are dropped."""
        embeddings = embeddings_of(pl_module)
        found = thresholds_of(embeddings)
        self.history.append({name: one.threshold_F.detach().clone() for name, one in found.items()})
        kept = torch.cat([kept_rows(embeddings, name) for name in found])
        pl_module.log("search/rows_kept", kept.float().mean(), prog_bar=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.history = state_dict["history"]


def thresholds_of(embeddings: Embeddings) -> dict[str, Thresholds]:
    """Return the thresholds of all tables that have them.

    Raises:
        RecembError: If none has.
    """
    learned = {name: embeddings.learned_of(name) for name in embeddings.tables}
    found = {name: one for name, one in learned.items() if isinstance(one, Thresholds)}
    if not found:
        raise RecembError(
            "optembed: no table is of kind thresholded; search through `recemb search`"
        )
    return found


@torch.no_grad()
def kept_rows(embeddings: Embeddings, table: str) -> Tensor:
    """Return which ids of a table have rows above their threshold, by number: (V,) bool."""
    thresholds = thresholds_of(embeddings)[table]
    sizes_F = torch.tensor([space.num_ids or 0 for space in embeddings.spaces[table]])
    threshold_V = thresholds.threshold_F.cpu().repeat_interleave(sizes_F)
    return embeddings.content(table).values["rows"].cpu().abs().sum(1) > threshold_V
