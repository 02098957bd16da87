"""Dice and the perceptron."""

import pytest
import torch

from recemb.models.layers import MLP, Dice


def test_dice_follows_its_formula_with_the_statistics_of_the_batch():
    torch.manual_seed(0)
    values = torch.randn(50, 3, dtype=torch.float64) * 3 + 1
    dice = Dice(3).double()
    with torch.no_grad():
        dice.slope_D.copy_(torch.tensor([0.1, -0.2, 0.3]))
    mean, variance = values.mean(0), values.var(0, unbiased=False)
    p = 1 / (1 + torch.exp(-(values - mean) / (variance + 1e-8).sqrt()))
    expected = p * values + (1 - p) * torch.tensor([0.1, -0.2, 0.3]).double() * values
    torch.testing.assert_close(dice(values), expected)


def test_dice_uses_moving_averages_outside_training():
    dice = Dice(1)
    batch = torch.tensor([[1.0], [3.0]])
    for _ in range(2000):
        dice(batch)
    dice.eval()
    # Mean 2 and the unbiased variance 2 that batch norm keeps; at the mean p is one half.
    assert dice(torch.tensor([[2.0]])).item() == pytest.approx(1.0, abs=1e-4)


def test_perceptron_without_hidden_layers_is_linear():
    mlp = MLP(4, [], "relu", 0.0)
    assert [type(layer).__name__ for layer in mlp] == ["Linear"]


@pytest.mark.parametrize("name", ["relu", "sigmoid", "prelu", "dice"])
def test_perceptron_gives_one_number_and_reaches_every_parameter(name):
    torch.manual_seed(0)
    mlp = MLP(4, [8, 5], name, 0.1)
    output = mlp(torch.randn(64, 4))
    assert output.shape == (64, 1)
    output.sum().backward()
    assert all((parameter.grad != 0).any() for parameter in mlp.parameters())
