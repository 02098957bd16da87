"""The attention's shortcut against the pairs it never builds."""

import pytest
import torch
from torch import Tensor

from recemb.models.attention import TargetAttention

B, L, D = 5, 7, 4


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(B, D, generator=generator, dtype=torch.float64)
    history = torch.randn(B, L, D, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([7, 1, 0, 3, 5])
    return target, history, torch.arange(L) < lengths.unsqueeze(1)


def pair_of(form: str, q: Tensor, k: Tensor) -> Tensor:
    """What the paper and the authors' code feed the perceptron, written out for one pair."""
    if form == "concatenation":
        return torch.cat([q, k, q - k, q * k])
    return torch.cat([q, torch.outer(q, k).flatten(), k])


@pytest.mark.parametrize("form", ["concatenation", "outer_product"])
@pytest.mark.parametrize("softmax", [True, False])
def test_weights_are_those_of_a_perceptron_on_the_written_out_pair(form, softmax, inputs):
    torch.manual_seed(1)
    attention = TargetAttention(D, [6, 3], form, "sigmoid", softmax).double()
    target, history, mask = inputs
    expected = torch.zeros(B, D, dtype=torch.float64)
    for b in range(B):
        length = int(mask[b].sum())
        scores = []
        for j in range(length):
            hidden = attention.first(pair_of(form, target[b], history[b, j]))
            scores.append(attention.rest(torch.sigmoid(hidden)).squeeze())
        if not length:
            continue
        weights = torch.stack(scores)
        if softmax:
            weights = torch.softmax(weights / D**0.5, 0)
        expected[b] = weights @ history[b, :length]
    torch.testing.assert_close(attention(target, history, mask), expected)


def test_forms_have_their_own_default_of_softmax():
    assert TargetAttention(D, [3], "concatenation").softmax
    assert not TargetAttention(D, [3], "outer_product").softmax


@pytest.mark.parametrize("name", ["relu", "dice"])
@pytest.mark.parametrize("form", ["concatenation", "outer_product"])
def test_padding_changes_nothing(form, name, inputs):
    torch.manual_seed(1)
    attention = TargetAttention(D, [6], form, name).double()
    target, history, mask = inputs
    before = attention(target, history, mask)
    filled = torch.where(mask.unsqueeze(2), history, torch.full_like(history, 1e3))
    torch.testing.assert_close(attention(target, filled, mask), before, rtol=0, atol=0)


def test_every_parameter_gets_a_gradient(inputs):
    for form in ("concatenation", "outer_product"):
        attention = TargetAttention(D, [6, 3], form, "dice").double()
        attention(*inputs).sum().backward()
        # Under softmax the last bias moves all scores alike, which changes no weight.
        for name, parameter in attention.named_parameters():
            if name != "rest.2.bias":
                assert parameter.grad is not None, name
                assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("num_real", [0, 1])
def test_a_training_batch_with_no_or_one_history_item_is_finite(num_real, inputs):
    attention = TargetAttention(D, [6], "concatenation", "dice").double()
    target, history, _ = inputs
    mask = torch.zeros(B, L, dtype=torch.bool)
    mask[0, :num_real] = True
    weighted = attention(target, history, mask)
    assert weighted.isfinite().all()
    assert not weighted[1:].any()
