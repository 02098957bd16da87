"""PEP: thresholds of elements, learned in training until few enough elements are left.

    vector = sign(E[id]) * max(|E[id]| - sigmoid(s), 0)

s follows the training loss, and decays towards 0, which is a threshold of .5, by an Adam of its
own: the loss holds the elements that are of use, the decay closes the others. The search ends when
no more elements are left than wanted. What is kept is then trained from the weights with which the
search began, as a lottery ticket.

Source: Liu et al., "Learnable Embedding Sizes for Recommender Systems" (PEP), ICLR 2021,
arXiv:2101.07577; Frankle and Carbin, "The Lottery Ticket Hypothesis", ICLR 2019, arXiv:1803.03635.
"""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recemb.embeddings import Embeddings, embeddings_of
from recemb.errors import RecembError
from recemb.tables.soft_thresholded import SoftThresholded, SoftThresholds


class PEP(Callback):
    """Moves the thresholds of all tables of kind ``soft_thresholded``.

    Args:
        kept: Elements of these tables at which the search ends, at least 1.
        initial: Where the checkpoint of the first weights goes.
        learning_rate: Of the thresholds' Adam; above 0.
        decay: Times s it is added to the gradient; at least 0. (The training loss alone closes few
            elements.)
        every: Training steps after which elements are counted, at least 1.

    Attributes:
        history: s at the end of each epoch, by table.
        is_reached: Whether no more elements are left than wanted.
    """

    def __init__(
        self,
        kept: int,
        initial: str,
        learning_rate: float = 0.01,
        decay: float = 1e-4,
        every: int = 10,
    ) -> None:
        for name, is_right, rule in (
            ("kept", kept >= 1, "at least 1"),
            ("learning_rate", learning_rate > 0, "above 0"),
            ("decay", decay >= 0, "at least 0"),
            ("every", every >= 1, "at least 1"),
        ):
            if not is_right:
                raise RecembError(f"pep: {name} must be {rule}, got {locals()[name]}")
        self.kept = kept
        self.initial = initial
        self.learning_rate = learning_rate
        self.decay = decay
        self.every = every
        self.history: list[dict[str, Tensor]] = []
        self.is_reached = False
        self._optimizer: torch.optim.Adam | None = None
        self._saved: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the first weights, and let gradients reach the thresholds."""
        if not trainer.global_step:
            Path(self.initial).parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(self.initial)
        thresholds = soft_thresholds_of(embeddings_of(pl_module)).values()
        for one in thresholds:
            one.s_XD.requires_grad_(True)
        self._optimizer = torch.optim.Adam(
            [one.s_XD for one in thresholds], lr=self.learning_rate, weight_decay=self.decay
        )
        if self._saved is not None:
            self._optimizer.load_state_dict(self._saved)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the thresholds by the gradient of the training step, and end when it is time."""
        assert self._optimizer is not None
        self._optimizer.step()
        self._optimizer.zero_grad()
        if batch_idx % self.every == 0 and not self.is_reached:
            embeddings = embeddings_of(pl_module)
            self.is_reached = elements_left(embeddings) <= self.kept
            if self.is_reached:
                # Now: of a training that ends inside an epoch the checkpoint is written first.
                self._keep(embeddings)
                trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the thresholds, and log the share of elements that are left."""
        embeddings = embeddings_of(pl_module)
        if not self.is_reached:
            self._keep(embeddings)
        pl_module.log("search/elements", float(elements_left(embeddings)), prog_bar=True)

    def _keep(self, embeddings: Embeddings) -> None:
        found = soft_thresholds_of(embeddings)
        self.history.append({name: one.s_XD.detach().clone() for name, one in found.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let gradients leave the thresholds alone."""
        for one in soft_thresholds_of(embeddings_of(pl_module)).values():
            one.s_XD.requires_grad_(False)
            one.s_XD.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        return {"history": self.history, "optimizer": optimizer, "is_reached": self.is_reached}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.history, self._saved = state_dict["history"], state_dict["optimizer"]
        self.is_reached = state_dict["is_reached"]


def soft_thresholds_of(embeddings: Embeddings) -> dict[str, SoftThresholds]:
    """Return the thresholds of all tables that have some.

    Raises:
        RecembError: If none has.
    """
    learned = {name: embeddings.learned_of(name) for name in embeddings.tables}
    found = {name: one for name, one in learned.items() if isinstance(one, SoftThresholds)}
    if not found:
        raise RecembError(
            "pep: no table is of kind soft_thresholded; search through `recemb search`"
        )
    return found


@torch.no_grad()
def margins(embeddings: Embeddings, table: str) -> Tensor:
    """Return how far the elements of a table are above their thresholds: (V, D)."""
    config, spaces = embeddings.tables[table], embeddings.spaces[table]
    assert isinstance(config, SoftThresholded)
    threshold_XD = torch.sigmoid(soft_thresholds_of(embeddings)[table].s_XD)
    if config.per == "dimension":
        sizes_F = torch.tensor([space.num_ids or 0 for space in spaces])
        threshold_XD = threshold_XD.repeat_interleave(sizes_F.to(threshold_XD.device), 0)
    return embeddings.content(table).values["rows"].abs() - threshold_XD


def elements_left(embeddings: Embeddings) -> int:
    """Return how many elements of all tables are above their thresholds."""
    return sum(
        int((margins(embeddings, name) > 0).sum()) for name in soft_thresholds_of(embeddings)
    )
