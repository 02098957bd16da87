"""Next-item loss: cross-entropy over a catalogue, without the logits of all positions at once.

    loss_n = log sum_v exp(s_nv) - s_nt,    s_nv = h_n . e_v + b_v

A batch of 2,000 positions over 40,000 items has 320 MB of logits, and automatic differentiation
would keep three copies. The gradient of a position's logits is its softmax minus a one, known as
soon as its logits are: so each chunk of positions is turned into gradients at once and forgotten.
Memory is one chunk; three products instead of the four of recomputing in the backward pass.

Shapes: N positions, V items, D elements of a vector, C positions of a chunk.

Source: the chunking is that of Wijmans et al., "Cut Your Losses in Large-Vocabulary Language
Models", ICLR 2025, arXiv:2411.09009, and Hsu et al., "Liger Kernel", 2024, arXiv:2410.10989.
"""

from typing import Any, cast

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 20
"""Logits that are there at a time: 4 MiB, which stays in a processor's cache."""
CHUNK_ROWS = 64
"""The fewest positions of a chunk: products of fewer rows are slow."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of weighted cross-entropies; gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        items_VD: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        weight_N: Tensor,
        own_bias: bool,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:3])
        total = hidden_ND.new_zeros((), dtype=torch.float64)
        grad_ND = torch.empty_like(hidden_ND)
        grad_VD = torch.zeros_like(items_VD)
        grad_V = torch.zeros_like(bias_V) if bias_V is not None else None
        size = max(CHUNK_ROWS, CHUNK_LOGITS // len(items_VD))
        for start in range(0, len(hidden_ND), size):
            rows = slice(start, start + size)
            hidden_CD, weight_C1 = hidden_ND[rows], weight_N[rows].unsqueeze(1)
            target_C1 = target_N[rows].unsqueeze(1)
            logits_CV = hidden_CD @ items_VD.t()
            if bias_V is not None:
                logits_CV += bias_V
                if not own_bias:
                    logits_CV.scatter_add_(1, target_C1, -bias_V[target_C1])
            own_C1 = logits_CV.gather(1, target_C1)
            highest_C1 = logits_CV.amax(1, keepdim=True)
            share_CV = torch.softmax(logits_CV, 1)
            # exp(highest - log-sum-exp) is the largest share, so one pass gives both.
            loss_C1 = highest_C1 - share_CV.amax(1, keepdim=True).log() - own_C1
            total += (loss_C1 * weight_C1).sum()
            if not wanted:
                continue
            share_CV.scatter_add_(1, target_C1, torch.full_like(own_C1, -1.0))
            # Weights go to the vectors, which are shorter than the rows of logits.
            grad_ND[rows] = weight_C1 * (share_CV @ items_VD)
            grad_VD.addmm_(share_CV.t(), weight_C1 * hidden_CD)
            if grad_V is not None and ctx.needs_input_grad[2]:
                grad_V += (weight_C1.t() @ share_CV).squeeze(0)
                if not own_bias:
                    own_C = -(weight_C1 * share_CV.gather(1, target_C1)).squeeze(1)
                    grad_V.index_add_(0, target_C1.squeeze(1), own_C)
        ctx.save_for_backward(grad_ND, grad_VD, grad_V)
        return total.to(hidden_ND.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_ND, grad_VD, grad_V = ctx.saved_tensors
        grad_bias = None if grad_V is None else grad * grad_V
        return grad * grad_ND, grad * grad_VD, grad_bias, None, None, None


def next_item_loss(
    hidden_ND: Tensor,
    items_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    weight_N: Tensor | None = None,
    *,
    own_bias: bool = True,
) -> Tensor:
    """Return the sum over positions of weight times cross-entropy.

    Args:
        hidden_ND: What each position expects.
        items_VD: What each item is.
        target_N: The item that came, 0 .. V - 1.
        bias_V: Added to the logits of each item.
        weight_N: Of each position; 1 by default.
        own_bias: Whether a position's own target has its bias too. Corrections of sampling do not
            apply to it: it is always among the candidates.
    """
    weight_N = hidden_ND.new_ones(len(hidden_ND)) if weight_N is None else weight_N
    apply: Any = _ChunkedCrossEntropy.apply
    return cast(Tensor, apply(hidden_ND, items_VD, bias_V, target_N, weight_N, own_bias))
