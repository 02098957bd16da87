"""Thresholded: a plain table whose rows count if they are large, and whose vectors may be short.

    vector = E[id] * [|E[id]|_1 > threshold of the id space] * [element < width of the id space]

The supernet of a search (``recemb search --method optembed``), which moves thresholds and chooses
widths; training alone moves rows only. At first nothing is masked. What a search finds is stored as
kind ``selected``.

The step has no useful derivative. Its surrogate is long-tailed: for x = |E[id]|_1 - threshold it is
2 - 4 |x| up to |x| = .4, then .4 up to |x| = 1, then 0.

Shapes: N ids, D elements, F id spaces of a table.

Source: Lyu et al., "OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction",
CIKM 2022, arXiv:2208.04482.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableFeature,
    int_buffer,
    num_ids,
    spread,
)
from recemb.tables.numbered import RowPerId


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholded(TableConfig):
    """A row per id; ``dim`` is the most that a budget may leave."""

    kind: Literal["thresholded"] = "thresholded"
    """The name of the kind."""

    searched: ClassVar[str] = "dim"
    formula: ClassVar[str] = (
        "E[id] if its L1 norm is above t, its first k elements; t, k per id space"
    )
    memory: ClassVar[str] = "ids x dim, and a threshold and a width per id space"
    paper: ClassVar[str] = "Lyu et al. 2022, arXiv:2208.04482 (the supernet of search)"

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: as many rows as the id spaces have ids."""
        rows = self.part(num_ids(where, self, spaces), self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return thresholds and widths."""
        return Thresholds(len(spaces), self.dim)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the dimensions up to ``dim``."""
        return range(1, self.dim + 1)

    def build(self, features: Sequence[TableFeature]) -> "ThresholdedKind":
        """Return the module for ``features``."""
        return ThresholdedKind(features)


class Thresholds(nn.Module):
    """The threshold and the width of each id space. Buffers: no optimizer of a training moves them.

    Attributes:
        sampled: In training, each id is read at a width drawn from 1 to this one; 0: at its own.
    """

    threshold_F: Tensor
    width_F: Tensor

    def __init__(self, num_spaces: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.sampled = 0
        self.register_buffer("threshold_F", torch.zeros(num_spaces))
        self.register_buffer("width_F", torch.full((num_spaces,), dim, dtype=torch.int32))

    def forward(self, rows_ND: Tensor, space_N: Tensor) -> Tensor:
        """Return rows of id spaces, masked."""
        if self.sampled and self.training:
            width_N = torch.randint(1, self.sampled + 1, space_N.shape, device=space_N.device)
        else:
            width_N = self.width_F[space_N].to(torch.int64)
        element_D = torch.arange(self.dim, device=rows_ND.device)
        is_shown_ND = element_D < width_N.unsqueeze(1)
        excess_N = rows_ND.abs().sum(1) - self.threshold_F[space_N]
        step_N = (excess_N > 0).to(rows_ND.dtype)
        if excess_N.requires_grad:  # a traced program has no functions of Python
            step_N = cast(Tensor, LongTailedStep.apply(excess_N))  # type: ignore[no-untyped-call, unused-ignore]
        return rows_ND * step_N.unsqueeze(1) * is_shown_ND


class LongTailedStep(torch.autograd.Function):
    """1 above 0, else 0, with the surrogate derivative."""

    @staticmethod
    def forward(ctx: Any, excess_N: Tensor) -> Tensor:
        """Return the step."""
        ctx.save_for_backward(excess_N)
        return (excess_N > 0).to(excess_N.dtype)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> Tensor:
        """Return the gradient by the surrogate."""
        (excess_N,) = ctx.saved_tensors
        size_N = excess_N.abs()
        slope_N = torch.where(size_N <= 0.4, 2 - 4 * size_N, 0.4)
        return grad_N * torch.where(size_N <= 1, slope_N, 0)


class ThresholdedKind(RowPerId):
    """Masks rows by the threshold and the width of their id space."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        places = [len(feature.spaces_before) for feature in features]
        self.register_buffer("space_F", int_buffer(places), persistent=False)
        self.space_F: Tensor

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the masked rows."""
        space_N = spread(self.space_F, ids.feature_N)
        return cast(Tensor, cast(Thresholds, feature.learned)(parts[0].squeeze(1), space_N))
