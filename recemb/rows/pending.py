"""Pending gradients: what backward passes have left for the next step, and whether one comes.

Rows get their gradients past torch's optimizers, so nobody else notices a forgotten step.

Shapes: T rows gathered, D elements per row.
"""

import warnings

import torch
from torch import Tensor, nn

MANY_PASSES = 100
"""Backward passes without a step after which one was probably forgotten."""


class Pending:
    """Row numbers and gradients that wait for the next step, by form of rows.

    They follow the gradient of an empty parameter, the *anchor*: every backward pass gives it one,
    a step takes it away, and so does ``zero_grad()`` of a model or optimizer that has it. So
    ``zero_grad()`` drops rows' gradients with all others.
    """

    def __init__(self) -> None:
        self._left: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.num_passes = 0
        self._latest = -1
        self._is_said = False

    def add(self, form: str, rows_T: Tensor, grads_TD: Tensor, anchor: nn.Parameter) -> None:
        """Keep what a backward pass has found."""
        number = torch._C._current_graph_task_id()
        if number != self._latest:
            self._latest = number
            if self._left and anchor.grad is None:
                self._say(
                    f"the gradients of {self.num_passes} backward passes were dropped: zero_grad() "
                    "came before embeddings.step(); call embeddings.step() in every training step, "
                    "or rows are not trained"
                )
                self.clear()
            self.num_passes += 1
            if self.num_passes == MANY_PASSES:
                self._say(
                    f"the gradients of {MANY_PASSES} backward passes wait for embeddings.step(), "
                    "and no row has changed since; call it in every training step (where so many "
                    "batches are one step, all is well)"
                )
        self._left.setdefault(form, []).append((rows_T, grads_TD))

    def take(self, form: str) -> tuple[Tensor, Tensor] | None:
        """Return the rows and gradients of a form, and forget them; None where nothing waits."""
        left = self._left.pop(form, None)
        if left is None:
            return None
        return torch.cat([rows for rows, _ in left]), torch.cat([grads for _, grads in left])

    def clear(self) -> None:
        """Forget all of them."""
        self._left.clear()
        self.num_passes = 0

    def say_unsaved(self) -> None:
        """Warn, where gradients wait, that what is saved does not have them."""
        if self._left:
            self._say(
                "rows were saved while gradients wait for embeddings.step(), which are not saved; "
                "call it first"
            )

    def _say(self, what: str) -> None:
        if not self._is_said:
            self._is_said = True
            warnings.warn(f"rows: {what}", stacklevel=2)
