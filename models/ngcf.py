"""NGCF: vectors that propagate, each layer with weights of its own.

    m       = A x^(l),   A_vw = 1 / sqrt(degree_v degree_w) on edges
    x^(l+1) = unit length of dropout of LeakyReLU((x^(l) + m) W1 + b1 + (x^(l) * m) W2 + b2)
    x       = x^(0), x^(1), .., x^(L) side by side

The next layer reads what came before the unit length. What is regularised is x^(0): the layers
have unit length, so that to regularise x, as the authors do, only adds a constant.

Source: Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, arXiv:1905.08108; unit
length, slope 0.2 and biases as in the authors' code.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.features import FeatureConfig
from recemb.models.collaborative_filtering import Training
from recemb.models.graph_filtering import GraphFiltering, Propagation
from recemb.models.pair_ranking import Evaluation
from recemb.models.propagation import Layer
from recemb.rows.optimizers import AnyUpdateRule
from recemb.schema import Schema
from recemb.tables.registry import AnyTable

SLOPE = 0.2
"""Of LeakyReLU below 0."""


class NGCF(GraphFiltering):
    """Propagation with weights; see :class:`GraphFiltering`.

    Args:
        schema: What the data holds (given by the data module).
        tables: Tables by name.
        features: ``user`` and ``item``.
        propagation: Layers, sampling and dropout.
        training: Positives, negatives and regularisation.
        evaluation: Metrics.
        learning_rate: Of Adam on the layers' weights.
        rows_optimizer: Of the tables' rows.
    """

    def __init__(
        self,
        schema: Schema,
        tables: dict[str, AnyTable],
        features: dict[str, FeatureConfig],
        propagation: Propagation | None = None,
        training: Training | None = None,
        evaluation: Evaluation | None = None,
        learning_rate: float = 0.001,
        rows_optimizer: AnyUpdateRule | None = None,
    ) -> None:
        super().__init__(
            schema,
            tables,
            features,
            propagation,
            training,
            evaluation,
            learning_rate,
            rows_optimizer,
        )
        count, dim = self.propagation.num_layers, self.dim
        self.sums = nn.ModuleList(nn.Linear(dim, dim) for _ in range(count))
        self.products = nn.ModuleList(nn.Linear(dim, dim) for _ in range(count))
        for linear in (*self.sums, *self.products):
            assert isinstance(linear, nn.Linear)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def propagate(self, x_ND: Tensor, layers: list[Layer]) -> tuple[Tensor, Tensor]:
        """Return all layers side by side, and the vectors that go in."""
        sends_N1 = self.senders(x_ND)
        rate = self.propagation.message_dropout if self.training else 0.0
        found = []
        for layer, add, multiply in zip(layers, self.sums, self.products, strict=True):
            own_ND, message_ND, asked_SD = layer(x_ND, sends_N1)
            found.append(asked_SD)
            kept_ND = kept_elements(own_ND, rate) if rate else None
            weights = (add.weight, add.bias, multiply.weight, multiply.bias)
            x_ND = _Mix.apply(  # type: ignore[no-untyped-call]
                own_ND, message_ND, *weights, kept_ND, 1 / (1 - rate)
            )
        # Last, for it is of few nodes then; and a layer reads what came before the unit length.
        units = [F.normalize(one_SD, dim=1) for one_SD in (*found[1:], x_ND)]
        return torch.cat([found[0], *units], 1), found[0]


class _Mix(torch.autograd.Function):
    """What a layer makes of vectors and messages; a gradient by hand.

    That by autograd passes over N x D elements about twice as often, which is what a step costs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        message_ND: Tensor,
        add_DD: Tensor,
        add_D: Tensor,
        multiply_DD: Tensor,
        multiply_D: Tensor,
        kept_ND: Tensor | None,
        scale: float,
    ) -> Tensor:
        # Under autocast some of these would be made in half precision, others not.
        with torch.autocast(x_ND.device.type, enabled=False):
            sum_ND, product_ND = x_ND + message_ND, x_ND * message_ND
            # LeakyReLU may come after the scale of dropout, which then costs no pass of its own.
            bias_D = add_D + multiply_D
            out_ND = torch.addmm(bias_D, sum_ND, add_DD.T, beta=scale, alpha=scale)
            out_ND.addmm_(product_ND, multiply_DD.T, alpha=scale)
            F.leaky_relu_(out_ND, SLOPE)
            if kept_ND is not None:
                out_ND *= kept_ND
        saved = (x_ND, message_ND, sum_ND, product_ND, add_DD, multiply_DD, out_ND, kept_ND)
        ctx.save_for_backward(*saved)
        ctx.scale = scale
        return out_ND

    @staticmethod
    def backward(ctx: Any, out_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, message_ND, sum_ND, product_ND, add_DD, multiply_DD, made_ND, kept_ND = (
            ctx.saved_tensors
        )
        with torch.autocast(x_ND.device.type, enabled=False):
            grad_ND = out_ND if kept_ND is None else out_ND * kept_ND
            # Signs are the same before and after; what was dropped has no gradient any more.
            grad_ND = torch.ops.aten.leaky_relu_backward(grad_ND, made_ND, SLOPE, True)
            of_sum_ND = grad_ND @ (ctx.scale * add_DD)
            of_product_ND = grad_ND @ (ctx.scale * multiply_DD)
            of_bias_D = ctx.scale * grad_ND.sum(0)
            of_x_ND = torch.addcmul(of_sum_ND, of_product_ND, message_ND)
            of_message_ND = of_sum_ND.addcmul_(of_product_ND, x_ND)
            of_add_DD = ctx.scale * (grad_ND.T @ sum_ND)
            of_multiply_DD = ctx.scale * (grad_ND.T @ product_ND)
        return (
            of_x_ND,
            of_message_ND,
            of_add_DD,
            of_bias_D,
            of_multiply_DD,
            of_bias_D,
            None,
            None,
        )


def kept_elements(like_ND: Tensor, rate: float) -> Tensor:
    """Return 0 with probability ``rate``, else 1, for each element that dropout may drop: (N, D).

    By 16 random bits each, so the probability is right to 2^-17; ``bernoulli_`` takes three times
    as long on a CPU.
    """
    count = like_ND.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=like_ND.device)
    draw = bits.random_(-(2**63), None).view(torch.int16)[:count]
    return (draw.view_as(like_ND) >= round(rate * 2**16) - 2**15).to(like_ND.dtype)
