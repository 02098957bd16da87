"""The transformer over jagged sequences against one sequence at a time, written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recemb.models.transformer import CausalAttention, CausalTransformer, arrange

LENGTHS = [3, 0, 1, 5, 3, 1, 0, 2]


def encoder(**settings) -> CausalTransformer:
    torch.manual_seed(0)
    base = {"dim": 8, "num_layers": 2, "num_heads": 2, "hidden": 12, "max_length": 6}
    rates = {"dropout": 0.0, "attention_dropout": 0.0}
    made = CausalTransformer(**{**base, **rates, **settings})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def attention_by_loop(layer: CausalAttention, x_LD: Tensor) -> Tensor:
    """Return attention of one sequence, token by token and head by head."""
    length, dim = x_LD.shape
    width = dim // layer.num_heads
    q, k, v = (x_LD @ layer.to_qkv.weight.T + layer.to_qkv.bias).split(dim, 1)
    out = torch.zeros(length, dim)
    for head in range(layer.num_heads):
        own = slice(head * width, (head + 1) * width)
        for i in range(length):
            scores = torch.stack([q[i, own] @ k[j, own] / math.sqrt(width) for j in range(i + 1)])
            weights = scores.exp() / scores.exp().sum()
            out[i, own] = sum(weights[j] * v[j, own] for j in range(i + 1))
    return out @ layer.to_out.weight.T + layer.to_out.bias


def encoded_by_loop(model: CausalTransformer, x_LD: Tensor) -> Tensor:
    """Return one sequence, encoded."""

    def norm(layer, x):
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        return x * layer.weight + layer.bias

    given_LD = x_LD
    x_LD = x_LD + model.position_LD[: len(x_LD)]
    for block in model.blocks:
        x_LD = x_LD + attention_by_loop(block.attention, norm(block.attention_norm, x_LD))
        first, last = block.perceptron[0], block.perceptron[-1]
        hidden = F.gelu(norm(block.norm, x_LD) @ first.weight.T + first.bias)
        x_LD = x_LD + hidden @ last.weight.T + last.bias
    states_LD = norm(model.norm, x_LD)
    return states_LD if model.readout is None else readout_by_loop(model, states_LD, given_LD)


def readout_by_loop(model: CausalTransformer, states_LD: Tensor, given_LD: Tensor) -> Tensor:
    """Return, token by token, the mean of those so far by the weights that states say."""
    linear = model.readout.to_qk
    q, k = (states_LD @ linear.weight.T + linear.bias).split(given_LD.shape[1], 1)
    out = []
    for i in range(len(q)):
        scores = torch.stack([q[i] @ k[j] / math.sqrt(len(q[i])) for j in range(i + 1)])
        out.append((scores.exp() / scores.exp().sum()) @ given_LD[: i + 1])
    return torch.stack(out)


READS = pytest.mark.parametrize("reads_tokens", [False, True], ids=["state", "items"])


@READS
def test_each_sequence_is_encoded_as_it_would_be_alone(reads_tokens: bool):
    model, lengths_B = encoder(reads_tokens=reads_tokens), torch.tensor(LENGTHS)
    x_ND = torch.randn(int(lengths_B.sum()), 8)
    wanted = torch.cat([encoded_by_loop(model, part) for part in x_ND.split(LENGTHS) if len(part)])
    torch.testing.assert_close(model(x_ND, lengths_B), wanted, atol=1e-5, rtol=1e-5)


@READS
def test_the_form_that_is_traced_says_the_same_of_other_lengths(reads_tokens: bool):
    model = encoder(reads_tokens=reads_tokens)
    example = (torch.randn(4, 8), torch.tensor([3, 1]))
    traced = torch.jit.trace(model, example, check_trace=False)
    lengths_B = torch.tensor(LENGTHS)
    x_ND = torch.randn(int(lengths_B.sum()), 8)
    torch.testing.assert_close(traced(x_ND, lengths_B), model(x_ND, lengths_B), atol=1e-5, rtol=0)


@READS
def test_what_comes_later_changes_nothing(reads_tokens: bool):
    model, lengths_B = encoder(reads_tokens=reads_tokens), torch.tensor([5])
    x_ND = torch.randn(5, 8)
    before = model(x_ND, lengths_B)
    x_ND[3:] = torch.randn(2, 8)
    after = model(x_ND, lengths_B)
    assert torch.equal(before[:3], after[:3])
    assert (before[3:] - after[3:]).abs().amin(1).gt(0).all()


def test_gradients_are_those_of_sequences_alone():
    model, lengths_B = encoder(), torch.tensor(LENGTHS)
    x_ND = torch.randn(int(lengths_B.sum()), 8)
    weights = torch.randn_like(x_ND)
    together, alone = x_ND.clone().requires_grad_(), x_ND.clone().requires_grad_()
    (model(together, lengths_B) * weights).sum().backward()
    parts = [encoded_by_loop(model, part) for part in alone.split(LENGTHS) if len(part)]
    (torch.cat(parts) * weights).sum().backward()
    torch.testing.assert_close(together.grad, alone.grad, atol=1e-4, rtol=1e-4)


def test_sequences_of_nothing_give_nothing():
    assert encoder()(torch.empty(0, 8), torch.tensor([0, 0])).shape == (0, 8)


def test_dropout_is_of_training_alone():
    model = encoder(dropout=0.5, attention_dropout=0.5)
    x_ND, lengths_B = torch.randn(6, 8), torch.tensor([6])
    assert torch.equal(model(x_ND, lengths_B), model(x_ND, lengths_B))
    model.train()
    assert not torch.equal(model(x_ND, lengths_B), model(x_ND, lengths_B))


@pytest.mark.parametrize("lengths", [LENGTHS, [2], [4, 4, 4]])
def test_blocks_hold_equally_long_sequences_whole(lengths):
    found = arrange(torch.tensor(lengths))
    tokens = [(b, i) for b, length in enumerate(lengths) for i in range(length)]
    arranged = [tokens[n] for n in found.tokens_N.tolist()]
    start = 0
    for count, length in found.blocks:
        for first in range(start, start + count * length, length):
            sequence = arranged[first][0]
            assert lengths[sequence] == length
            assert arranged[first : first + length] == [(sequence, i) for i in range(length)]
        start += count * length
    assert start == len(tokens)
    assert len(found.blocks) == len({length for length in lengths if length})
    assert torch.equal(found.tokens_N[found.places_N], torch.arange(len(tokens)))
