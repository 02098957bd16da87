"""AutoDim: weights of candidate widths, learned on rows held out of training.

After a warm-up, in which all candidates are trained in a mixture that is drawn anew for each batch,
each training step is followed by a step of the weights on a batch of held-out rows (first order, by
Adam). The temperature of the mixture falls from 1 to .1 on the way, so that draws become choices.

Source: Zhao et al., "AutoDim: Field-aware Embedding Dimension Search in Recommender Systems",
WWW 2021, arXiv:2006.14827.
"""

from collections.abc import Generator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from recemb.embeddings import Embeddings, embeddings_of
from recemb.errors import RecembError
from recemb.search.held_out import endless_batches
from recemb.tables.candidate_dims import CandidateDims, Candidates
from recemb.tables.full import Full
from recemb.tables.kind import TableContent

FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.0, 0.1


class AutoDim(Callback):
    """Moves the weights of all tables of kind ``candidate_dims``.

    Args:
        warm_up_epochs: Epochs before weights move; at least 0.
        epochs: Those in which they do, over which the temperature falls; at least 1.
        learning_rate: Of the weights' Adam; above 0.
        every: Training steps per step of the weights, at least 1.

    Attributes:
        history: The weights at the end of each epoch, by table.
    """

    def __init__(
        self, warm_up_epochs: int = 1, epochs: int = 2, learning_rate: float = 0.02, every: int = 1
    ) -> None:
        for name, is_right, rule in (
            ("warm_up_epochs", warm_up_epochs >= 0, "at least 0"),
            ("epochs", epochs >= 1, "at least 1"),
            ("learning_rate", learning_rate > 0, "above 0"),
            ("every", every >= 1, "at least 1"),
        ):
            if not is_right:
                raise RecembError(f"autodim: {name} must be {rule}, got {locals()[name]}")
        self.warm_up_epochs = warm_up_epochs
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.every = every
        self.history: list[dict[str, Tensor]] = []
        self._optimizer: torch.optim.Adam | None = None
        self._saved: dict[str, Any] | None = None
        self._batches: Generator[Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the optimizer of the weights."""
        weights = [one.weight_K for one in candidates_of(embeddings_of(pl_module)).values()]
        self._optimizer = torch.optim.Adam(weights, lr=self.learning_rate)
        if self._saved is not None:
            self._optimizer.load_state_dict(self._saved)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the held-out rows anew, and cool down."""
        self._begin(trainer, pl_module, passed=0)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin an epoch that is resumed inside: it has no start of its own."""
        if self._batches is None:
            is_warm = trainer.current_epoch >= self.warm_up_epochs
            self._begin(trainer, pl_module, -(-batch_idx // self.every) if is_warm else 0)

    def _begin(self, trainer: Trainer, pl_module: LightningModule, passed: int) -> None:
        self._close()
        self._batches = endless_batches(trainer, passed)
        done = max(0, trainer.current_epoch - self.warm_up_epochs) / max(1, self.epochs - 1)
        temperature = FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** min(1.0, done)
        for one in candidates_of(embeddings_of(pl_module)).values():
            one.temperature = temperature

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the weights, after the warm-up."""
        if trainer.current_epoch < self.warm_up_epochs or batch_idx % self.every:
            return
        assert self._optimizer is not None and self._batches is not None
        held_out = pl_module.transfer_batch_to_device(next(self._batches), pl_module.device, 0)
        weights = [one.weight_K for one in candidates_of(embeddings_of(pl_module)).values()]
        pl_module.eval()
        with torch.enable_grad():
            for weight_K in weights:
                weight_K.requires_grad_(True)
            loss = pl_module.search_loss(held_out)  # type: ignore[operator]
            grads = torch.autograd.grad(loss, weights, materialize_grads=True)
            for weight_K, grad_K in zip(weights, grads, strict=True):
                weight_K.requires_grad_(False)
                weight_K.grad = grad_K
        pl_module.train()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the choice and not a draw."""
        for one in candidates_of(embeddings_of(pl_module)).values():
            one.temperature = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights, and log the bytes of the chosen widths."""
        embeddings = embeddings_of(pl_module)
        found = candidates_of(embeddings)
        self.history.append({name: one.weight_K.clone() for name, one in found.items()})
        total = sum(
            content.config.serving_bytes(f"table {name!r}", embeddings.spaces[name])
            for name, content in chosen_contents(embeddings).items()
        )
        pl_module.log("search/bytes", float(total), prog_bar=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the draws, and let go of the held-out rows."""
        self.on_validation_start(trainer, pl_module)
        self._close()

    def _close(self) -> None:
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        optimizer = None if self._optimizer is None else self._optimizer.state_dict()
        return {"history": self.history, "optimizer": optimizer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.history, self._saved = state_dict["history"], state_dict["optimizer"]


def candidates_of(embeddings: Embeddings) -> dict[str, Candidates]:
    """Return the candidates of all tables that have some.

    Raises:
        RecembError: If none has.
    """
    learned = {name: embeddings.learned_of(name) for name in embeddings.tables}
    found = {name: one for name, one in learned.items() if isinstance(one, Candidates)}
    if not found:
        raise RecembError(
            "autodim: no table is of kind candidate_dims; search through `recemb search`"
        )
    return found


@torch.no_grad()
def chosen_contents(embeddings: Embeddings) -> dict[str, TableContent]:
    """Return, for each table, the plain one of its chosen width behind a matrix.

    The matrix has the scale of the norm in it and not its shift, which no matrix has; so what is
    found is to be trained anew, as its authors do.
    """
    found = {}
    for name, one in candidates_of(embeddings).items():
        config = embeddings.tables[name]
        assert isinstance(config, CandidateDims)
        width = one.widths[one.chosen]
        norm, linear = one.norms[one.chosen], one.maps[one.chosen]
        assert isinstance(norm, nn.BatchNorm1d) and isinstance(linear, nn.Linear)
        assert norm.running_var is not None
        plain = Full(
            dim=width,
            project=config.dim,
            init_scale=config.init_scale,
            precision=config.precision,
            step=config.step,
            sharding=config.sharding,
        )
        scale_D = (norm.running_var + norm.eps).rsqrt()
        found[name] = TableContent(
            config=plain,
            values={"rows": embeddings.content(name).values["rows"][:, :width]},
            learned=None,
            projection_OD=linear.weight * scale_D.unsqueeze(1),
        )
    return found
