"""Layers that models share: activations and the multilayer perceptron.

Shapes: B samples, D features of a layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from recemb.batch_norm import BatchNorm

Activation = Literal["relu", "sigmoid", "prelu", "dice"]
"""What a hidden layer applies."""


class Dice(nn.Module):
    """Data-adaptive activation: f(s) = p s + (1 - p) a s, p = sigmoid((s - E[s]) / sqrt(Var[s])).

    E and Var are those of the batch (of all processes) in training and moving averages otherwise,
    per element; ``a`` is learned per element from 0. With p fixed at a step it would be a PReLU.

    Args:
        num_features: D.
        eps: Added to the variance.
        momentum: Share of the newest batch in the moving averages.

    Source: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018,
    arXiv:1706.06978, section 5.3.
    """

    def __init__(self, num_features: int, eps: float = 1e-8, momentum: float = 0.01) -> None:
        super().__init__()
        self.normalize = BatchNorm(num_features, eps=eps, momentum=momentum, affine=False)
        self.slope_D = nn.Parameter(torch.zeros(num_features))

    def forward(self, values_BD: Tensor) -> Tensor:
        """Return f of (B, D) values."""
        p_BD = torch.sigmoid(self.normalize(values_BD))
        return values_BD * torch.lerp(self.slope_D.expand_as(p_BD), p_BD.new_ones(()), p_BD)


@contextmanager
def averages_kept(layers: nn.Module) -> Iterator[None]:
    """Leave the layers' moving averages as they are: for a pass of what is not served."""
    norms = [one for one in layers.modules() if isinstance(one, BatchNorm)]
    momenta = [one.momentum for one in norms]
    for one in norms:
        one.momentum = 0.0
    try:
        yield
    finally:
        for one, momentum in zip(norms, momenta, strict=True):
            one.momentum = momentum


def activation(name: Activation, num_features: int) -> nn.Module:
    """Return the activation of a layer of ``num_features``."""
    if name == "dice":
        return Dice(num_features)
    if name == "prelu":
        return nn.PReLU(num_features, init=0.1)
    return nn.ReLU() if name == "relu" else nn.Sigmoid()


def hidden_layers(
    num_inputs: int, hidden: Sequence[int], name: Activation, dropout: float
) -> list[nn.Module]:
    """Return linear, activation and dropout per hidden width; see :class:`MLP`."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(num_inputs, width), activation(name, width)]
        if dropout:
            layers.append(nn.Dropout(dropout))
        num_inputs = width
    return layers


class MLP(nn.Sequential):
    """Linear, activation and dropout per hidden width, then a linear output of one number.

    Args:
        num_inputs: Width of the input.
        hidden: Widths of the hidden layers; empty for a linear model.
        name: Activation of the hidden layers.
        dropout: Share of hidden values dropped in training, in 0..1.
    """

    def __init__(
        self, num_inputs: int, hidden: Sequence[int], name: Activation, dropout: float
    ) -> None:
        layers = hidden_layers(num_inputs, hidden, name, dropout)
        super().__init__(*layers, nn.Linear(hidden[-1] if hidden else num_inputs, 1))
