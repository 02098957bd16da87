"""k-means for many small problems of one shape at once.

Shapes: P problems, N points and K centres each, d elements.

Source of the start: Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA
2007.
"""

import torch
from torch import Tensor
from tqdm import tqdm

ROUNDS = 25
"""At most; it ends when no point changes its centre."""
POINTS_PER_CENTER = 256
"""Centres are learned from a sample of this size."""
CHUNK_ELEMENTS = 2**23
"""Distances that are held at once."""
PROGRESS_DISTANCES = 2**30
"""From so many distances on, a bar shows the progress."""


def kmeans(points_PNd: Tensor, num_centers: int, generator: torch.Generator) -> Tensor:
    """Return the centres: (P, K, d).

    A centre that no point is nearest to moves to one of the points that are farthest from theirs.

    Args:
        points_PNd: Points; at least as many as centres.
        num_centers: K.
        generator: Of the sample and of the start.
    """
    num_points = points_PNd.shape[1]
    if num_points > POINTS_PER_CENTER * num_centers:
        sample = torch.randperm(num_points, generator=generator)
        sample = sample[: POINTS_PER_CENTER * num_centers]
        points_PNd = points_PNd[:, sample]
    centers_PKd = spread_start(points_PNd, num_centers, generator)
    before_PN = None
    quick = points_PNd[..., 0].numel() * num_centers * ROUNDS < PROGRESS_DISTANCES
    for _ in tqdm(range(ROUNDS), "k-means", leave=False, disable=quick):
        nearest_PN, distance_PN = assign(points_PNd, centers_PKd)
        if before_PN is not None and torch.equal(nearest_PN, before_PN):
            break
        centers_PKd = _means(points_PNd, nearest_PN, distance_PN, num_centers)
        before_PN = nearest_PN
    return centers_PKd


def spread_start(points_PNd: Tensor, num_centers: int, generator: torch.Generator) -> Tensor:
    """Return points as first centres: each drawn by its squared distance to those before it."""
    num_problems, num_points, _ = points_PNd.shape
    own_P = torch.arange(num_problems)
    chosen_P = torch.randint(num_points, (num_problems,), generator=generator)
    centers = [points_PNd[own_P, chosen_P]]
    distance_PN = torch.full((num_problems, num_points), torch.inf)
    for _ in range(num_centers - 1):
        away_PN = (points_PNd - centers[-1].unsqueeze(1)).square().sum(2)
        distance_PN = torch.minimum(distance_PN, away_PN)
        # Where all points are taken, any will do.
        chosen_P = torch.multinomial(distance_PN + 1e-30, 1, generator=generator).squeeze(1)
        centers.append(points_PNd[own_P, chosen_P])
    return torch.stack(centers, 1)


def assign(points_PNd: Tensor, centers_PKd: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of each point and the squared distance to it: (P, N) both."""
    size = max(1, CHUNK_ELEMENTS // (centers_PKd.shape[0] * centers_PKd.shape[1]))
    norm_P1K = centers_PKd.square().sum(2).unsqueeze(1)
    found = []
    for chunk_Pnd in points_PNd.split(size, 1):
        # The point's own norm changes no comparison.
        partial_PnK = norm_P1K - 2 * torch.bmm(chunk_Pnd, centers_PKd.transpose(1, 2))
        least_Pn, nearest_Pn = partial_PnK.min(2)
        found.append((nearest_Pn, (least_Pn + chunk_Pnd.square().sum(2)).clamp(min=0)))
    nearest, distance = zip(*found, strict=True)
    return torch.cat(nearest, 1), torch.cat(distance, 1)


def _means(points_PNd: Tensor, nearest_PN: Tensor, distance_PN: Tensor, num_centers: int) -> Tensor:
    """Return the mean of each centre's points."""
    num_problems, _, width = points_PNd.shape
    first_P1 = torch.arange(num_problems).unsqueeze(1) * num_centers
    place = (nearest_PN + first_P1).flatten()
    sums = torch.zeros(num_problems * num_centers, width)
    sums.index_add_(0, place, points_PNd.flatten(0, 1))
    count_PK = torch.bincount(place, minlength=len(sums)).unflatten(0, (-1, num_centers))
    means_PKd = sums.unflatten(0, (-1, num_centers)) / count_PK.clamp(min=1).unsqueeze(2)
    is_empty_PK = count_PK == 0
    # The n-th empty centre of a problem takes its n-th farthest point.
    farthest_PK = distance_PN.topk(num_centers, 1).indices
    number_PK = (is_empty_PK.cumsum(1) - 1).clamp(min=0)
    taken_PKd = points_PNd[
        torch.arange(num_problems).unsqueeze(1), farthest_PK.gather(1, number_PK)
    ]
    return torch.where(is_empty_PK.unsqueeze(2), taken_PKd, means_PKd)
