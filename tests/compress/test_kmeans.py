"""k-means, against brute force and clusters that are known."""

import numpy as np
import pytest
import torch

from recemb.compress import kmeans as module
from recemb.compress.kmeans import assign, kmeans, spread_start
from tests.compress.small import random_rows

PLACES = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def four_clusters(num_points: int) -> tuple[torch.Tensor, np.ndarray]:
    """Two problems of points near four places, and the mean of each place's points."""
    near = torch.arange(num_points) % 4
    points = torch.stack([PLACES[near], PLACES[near.flip(0)] - 50]) + random_rows(
        2 * num_points, 2
    ).unflatten(0, (2, -1))
    means = [
        [points[problem][place == k].numpy().mean(0) for k in range(4)]
        for problem, place in enumerate((near, near.flip(0)))
    ]
    return points, np.array(means)


def ordered(centers: np.ndarray) -> np.ndarray:
    return np.array([sorted(one.round(3).tolist()) for one in centers])


def test_nearest_centres_are_those_of_a_search_one_by_one(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 50)
    points, centers = random_rows(60, 3).unflatten(0, (2, 30)), random_rows(10, 3, 2)
    centers = centers.unflatten(0, (2, 5))
    nearest, distance = assign(points, centers)
    for problem in range(2):
        for number in range(30):
            away = [
                float((points[problem, number] - one).square().sum()) for one in centers[problem]
            ]
            assert int(nearest[problem, number]) == away.index(min(away))
            assert float(distance[problem, number]) == pytest.approx(min(away), abs=1e-5)


def test_centres_of_known_clusters_are_their_means():
    points, means = four_clusters(40)
    np.testing.assert_allclose(
        ordered(kmeans(points, 4, generator()).numpy()), ordered(means), atol=2e-3
    )


def test_the_start_takes_a_point_of_each_cluster():
    # By chance alone a start would miss one of four clusters in 29 of 32 cases.
    points, _ = four_clusters(40)
    for seed in range(20):
        start = spread_start(points, 4, generator(seed))
        for problem, places in enumerate((PLACES, PLACES - 50)):
            assert set(torch.cdist(start[problem], places).argmin(1).tolist()) == {0, 1, 2, 3}


def test_a_centre_without_points_moves_to_a_point_that_is_far(monkeypatch):
    near = torch.arange(20) % 2
    # Far from 0 too, which is what the mean of no point would be.
    points = PLACES[near * 3].unsqueeze(0) + 500 + random_rows(20, 2)
    monkeypatch.setattr(
        module, "spread_start", lambda points, count, generator: points[:, :1].expand(-1, count, -1)
    )
    means = np.array([[points[0][near == k].numpy().mean(0) for k in range(2)]])
    found = kmeans(points, 2, generator()).numpy()
    np.testing.assert_allclose(ordered(found), ordered(means), atol=2e-3)


def test_fewer_distinct_points_than_centres_are_all_centres():
    points = PLACES.repeat(5, 1).unsqueeze(0)
    found = kmeans(points, 8, generator())
    assert {tuple(one) for one in found[0].tolist()} == {tuple(one) for one in PLACES.tolist()}


def test_a_sample_serves_where_there_are_many_points(monkeypatch):
    monkeypatch.setattr(module, "POINTS_PER_CENTER", 20)
    seen = []
    honest = module.spread_start
    monkeypatch.setattr(
        module,
        "spread_start",
        lambda points, *rest: seen.append(points.shape[1]) or honest(points, *rest),
    )
    points, means = four_clusters(4000)
    found = ordered(kmeans(points, 4, generator()).numpy())
    assert seen == [80]
    np.testing.assert_allclose(found, ordered(means), atol=1.0)


def test_more_rounds_bring_centres_nearer(monkeypatch):
    points = random_rows(500, 4).unsqueeze(0)
    means = []
    for rounds in (0, 1, 5, 25):
        monkeypatch.setattr(module, "ROUNDS", rounds)
        means.append(float(assign(points, kmeans(points, 16, generator()))[1].mean()))
    assert means == sorted(means, reverse=True)
    assert means[-1] < 0.9 * means[0]


def test_the_same_seed_gives_the_same_centres():
    points = random_rows(200, 4).unsqueeze(0)
    assert torch.equal(kmeans(points, 8, generator(1)), kmeans(points, 8, generator(1)))
    assert not torch.equal(kmeans(points, 8, generator(1)), kmeans(points, 8, generator(2)))
