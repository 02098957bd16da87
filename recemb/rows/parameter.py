"""Rows parameters: how the rows of a table show themselves to the tools that torch has.

A table is too large for a gradient of its own size. What backward passes leave are the distinct
rows that were read, and the sum of the gradients of each. A rows parameter has these sums as its
``grad``, a line per touched row. So whatever works on gradients in place reaches rows: clipping by
norm and by value, ``GradScaler``, ``zero_grad``. Its own values are zeros that take no memory: rows
lie in the rows store, and only a step of the store changes them.

Shapes: U touched rows, D elements per row.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from recemb.errors import RecembError


class RowsParameter(nn.Parameter):
    """Stands for the rows of one physical table among the parameters of a module.

    Args:
        table: Its name.
        dim: D.

    Attributes:
        rows_U: The touched rows, ascending, while ``grad`` has their gradients (U, D).
    """

    table: str
    rows_U: Tensor | None

    def __new__(cls, table: str, dim: int) -> "RowsParameter":
        """Return the parameter of a table of which no row has a gradient."""
        parameter = super().__new__(cls, torch.empty(0, dim))
        parameter.table, parameter.rows_U = table, None
        return parameter

    def hold(self, rows_U: Tensor, grads_UD: Tensor) -> None:
        """Let ``grad`` be the gradients of touched rows."""
        self.rows_U = rows_U
        # A gradient must have its parameter's shape; one stored zero is read everywhere.
        self.data = _zero(grads_UD.device).expand(grads_UD.shape)
        self.grad = grads_UD

    def release(self) -> None:
        """Forget gradients."""
        if self.rows_U is not None:
            self.rows_U = None
            self.data = self.data.new_empty(0, self.shape[1])
        self.grad = None

    def register_hook(self, hook: Any) -> Any:
        """Refuse: gradients of rows are not made by autograd, which would call hooks with None."""
        raise self._hook_error("register_hook")

    def register_post_accumulate_grad_hook(self, hook: Any) -> Any:
        """Refuse: autograd would call hooks before the gradients are there."""
        raise self._hook_error("register_post_accumulate_grad_hook")

    def _hook_error(self, called: str) -> RecembError:
        return RecembError(
            f"table {self.table!r}: {called} cannot be had, for gradients of rows are summed when "
            "all of the backward pass is over; look at grad then, or hook onto the vectors"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "RowsParameter":
        """Return a copy without gradients, as copies of parameters are."""
        copy = RowsParameter(self.table, self.shape[1])
        copy.data = copy.data.to(self.device)
        memo[id(self)] = copy
        copy.requires_grad = self.requires_grad
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle what the parameter is, without gradients."""
        return _rebuild, (self.table, self.shape[1], self.requires_grad)


@functools.cache
def _zero(device: torch.device) -> Tensor:
    return torch.zeros((), device=device)


def _rebuild(table: str, dim: int, requires_grad: bool) -> RowsParameter:
    parameter = RowsParameter(table, dim)
    parameter.requires_grad = requires_grad
    return parameter


def is_accumulated(parameter: RowsParameter, node: Any) -> bool:
    """Return whether the running backward pass leaves its gradients in the parameter's ``grad``.

    Args:
        parameter: The parameter.
        node: Of autograd's graph, which accumulates its gradients.

    Raises:
        RecembError: If it returns them: ``torch.autograd.grad`` was asked for them.
    """
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        raise RecembError(
            f"table {parameter.table!r}: torch.autograd.grad cannot return gradients of rows; call "
            "backward(), which leaves them in grad, or ask for those of the vectors"
        ) from None


def check_not_replicated(parameter: RowsParameter) -> None:
    """Raise a :class:`RecembError` under DistributedDataParallel in several processes."""
    wrapper = torch.nn.parallel.DistributedDataParallel._active_ddp_module
    if wrapper is not None and wrapper.process_group.size() > 1:
        raise RecembError(
            f"table {parameter.table!r}: DistributedDataParallel would let the rows of each "
            "process go their own way; train with the strategy 'torchrec' of recemb "
            "(docs/several_processes.md), or in one process"
        )


_accepted = "is_optimizer_of_rows"
"""An attribute of optimizers that may have rows among their parameters."""


def _refuse_rows(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    """Refuse the first step of an optimizer that would take rows for a tensor of their own."""
    if getattr(optimizer, _accepted, False):
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(parameter, RowsParameter):
                name = type(optimizer).__name__
                raise RecembError(
                    f"{name}: it was given the rows of table {parameter.table!r}, which it cannot "
                    "train; give it recemb.optim.dense_parameters(model), and rows to "
                    f"recemb.optim.RowsOptimizer(embeddings, dense={name}(...))"
                )
    setattr(optimizer, _accepted, True)


register_optimizer_step_pre_hook(_refuse_rows)
