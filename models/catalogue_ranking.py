"""Catalogue ranking: which items are the best of all, without a score of every pair at once.

A catalogue is scored in tiles of some queries and some items. Of a tile is kept how many items
stand before the one that came, or, where a query has several right answers, its best items. So
memory is one tile, however many users and items.

Shapes: B queries, V items, D elements of a vector, E excluded pairs, K best items, M metrics.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TILE_ITEMS = 1 << 16
"""Items of a tile."""
TILE_SCORES = 1 << 24
"""Scores of a tile: 64 MiB."""
SAME = 1e-5
"""Scores nearer than this share of theirs are equal: products differ by rounding alone."""

Score = Callable[[Tensor, slice], Tensor]
"""Returns the scores (B, items of the slice) of queries (B, D)."""


def ranks(
    query_BD: Tensor,
    score: Score,
    num_items: int,
    target_B: Tensor,
    excluded: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Return the rank of each query's target among all items, from 1: (B,) int64.

    Of items with equal scores the one of lower index, so of more training clicks, stands first.
    A score that is no number stands before any: a broken model has no good ranks.

    Args:
        query_BD: Queries.
        score: Scores a slice of the catalogue.
        num_items: V.
        target_B: The items that came; V or above for one that is not in the catalogue, whose rank
            is V + 1.
        excluded: Query numbers and item indices of pairs that are not ranked, such as items that a
            user has had; a target always is.
    """
    size = max(1, TILE_SCORES // min(num_items, TILE_ITEMS))
    found = []
    for start in range(0, len(query_BD), size):
        rows = slice(start, start + size)
        pairs = None
        if excluded is not None:
            inside = (excluded[0] >= start) & (excluded[0] < start + size)
            pairs = (excluded[0][inside] - start, excluded[1][inside])
        found.append(_ranks(query_BD[rows], score, num_items, target_B[rows], pairs))
    return torch.cat(found) if found else target_B


def _ranks(
    query_BD: Tensor,
    score: Score,
    num_items: int,
    target_B: Tensor,
    excluded: tuple[Tensor, Tensor] | None,
) -> Tensor:
    known_B = target_B < num_items
    own_B = query_BD.new_full(target_B.shape, -torch.inf)
    tiles = [
        slice(first, min(first + TILE_ITEMS, num_items))
        for first in range(0, num_items, TILE_ITEMS)
    ]
    # The target's own score comes from the same product as the others': equal ones stay equal.
    kept = None
    for tile in tiles:
        kept = scores_BT = score(query_BD, tile)
        here_B = (target_B >= tile.start) & (target_B < tile.stop)
        column_B = torch.where(here_B, target_B - tile.start, 0)
        own_B = torch.where(here_B, scores_BT.gather(1, column_B.unsqueeze(1)).squeeze(1), own_B)
    margin_B1 = (SAME * own_B.abs()).nan_to_num(0.0, 0.0, 0.0).unsqueeze(1)
    own_B1, target_B1 = own_B.unsqueeze(1), target_B.unsqueeze(1)
    before_B = torch.zeros_like(target_B)
    for tile in tiles:
        # A catalogue of one tile has been scored already.
        scores_BT = kept if kept is not None and len(tiles) == 1 else score(query_BD, tile)
        index_T = torch.arange(tile.start, tile.stop, device=target_B.device)
        is_lower_BT = scores_BT < own_B1 - margin_B1
        is_equal_BT = (scores_BT - own_B1).abs() <= margin_B1
        is_before_BT = ~is_lower_BT & ~(is_equal_BT & (index_T >= target_B1))
        is_before_BT &= index_T != target_B1
        if excluded is not None:
            row_E, item_E = excluded
            inside = (item_E >= tile.start) & (item_E < tile.stop)
            is_before_BT[row_E[inside], item_E[inside] - tile.start] = False
        before_B += is_before_BT.sum(1)
    return torch.where(known_B, before_B + 1, num_items + 1)


def best_items(
    query_BD: Tensor,
    score: Score,
    num_items: int,
    count: int,
    excluded: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the best items of each query, as indices, and their scores: (B, K) each.

    Where a query has fewer items to choose from, the last are -1 and their scores minus infinity.

    Args:
        query_BD: Queries, so many that their scores for :data:`TILE_ITEMS` items fit in memory.
        score: Scores a slice of the catalogue.
        num_items: V.
        count: K, at most V.
        excluded: Query numbers and item indices of pairs that are left out.
    """
    parts = []
    for first in range(0, num_items, TILE_ITEMS):
        last = min(first + TILE_ITEMS, num_items)
        scores_BT = score(query_BD, slice(first, last))
        if excluded is not None:
            row_E, item_E = excluded
            inside = (item_E >= first) & (item_E < last)
            place = (row_E[inside], item_E[inside] - first)
            scores_BT = scores_BT.index_put_(place, scores_BT.new_tensor(-torch.inf))
        found = scores_BT.topk(min(count, last - first), 1)
        parts.append((found.indices + first, found.values))
    items_BK, scores_BK = parts[0]
    if len(parts) > 1:
        items_BM = torch.cat([items for items, _ in parts], 1)
        found = torch.cat([scores for _, scores in parts], 1).topk(count, 1)
        items_BK, scores_BK = items_BM.gather(1, found.indices), found.values
    return found_items(items_BK, scores_BK), scores_BK


def found_items(items_BK: Tensor, scores_BK: Tensor) -> Tensor:
    """Return items, -1 in place of those that may not come: their scores are minus infinity."""
    return items_BK.masked_fill(scores_BK == -torch.inf, -1)


def metric_names(cutoffs: Sequence[int]) -> list[str]:
    """Return the names of what :func:`metrics` returns, in its order."""
    return [f"{name}@{k}" for k in cutoffs for name in ("hr", "recall", "ndcg", "mrr")]


def metrics(rank_B: Tensor, cutoffs: Sequence[int]) -> Tensor:
    """Return the metrics of each prediction at each cutoff: (B, M) float64.

    With one right item, recall is the hit rate, NDCG is 1 / log2(1 + rank) and MRR is 1 / rank, all
    of them 0 below the cutoff.
    """
    rank_B = rank_B.to(torch.float64)
    columns = []
    for k in cutoffs:
        hit_B = (rank_B <= k).to(torch.float64)
        columns += [hit_B, hit_B, hit_B / torch.log2(1 + rank_B), hit_B / rank_B]
    return torch.stack(columns, 1)


def set_metrics(is_hit_BK: Tensor, num_right_B: Tensor, cutoffs: Sequence[int]) -> Tensor:
    """Return the metrics of queries with several right items, as :func:`metric_names` names them.

    At a cutoff k, recall is the share of the right items that are among the first k; the hit rate
    is whether any is; NDCG is the sum of 1 / log2(1 + rank) over those that are, as a share of what
    it would be with right items first; MRR is 1 / rank of the first of them.

    Args:
        is_hit_BK: Which of the best items, best first, are right; K at least the largest cutoff, or
            all items.
        num_right_B: Right items of each query, at least 1.
        cutoffs: The k.

    Returns:
        (B, M) float64.
    """
    hit_BK = is_hit_BK.to(torch.float64)
    rank_K = torch.arange(1, hit_BK.shape[1] + 1, device=hit_BK.device, dtype=torch.float64)
    gain_K = 1 / torch.log2(1 + rank_K)
    ideal_K = gain_K.cumsum(0)
    columns = []
    for k in cutoffs:
        own_BK = hit_BK[:, :k]
        best_B = ideal_K[num_right_B.clamp(max=own_BK.shape[1]) - 1]
        columns += [
            own_BK.amax(1),
            own_BK.sum(1) / num_right_B,
            (own_BK * gain_K[:k]).sum(1) / best_B,
            (own_BK / rank_K[:k]).amax(1),
        ]
    return torch.stack(columns, 1)
