"""The chunked loss against torch's own over all logits, values and gradients; and its memory."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from recemb.models import next_item_loss as module
from recemb.models.next_item_loss import next_item_loss
from recemb.models.sampled_candidates import sampled_candidates


def inputs(requires_grad: bool = True):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(37, 6, generator=generator, dtype=torch.float64)
    items = torch.randn(11, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(11, generator=generator, dtype=torch.float64)
    target = torch.randint(11, (37,), generator=generator)
    weight = torch.rand(37, generator=generator, dtype=torch.float64)
    return [one.requires_grad_(requires_grad) for one in (hidden, items, bias)], target, weight


@pytest.fixture(params=[(1, 1), (60, 1), (1 << 20, 64)], ids=["rows", "chunks", "whole"])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LOGITS", request.param[0])
    monkeypatch.setattr(module, "CHUNK_ROWS", request.param[1])


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("own_bias", [True, False])
def test_value_and_gradients_are_those_of_cross_entropy(own_bias):
    given, target, weight = inputs()
    loss = next_item_loss(*given[:2], target, given[2], weight, own_bias=own_bias)
    (3 * loss).backward()
    found = [one.grad for one in given]
    given, target, weight = inputs()
    hidden, items, bias = given
    logits = hidden @ items.T + bias
    if not own_bias:
        logits = logits - F.one_hot(target, 11) * bias
    wanted = (weight * F.cross_entropy(logits, target, reduction="none")).sum()
    (3 * wanted).backward()
    torch.testing.assert_close(loss, wanted, atol=1e-9, rtol=0)
    for own, other in zip(found, given, strict=True):
        torch.testing.assert_close(own, other.grad, atol=1e-9, rtol=0)


def test_large_logits_stay_finite():
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    items = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    loss = next_item_loss(hidden, items, torch.tensor([1, 1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(
        600.0
    )  # 600 where the wrong item is sure, 0 elsewhere
    assert hidden.grad.flatten().tolist() == pytest.approx([2.0, 0.0])


def test_without_gradients_the_value_is_the_same():
    given, target, weight = inputs()
    with torch.no_grad():
        alone = next_item_loss(*given[:2], target, given[2], weight)
    wanted = next_item_loss(*given[:2], target, given[2], weight)
    assert float(alone) == pytest.approx(float(wanted.detach()), abs=1e-12)


MEMORY = """
import resource, torch
from recemb.models.next_item_loss import next_item_loss
torch.set_num_threads(1)
hidden = torch.randn(4000, 16, requires_grad=True)
items = torch.randn(40_000, 16, requires_grad=True)
next_item_loss(hidden[:64], items, torch.randint(40_000, (64,))).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
next_item_loss(hidden, items, torch.randint(40_000, (4000,))).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_hold_positions_times_items():
    ended = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    # All logits once would be 625,000 kB.
    assert int(ended.stdout) < 80_000


def test_sampled_candidates_estimate_the_sum_over_all_items():
    generator = torch.Generator().manual_seed(0)
    counts_V = torch.tensor([50, 20, 10, 8, 5, 3, 2, 1, 1, 0])
    scores_V = torch.linspace(-1, 2, 10)
    torch.manual_seed(1)
    total, rounds = 0.0, 4000
    for _ in range(rounds):
        target_N = torch.multinomial(counts_V.float(), 6, replacement=True, generator=generator)
        found = sampled_candidates(target_N, counts_V, 2)
        total += float((scores_V[found.ids_C] + found.bias_C).exp().sum()) / rounds
    # The spread of a round is about 13 of 27, so that of their mean 0.2.
    assert total == pytest.approx(float(scores_V.exp().sum()), abs=0.8)


def test_candidates_are_distinct_and_hold_all_targets():
    target_N = torch.tensor([7, 3, 3, 9])
    found = sampled_candidates(target_N, torch.arange(20, 0, -1), 30)
    assert torch.equal(found.ids_C, found.ids_C.unique())
    assert torch.equal(found.ids_C[found.target_N], target_N)
    assert (found.bias_C >= 0).all()


def test_with_every_item_drawn_sampling_is_the_full_softmax():
    given, target, _ = inputs()
    found = sampled_candidates(target, torch.ones(11), 2000)
    hidden, items, _ = (one.float() for one in given)
    sampled = next_item_loss(
        hidden, items[found.ids_C], found.target_N, found.bias_C, own_bias=False
    )
    wanted = F.cross_entropy(hidden @ items.T, target, reduction="sum")
    torch.testing.assert_close(sampled, wanted, rtol=1e-5, atol=1e-5)
