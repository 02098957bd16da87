"""Ranks over tiles of a catalogue against sorting each query's items in plain Python."""

import math

import pytest
import torch

from recemb.models import catalogue_ranking
from recemb.models.catalogue_ranking import best_items, metric_names, metrics, ranks

NUM_ITEMS = 23


def rank_by_sorting(scores: list[float], target: int, excluded: set[int]) -> int:
    """Return the place of the target among the others, best first, lower index first of equals."""
    kept = [i for i in range(len(scores)) if i == target or i not in excluded]
    return 1 + sorted(kept, key=lambda i: (-scores[i], i)).index(target)


@pytest.fixture(params=[(1, 5), (7, 70), (1 << 16, 1 << 24)], ids=["narrow", "tiles", "whole"])
def _tiles(request, monkeypatch):
    monkeypatch.setattr(catalogue_ranking, "TILE_ITEMS", request.param[0])
    monkeypatch.setattr(catalogue_ranking, "TILE_SCORES", request.param[1])


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("excludes", [False, True])
def test_ranks_are_those_of_sorting(excludes):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(40, 4, generator=generator)
    items = torch.randn(NUM_ITEMS, 4, generator=generator)
    items[9] = items[4]  # equal scores, also as targets
    items[17] = items[4]
    target = torch.randint(NUM_ITEMS, (40,), generator=generator)
    target[:6] = torch.tensor([4, 9, 17, 4, 9, 17])
    had = torch.rand(40, NUM_ITEMS, generator=generator) < 0.3
    excluded = tuple(had.nonzero().T) if excludes else None
    found = ranks(query, lambda own, tile: own @ items[tile].T, NUM_ITEMS, target, excluded)
    scores = (query.double() @ items.double().T).tolist()
    left_out = [set(own.nonzero().flatten().tolist()) if excludes else set() for own in had]
    wanted = [rank_by_sorting(scores[b], int(target[b]), left_out[b]) for b in range(40)]
    assert found.tolist() == wanted


@pytest.mark.usefixtures("_tiles")
@pytest.mark.parametrize("excludes", [False, True])
def test_the_best_are_those_of_sorting(excludes):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(40, 4, generator=generator)
    items = torch.randn(NUM_ITEMS, 4, generator=generator)
    had = torch.rand(40, NUM_ITEMS, generator=generator) < 0.3
    excluded = tuple(had.nonzero().T) if excludes else None
    found, scores = best_items(query, lambda own, tile: own @ items[tile].T, NUM_ITEMS, 5, excluded)
    every = (query.double() @ items.double().T).tolist()
    for b, own in enumerate(every):
        kept = [i for i in range(NUM_ITEMS) if not (excludes and had[b, i])]
        wanted = sorted(kept, key=lambda i: -own[i])[:5]
        assert found[b].tolist() == wanted
        assert scores[b].tolist() == pytest.approx([own[i] for i in wanted], rel=1e-4)


def test_no_table_of_queries_times_items_is_ever_there(monkeypatch):
    monkeypatch.setattr(catalogue_ranking, "TILE_ITEMS", 8)
    monkeypatch.setattr(catalogue_ranking, "TILE_SCORES", 32)
    sizes = []

    def score(own, tile):
        sizes.append(len(own) * (tile.stop - tile.start))
        return torch.zeros(len(own), tile.stop - tile.start)

    found = ranks(torch.zeros(50, 2), score, NUM_ITEMS, torch.full((50,), 5))
    assert found.tolist() == [6] * 50  # all are equal; five stand before by index
    assert max(sizes) <= 32
    assert sum(sizes) == 2 * 50 * NUM_ITEMS


def test_a_score_that_is_no_number_wins_nothing():
    def score(own, tile):
        return torch.full((len(own), NUM_ITEMS), torch.nan)[:, tile]

    assert ranks(torch.zeros(2, 1), score, NUM_ITEMS, torch.tensor([0, 3])).tolist() == [23, 23]


def test_an_item_outside_the_catalogue_is_last():
    items = torch.eye(3)
    target = torch.tensor([3, 1])
    found = ranks(torch.ones(2, 3), lambda own, tile: own @ items[tile].T, 3, target)
    assert found.tolist() == [4, 2]


def test_metrics_of_known_ranks():
    found = metrics(torch.tensor([1, 3, 11]), [2, 10])
    names = metric_names([2, 10])
    by_name = dict(zip(names, found.T.tolist(), strict=True))
    assert by_name["hr@2"] == [1, 0, 0]
    assert by_name["recall@10"] == [1, 1, 0]
    assert by_name["ndcg@10"] == pytest.approx([1, 1 / math.log2(4), 0])
    assert by_name["mrr@10"] == pytest.approx([1, 1 / 3, 0])
    assert by_name["mrr@2"] == [1, 0, 0]


@pytest.mark.usefixtures("_tiles")
def test_where_nothing_is_left_stands_minus_one():
    query, items = torch.ones(2, 1), torch.arange(NUM_ITEMS).float().unsqueeze(1)
    had = torch.zeros(2, NUM_ITEMS, dtype=torch.bool)
    had[0, 2:] = True
    excluded = tuple(had.nonzero().T)
    found, scores = best_items(query, lambda own, tile: own @ items[tile].T, NUM_ITEMS, 4, excluded)
    assert found.tolist() == [[1, 0, -1, -1], [NUM_ITEMS - 1 - k for k in range(4)]]
    assert scores[0].tolist() == [1.0, 0.0, -math.inf, -math.inf]
