"""DeepLight: the smallest elements of plain tables are zeroed, more of them as training goes on.

After a warm-up, every few steps, the smallest elements of all tables together are set to 0; how
many, follows

    share = sparsity * (1 - .99^(step / omega))

with steps counted from the end of the warm-up. They may regrow until the next time. After the last
step the share is the sparsity that is wanted, to the element.

Source: Deng et al., "DeepLight: Deep Lightweight Feature Interactions for Accelerating CTR
Predictions in Ad Serving", WSDM 2021, arXiv:2002.06987.
"""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from recemb.embeddings import Embeddings, embeddings_of
from recemb.errors import RecembError

RATE = 0.99
REACHED = 0.99
"""Without an omega, the share of the sparsity that the schedule reaches by the last step."""


class DeepLight(Callback):
    """Zeroes the smallest elements of plain tables.

    Args:
        tables: Which.
        kept: Elements of these tables that are left in the end, at least 1.
        warm_up_epochs: Epochs before anything is zeroed; at least 0.
        omega: How slowly the share rises, above 0 (published: 100, for trainings of some hundred
            thousand steps). None: so that the last step is at .99 of the sparsity.
        every: Training steps between two times, at least 1.

    Attributes:
        history: The share of elements of each table that are not 0, at the end of each epoch.
    """

    def __init__(
        self,
        tables: list[str],
        kept: int,
        warm_up_epochs: int = 1,
        omega: float | None = None,
        every: int = 10,
    ) -> None:
        for name, is_right, rule in (
            ("kept", kept >= 1, "at least 1"),
            ("warm_up_epochs", warm_up_epochs >= 0, "at least 0"),
            ("omega", omega is None or omega > 0, "above 0"),
            ("every", every >= 1, "at least 1"),
        ):
            if not is_right:
                raise RecembError(f"deeplight: {name} must be {rule}, got {locals()[name]}")
        self.tables = tables
        self.kept = kept
        self.warm_up_epochs = warm_up_epochs
        self.omega = omega
        self.every = every
        self.history: list[dict[str, Tensor]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Zero the smallest elements, after the warm-up."""
        steps = int(trainer.num_training_batches)
        done = (trainer.current_epoch - self.warm_up_epochs) * steps + batch_idx + 1
        assert trainer.max_epochs is not None
        last = (trainer.max_epochs - self.warm_up_epochs) * steps
        if done <= 0 or (done % self.every and done < last):
            return
        rows = rows_of(embeddings_of(pl_module), self.tables)
        total = sum(one.numel() for one in rows.values())
        sparsity = max(0.0, 1 - self.kept / total)
        zeroed = (
            total - self.kept if done >= last else round(total * self.share(done, last, sparsity))
        )
        zero_smallest(list(rows.values()), zeroed)

    def share(self, done: int, last: int, sparsity: float) -> float:
        """Return the share of elements that are 0 after some steps of so many."""
        omega = self.omega
        if omega is None:
            omega = last * torch.tensor(RATE).log().item() / torch.tensor(1 - REACHED).log().item()
        return sparsity * (1 - float(RATE ** (done / omega)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep and log how many elements are left."""
        rows = rows_of(embeddings_of(pl_module), self.tables)
        self.history.append({name: one.ne(0).float().mean() for name, one in rows.items()})
        left = sum(int(one.count_nonzero()) for one in rows.values())
        pl_module.log("search/elements", float(left), prog_bar=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed search needs."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self.history = state_dict["history"]


def rows_of(embeddings: Embeddings, tables: list[str]) -> dict[str, Tensor]:
    """Return the stored rows of plain tables, which may be written into."""
    stored = embeddings.rows.tables()
    return {name: stored[embeddings.physical_of[name]["rows"]] for name in tables}


@torch.no_grad()
def zero_smallest(rows: list[Tensor], count: int) -> None:
    """Set the elements of smallest magnitude of several tables to 0, in place.

    Args:
        rows: Of each table.
        count: Of elements of all tables together that are 0 then; those that are 0 already are the
            first.
    """
    if count <= 0:
        return
    sizes = torch.cat([one.abs().flatten().float() for one in rows])
    place = sizes.topk(count, largest=False).indices
    is_zero = torch.zeros_like(sizes, dtype=torch.bool)
    is_zero[place] = True
    for one, own in zip(rows, is_zero.split([one.numel() for one in rows]), strict=True):
        one.masked_fill_(own.view_as(one), 0)
