"""Pending gradients: what backward passes have left for the next step, and whether one comes.

While a backward pass runs, gradients are a list of what was read. At its end duplicates are summed,
and each table's rows parameter holds its part (:mod:`recemb.rows.parameter`): there they may be
clipped, unscaled or dropped, until a step takes them.

Shapes: T rows read, U <= T distinct ones, D elements per row.
"""

import threading
import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from recemb.rows.flat import Flat
from recemb.rows.parameter import RowsParameter

MANY_PASSES = 100
"""Backward passes without a step after which one was probably forgotten."""


_lock = threading.RLock()
"""Backward passes may run in several threads; one lock for all, for it cannot be copied."""


class Gradients(NamedTuple):
    """Distinct rows, ascending, their summed gradients, and how many reads that was."""

    rows_U: Tensor
    grads_UD: Tensor
    reads: int


class Reminder:
    """Says, once, that a step was probably forgotten: rows get their gradients past others' eyes.

    Attributes:
        is_stepped_by_torch: Whether rows have a torch optimizer. Then gradients that are dropped
            are no sign: a scaler leaves steps out.
    """

    def __init__(self) -> None:
        self.is_stepped_by_torch = False
        self.num_passes = 0
        self._latest = -1
        self._is_said = False

    def count(self, number: int) -> None:
        """Count a backward pass.

        Args:
            number: Of the pass; it may come several times.
        """
        if number == self._latest:
            return
        self._latest = number
        self.num_passes += 1
        if self.num_passes == MANY_PASSES:
            self._say(
                f"the gradients of {MANY_PASSES} backward passes wait for embeddings.step(), and "
                "no row has changed since; call it in every training step, or that of a "
                "recemb.optim.RowsOptimizer (where so many batches are one step, all is well)"
            )

    def say_dropped(self) -> None:
        """Warn that zero_grad took gradients that no step has seen."""
        passes, self.num_passes = self.num_passes, 0
        if not self.is_stepped_by_torch:
            self._say(
                f"the gradients of {passes} backward passes were dropped: zero_grad() "
                "came before embeddings.step(); call embeddings.step() in every training step, or "
                "that of a recemb.optim.RowsOptimizer, or rows are not trained"
            )

    def say_unsaved(self) -> None:
        """Warn that what is saved lacks gradients that wait."""
        self._say(
            "rows were saved while gradients wait for embeddings.step(), which are not saved; call "
            "it first"
        )

    def _say(self, what: str) -> None:
        if not self._is_said:
            self._is_said = True
            warnings.warn(f"rows: {what}", stacklevel=2)


class Pending:
    """The gradients of one flat's rows since the last step.

    Args:
        parameters: Of the flat's tables, in the order of their rows.
        flat: The flat.
        reminder: Of the store.
    """

    def __init__(self, parameters: Sequence[RowsParameter], flat: Flat, reminder: Reminder) -> None:
        self.parameters = list(parameters)
        self._flat = flat
        self._reminder = reminder
        self._left: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """What passes that are not over have found, by their numbers. One that fails is never over:
        what it has left waits for no step."""
        self._reads = 0
        self._whole: tuple[Tensor, Tensor] | None = None
        """What the parameters have parts of, one after the other."""

    def add(self, rows_T: Tensor, grads_TD: Tensor) -> None:
        """Keep what the running backward pass has found."""
        number = torch._C._current_graph_task_id()
        with _lock:
            if number not in self._left:
                self._left[number] = []
                engine = torch.autograd.Variable._execution_engine
                engine.queue_callback(partial(self.collect, number))
            self._left[number].append((rows_T, grads_TD.detach()))

    @torch.no_grad()
    def collect(self, number: int) -> None:
        """Give each table's parameter the sums of what backward passes have found.

        Args:
            number: Of the pass that is over.
        """
        with _lock:
            if number in self._left:
                self._collect(number)

    def _collect(self, number: int) -> None:
        found = self._left.pop(number)
        num_new = sum(len(rows) for rows, _ in found)
        before = self._held()
        if before is None:
            self._say_dropped()
        self._reminder.count(number)
        if before is not None and not bool(before.grads_UD.any()):
            before = None  # zero_grad(set_to_none=False)
        if before is not None:
            found = [(before.rows_U, before.grads_UD), *found]
        self._reads = num_new + (before.reads if before is not None else 0)
        rows_T, grads_TD = (_joined(list(one)) for one in zip(*found, strict=True))
        rows_U, grads_UD = sum_duplicates(rows_T, grads_TD)
        if grads_UD is found[0][1]:
            grads_UD = grads_UD.clone()  # others may read it, and clipping writes into ours
        self._whole = rows_U, grads_UD
        starts = self._starts(rows_U)
        sizes = [
            stop - start for start, stop in zip(starts, [*starts[1:], len(rows_U)], strict=True)
        ]
        for one, size, own_U, own_UD in zip(
            self.parameters, sizes, rows_U.split(sizes), grads_UD.split(sizes), strict=True
        ):
            if size and one.requires_grad:
                one.hold(own_U, own_UD)
            else:
                one.release()

    def _starts(self, rows_U: Tensor) -> list[int]:
        """Return where the rows of each table begin among distinct ones."""
        if len(self.parameters) == 1:
            return [0]
        starts: list[int] = torch.searchsorted(rows_U, self._flat.starts_K).tolist()
        return starts

    def _held(self) -> Gradients | None:
        """Return the gradients that the parameters have; None where they have none."""
        holders = [one for one in self.parameters if one.rows_U is not None]
        parts = [(one.rows_U, one.grad) for one in holders if one.grad is not None]
        if not parts:
            return None
        if self._whole is not None and len(parts) == len(holders) and self._is_whole(parts):
            return Gradients(*self._whole, self._reads)
        rows_U = torch.cat([rows for rows, _ in parts if rows is not None])
        return Gradients(rows_U, torch.cat([grads for _, grads in parts]), self._reads)

    def _is_whole(self, parts: Sequence[tuple[Tensor | None, Tensor]]) -> bool:
        """Return whether parts are still what they were cut from, so that nothing is copied."""
        assert self._whole is not None
        place, end = self._whole[1].data_ptr(), self._whole[1].nbytes
        end += place
        for _, part in parts:
            if part.data_ptr() != place or not part.is_contiguous():
                return False
            place += part.nbytes
        return place == end

    def take(self) -> Gradients | None:
        """Return the gradients that wait, and forget them; None where nothing waits."""
        found = self._held()
        if found is None:
            self._say_dropped()
        self.clear()
        return found

    def _say_dropped(self) -> None:
        """Warn where the gradients of touched rows were taken by somebody else than a step."""
        if any(one.rows_U is not None for one in self.parameters):
            self._reminder.say_dropped()

    def clear(self) -> None:
        """Forget all gradients."""
        self._left, self._whole, self._reads = {}, None, 0
        for one in self.parameters:
            one.release()

    @property
    def waits(self) -> bool:
        """Whether gradients wait for a step."""
        return any(one.grad is not None for one in self.parameters)


def _joined(parts: list[Tensor]) -> Tensor:
    """Return tensors one after the other; a single one as it is, for a copy costs a pass."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def sum_duplicates(rows_T: Tensor, grads_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows, ascending, and the sum of each one's gradients: (U,), (U, D)."""
    if bool((rows_T.diff() > 0).all()):
        return rows_T, grads_TD  # such as a whole table, read in its order
    rows_U, place_T = torch.unique(rows_T, return_inverse=True)
    sums_UD = grads_TD.new_zeros(rows_U.shape[0], grads_TD.shape[1])
    return rows_U, sums_UD.index_add_(0, place_T, grads_TD)
