"""The search: against sorting all logits."""

import pytest
import torch

from recemb.models.history_search import compiled_search, search_history


def example(targets, length, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(targets, dim, generator=generator),
        torch.randn(length, dim, generator=generator),
        torch.randn(length, generator=generator),
    )


def sorted_logits(query, key, bias):
    """Return each target's logits, the largest first, in double precision."""
    logits = query.double() @ key.double().t() + bias.double()
    return logits, logits.sort(1, descending=True).values


@pytest.mark.parametrize("search", [search_history, compiled_search()], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("targets", "length", "keep"),
    [
        (1, 1, 1), (3, 7, 3), (2, 8, 8), (5, 9, 4), (4, 160, 20), (4, 161, 20), (7, 1_023, 20),
        (7, 1_025, 20), (3, 10_001, 20), (513, 10_300, 20), (2, 5_000, 1), (2, 3_000, 300),
    ],
)  # fmt: skip
def test_positions_are_those_of_the_largest_logits(search, targets, length, keep):
    query, key, bias = example(targets, length)
    logits, wanted = sorted_logits(query, key, bias)
    found = search(query, key, bias, keep)
    assert found.shape == (targets, keep)
    assert all(len(set(row)) == keep for row in found.tolist())
    # In order too: the largest first. fp32 may swap neighbours that are equal to 1e-5.
    torch.testing.assert_close(logits.gather(1, found), wanted[:, :keep], atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", ["rising", "falling", "one segment", "equal", "far below zero"])
def test_no_order_of_logits_misleads_it(order):
    query, key, bias = example(6, 2_000)
    bias = {
        "rising": torch.arange(2_000.0),
        "falling": -torch.arange(2_000.0),
        # All of the largest under a few maxima, of which each rules the others' segments in.
        "one segment": torch.where(torch.arange(2_000) // 20 == 37, 50.0, 0.0),
        "equal": torch.zeros(2_000),
        "far below zero": bias - 1e6,
    }[order]
    if order == "equal":
        query = torch.zeros_like(query)
    logits, wanted = sorted_logits(query, key, bias)
    found = search_history(query, key, bias, 20)
    assert all(len(set(row)) == 20 for row in found.tolist())
    atol = 0.2 if order == "far below zero" else 1e-3  # of fp32 at a million
    torch.testing.assert_close(logits.gather(1, found), wanted[:, :20], atol=atol, rtol=0)


def test_a_short_history_has_nothing_more():
    query, key, bias = example(3, 4)
    found = search_history(query, key, bias, 6)
    assert found[:, 4:].tolist() == [[-1, -1]] * 3
    assert all(sorted(row) == [0, 1, 2, 3] for row in found[:, :4].tolist())
    assert search_history(query, key[:0], bias[:0], 2).tolist() == [[-1, -1]] * 3
    assert search_history(query[:0], key, bias, 2).shape == (0, 2)


def test_the_bias_counts_as_much_as_it_says():
    query, key = torch.tensor([[2.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    assert search_history(query, key, torch.tensor([0.0, 0.0, 0.0]), 3).tolist() == [[2, 1, 0]]
    assert search_history(query, key, torch.tensor([5.0, 0.0, 0.5]), 3).tolist() == [[0, 2, 1]]
