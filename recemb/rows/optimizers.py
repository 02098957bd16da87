"""Sparse optimizers: one update of the rows that a step touched, and of no other.

An optimizer says what state a table keeps and how a block of distinct rows changes. Who owns the
rows, sums duplicate gradients and writes the block back is the rows store's business.

Shapes: U touched rows (distinct), D elements per row.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from recemb.errors import RecembError
from recemb.settings import check_types


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateRule(ABC):
    """How touched rows change; state is kept per row and updated only where a row is touched."""

    kind: str
    """The name of the optimizer."""
    learning_rate: float = 0.001
    """Step size, above 0."""
    step_learning_rate: float = 2e-5
    """Step size of learned quantisation steps, above 0."""
    weight_decay: float = 0.0
    """Times a row, added to its gradient (L2), at least 0; rows that a step does not touch do not
    decay."""

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` that starts with ``where`` if a setting is out of range."""
        check_types(where, self)
        for name in ("learning_rate", "step_learning_rate", "eps"):
            value = getattr(self, name, 1.0)
            if not 0 < value < math.inf:
                raise RecembError(f"{where}: {name} must be above 0, got {value}")
        if not 0 <= self.weight_decay < math.inf:
            raise RecembError(f"{where}: weight_decay must be at least 0, got {self.weight_decay}")

    def decayed_update(
        self, rows_UD: Tensor, grads_UD: Tensor, state: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the new rows as :meth:`update` does, their decay included."""
        if self.weight_decay:
            grads_UD = grads_UD.add(rows_UD, alpha=self.weight_decay)
        return self.update(rows_UD, grads_UD, state, step)

    @abstractmethod
    def state_dims(self, dim: int) -> dict[str, int]:
        """Return the elements of state per row, by name, of a table of ``dim``."""

    @abstractmethod
    def update(
        self, rows_UD: Tensor, grads_UD: Tensor, state: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the new rows; change ``state`` (each (U, elements), zeros at first) in place.

        Args:
            rows_UD: The touched rows.
            grads_UD: Their gradients, summed over duplicates.
            state: What :meth:`state_dims` names, of the touched rows.
            step: Number of this step, from 1.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class SGD(UpdateRule):
    """w -= lr * g."""

    kind: Literal["sgd"] = "sgd"
    """The name of the optimizer."""

    def state_dims(self, dim: int) -> dict[str, int]:
        """Return no state."""
        return {}

    def update(
        self, rows_UD: Tensor, grads_UD: Tensor, state: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the new rows."""
        return rows_UD.sub(grads_UD, alpha=self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adagrad(UpdateRule):
    """s += g^2; w -= lr * g / (sqrt(s) + eps).

    Source: Duchi et al., JMLR 2011.
    """

    kind: Literal["adagrad"] = "adagrad"
    """The name of the optimizer."""
    eps: float = 1e-8
    """Added to the root, above 0."""

    def state_dims(self, dim: int) -> dict[str, int]:
        """Return one sum of squares per element."""
        return {"sum": dim}

    def update(
        self, rows_UD: Tensor, grads_UD: Tensor, state: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the new rows."""
        sum_UD = state["sum"].addcmul_(grads_UD, grads_UD)
        return rows_UD.addcdiv(grads_UD, sum_UD.sqrt().add_(self.eps), value=-self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowWiseAdagrad(UpdateRule):
    """s += mean(g^2) over the row; w -= lr * g / (sqrt(s) + eps): one number of state per row.

    Source: Mudigere et al., ISCA 2022, arXiv:2104.05158, section 4.1.3; the rule of FBGEMM's
    EXACT_ROWWISE_ADAGRAD.
    """

    kind: Literal["rowwise_adagrad"] = "rowwise_adagrad"
    """The name of the optimizer."""
    eps: float = 1e-8
    """Added to the root, above 0."""

    def state_dims(self, dim: int) -> dict[str, int]:
        """Return one number per row."""
        return {"sum": 1}

    def update(
        self, rows_UD: Tensor, grads_UD: Tensor, state: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the new rows."""
        sum_U1 = state["sum"].add_(grads_UD.square().mean(1, keepdim=True))
        return rows_UD.addcdiv(grads_UD, sum_U1.sqrt().add_(self.eps), value=-self.learning_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam(UpdateRule):
    """Adam whose moments stand still while a row is not touched; bias correction by global step.

    Source: Kingma and Ba, ICLR 2015; the touched-rows rule is that of ``torch.optim.SparseAdam``.
    """

    kind: Literal["adam"] = "adam"
    """The name of the optimizer."""
    beta1: float = 0.9
    """Decay of the mean, in 0..1."""
    beta2: float = 0.999
    """Decay of the mean square, in 0..1."""
    eps: float = 1e-8
    """Added to the root, above 0."""

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        UpdateRule.check(self, where)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise RecembError(
                    f"{where}: {name} must be at least 0 and below 1, got {getattr(self, name)}"
                )

    def state_dims(self, dim: int) -> dict[str, int]:
        """Return two moments per element."""
        return {"mean": dim, "square": dim}

    def update(
        self, rows_UD: Tensor, grads_UD: Tensor, state: Mapping[str, Tensor], step: int
    ) -> Tensor:
        """Return the new rows."""
        mean_UD = state["mean"].lerp_(grads_UD, 1 - self.beta1)
        square_UD = state["square"].mul_(self.beta2)
        square_UD.addcmul_(grads_UD, grads_UD, value=1 - self.beta2)
        root_UD = (square_UD / (1 - self.beta2**step)).sqrt_().add_(self.eps)
        rate = self.learning_rate / (1 - self.beta1**step)
        return rows_UD.addcdiv(mean_UD, root_UD, value=-rate)


def rules_of(
    tables: Iterable[str], optimizer: "UpdateRule | Mapping[str, UpdateRule]"
) -> dict[str, UpdateRule]:
    """Return how the rows of each table change, checked.

    Args:
        tables: Their names.
        optimizer: Of all of them, or by table.

    Raises:
        RecembError: If a table has none, or a setting is out of range.
    """
    if not isinstance(optimizer, Mapping):
        check_optimizer("rows optimizer", optimizer)
        return dict.fromkeys(tables, optimizer)
    for name in tables:
        if name not in optimizer:
            raise RecembError(
                f"rows optimizer: table {name!r} has none, got {sorted(optimizer)}; add it"
            )
        check_optimizer(f"rows optimizer of table {name!r}", optimizer[name])
    return {name: optimizer[name] for name in tables}


def check_optimizer(where: str, optimizer: UpdateRule) -> None:
    """Raise a :class:`RecembError` if this is no optimizer of rows, or one set out of range."""
    if not isinstance(optimizer, UpdateRule):
        raise RecembError(
            f"{where}: rows need an optimizer of recemb.rows.optimizers, such as Adam(), got "
            f"{type(optimizer).__name__}; torch's are for the other parameters"
        )
    optimizer.check(where)


if TYPE_CHECKING:
    AnyUpdateRule = UpdateRule
else:
    AnyUpdateRule = Adam | SGD | Adagrad | RowWiseAdagrad
"""What a configuration may name; the literal ``kind`` tells them apart."""
