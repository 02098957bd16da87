"""Target attention: how much each item of a history matters to the target item.

Both forms that Deep Interest Network has been given feed a small perceptron with a pair of item
vectors, q (target) and k (history), and something of both:

    concatenation (the authors' code)    [q, k, q - k, q * k]      softmax of scores / sqrt(d)
    outer product (the paper)            [q, outer(q, k), k]       scores as they are

Its first layer is linear in k once q is given: h = A(q) k + b(q). So neither the concatenation nor
the outer product is ever built: per target one H x d matrix, per pair one product with it. At
d = 32 that is a quarter of the multiplications of the first form and a thirty-third of the
second's, and no tensor wider than H per pair.

Shapes: B targets, L longest history, d item vector, H hidden width.
"""

import itertools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.models.layers import Activation, activation

Form = Literal["concatenation", "outer_product"]
"""The form of the pair that the perceptron sees."""


class TargetAttention(nn.Module):
    """Return the weighted sum of a history, weights from a perceptron on target and item.

    Args:
        dim: d.
        hidden: Widths of the perceptron's hidden layers, at least one.
        form: See the module.
        name: Activation of the hidden layers.
        softmax: Whether weights are a softmax of scores / sqrt(d); None: as the form has it.

    Source: Zhou et al., KDD 2018, arXiv:1706.06978, section 4.3, and the code published with it.
    """

    def __init__(
        self,
        dim: int,
        hidden: list[int],
        form: Form = "concatenation",
        name: Activation = "dice",
        softmax: bool | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.form = form
        self.softmax = form == "concatenation" if softmax is None else softmax
        pair_dim = 4 * dim if form == "concatenation" else 2 * dim + dim * dim
        self.first = nn.Linear(pair_dim, hidden[0])
        self.activate = activation(name, hidden[0])
        layers: list[nn.Module] = []
        for width, after in itertools.pairwise(hidden):
            layers += [nn.Linear(width, after), activation(name, after)]
        self.rest = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def affine(self, target_Bd: Tensor) -> tuple[Tensor, Tensor]:
        """Return A(q) (B, d, H) and b(q) (B, H) of the first layer."""
        dim = self.dim
        if self.form == "concatenation":
            q_Hd, k_Hd, difference_Hd, product_Hd = self.first.weight.split(dim, dim=1)
            matrix = (k_Hd - difference_Hd).t() + product_Hd.t() * target_Bd.unsqueeze(2)
            return matrix, F.linear(target_Bd, q_Hd + difference_Hd, self.first.bias)
        q_Hd, outer_Hdd, k_Hd = self.first.weight.split([dim, dim * dim, dim], dim=1)
        # outer(q, k)[i, j] = q_i k_j, flattened with j fastest.
        per_target = target_Bd @ outer_Hdd.unflatten(1, (dim, dim)).permute(1, 2, 0).flatten(1)
        matrix = k_Hd.t() + per_target.unflatten(1, (dim, -1))
        return matrix, F.linear(target_Bd, q_Hd, self.first.bias)

    def scores(self, target_Bd: Tensor, history_BLd: Tensor, mask_BL: Tensor) -> Tensor:
        """Return what the perceptron says of each pair: (B, L); 0 on padding.

        Args:
            target_Bd: q.
            history_BLd: k, padded with anything finite.
            mask_BL: True on real items.
        """
        matrix_BdH, bias_BH = self.affine(target_Bd)
        hidden_BLH = torch.baddbmm(bias_BH.unsqueeze(1), history_BLd, matrix_BdH)
        # Only real pairs go on: padding would cost time and shift the statistics of Dice.
        real_N = mask_BL.flatten().nonzero().squeeze(1)
        hidden_NH = self.activate(hidden_BLH.flatten(0, 1).index_select(0, real_N))
        score_N = self.rest(hidden_NH).squeeze(1)
        score_BL = hidden_BLH.new_zeros(mask_BL.shape).flatten()
        return score_BL.index_put((real_N,), score_N).view_as(mask_BL)

    def forward(self, target_Bd: Tensor, history_BLd: Tensor, mask_BL: Tensor) -> Tensor:
        """Return (B, d); zeros where a history is empty. Arguments as of :meth:`scores`."""
        weight_BL = self.scores(target_Bd, history_BLd, mask_BL)
        if self.softmax:
            weight_BL = (weight_BL / self.dim**0.5).masked_fill(~mask_BL, -1e9).softmax(1)
            # A row of padding alone has equal weights; it must have none.
            weight_BL = weight_BL.masked_fill(~mask_BL, 0.0)
        return torch.bmm(weight_BL.unsqueeze(1), history_BLd).squeeze(1)
