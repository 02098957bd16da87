"""Analyses of attention over long histories: what it finds, and what one table for two uses costs.

Truth: for targets of category t, how much does it tell of the label that the behaviour at time p
is of category b? That is mutual information, in nats, counted over training rows:

    truth[t, b, p] = I(1[category at p is b]; label)        among rows whose target is of t

Learned attention and the order of a search are compared with it. Categories are numbered by falling
frequency, and the first few of them are looked at; others count nowhere.

Shapes: C categories, P times (P - 1 behaviours back and the target's own), B samples, L longest
history, N behaviours, U items, k searched behaviours, K clusters.

Source: Feng et al., "Long-Sequence Recommendation Models Need Decoupled Embeddings", ICLR 2025,
arXiv:2410.02604, sections 2 and 4; the truth is that of Zhou et al., "Temporal Interest Network for
User Response Prediction", WWW 2024, arXiv:2308.08487.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from recemb.compress.kmeans import assign, kmeans
from recemb.data.batch import Batch
from recemb.jagged import Ids, Jagged, split_keyed, to_padded
from recemb.models.dare import TWIN
from recemb.models.long_history import Items, LongHistoryTask

FEWEST = 20
"""Behaviours that a cell's mean attention is taken over at least."""


class Read(NamedTuple):
    """A batch as the model reads it, with the categories of its items."""

    items: list[Items]
    context_BC: Tensor
    target_B: Tensor
    """Category of the target."""
    behaviour_N: Tensor
    """Category of each behaviour."""
    label_B: Tensor

    @property
    def lengths(self) -> Tensor:
        """Behaviours of each sample."""
        return self.items[0].places.lengths_B

    @property
    def bags(self) -> Tensor:
        """The sample of each behaviour."""
        return self.items[0].places.bags

    @property
    def times(self) -> Tensor:
        """The time of each behaviour, 1 the newest."""
        return self.items[-1].places.place_N


def read(model: LongHistoryTask, batch: Batch, category: str) -> Read:
    """Return what a model reads of a batch.

    Args:
        model: Its first history column is looked at.
        batch: As the data module makes it.
        category: Attribute with one value per id of that column.
    """
    ids: dict[str, Ids] = {
        name: bags if model.schema.columns[name].is_list else bags.values
        for name, bags in split_keyed(batch.ids).items()
    }
    items, context = model.read(ids)
    name, column = next(iter(model.history.items()))
    space = model.schema.id_space(name)

    def categories(ids_N: Tensor) -> Tensor:
        return cast(Tensor, model.attributes(space, ids_N)[category])

    return Read(
        items,
        torch.cat([*context, model.standardize(batch.dense_BK)], 1),
        categories(cast(Tensor, ids[name])),
        categories(cast(Jagged, ids[column]).values),
        batch.label_B,
    )


def information_of(count_2: Tensor, total_2: Tensor) -> Tensor:
    """Return the mutual information of an event and a label in nats, from counts: (...,).

    What independent draws would show on average, 1 / (2 rows), is taken off; at least 0.

    Args:
        count_2: (..., 2) rows with the event, by label.
        total_2: (..., 2) rows, by label.
    """
    joint_22 = torch.stack([count_2, total_2 - count_2], -2).double()
    rows = joint_22.sum((-2, -1), keepdim=True).clamp(min=1)
    joint_22 = joint_22 / rows
    independent_22 = joint_22.sum(-1, keepdim=True) * joint_22.sum(-2, keepdim=True)
    terms_22 = torch.xlogy(joint_22, joint_22) - torch.xlogy(joint_22, independent_22)
    return (terms_22.sum((-2, -1)) - 0.5 / rows[..., 0, 0]).clamp(min=0)


class Truth:
    """Count rows, then say what a category at a time tells of the label.

    Args:
        num_categories: C.
        num_times: P.
    """

    def __init__(self, num_categories: int, num_times: int) -> None:
        self.shape = (num_categories, num_categories, num_times)
        self.count_CCP2 = torch.zeros(*self.shape, 2, dtype=torch.int64)
        self.total_CP2 = torch.zeros(num_categories, num_times, 2, dtype=torch.int64)

    def add(self, own: Read) -> None:
        """Count the rows of a batch."""
        categories, _, times = self.shape
        target_N = own.target_B[own.bags]
        label_N = own.label_B.long()[own.bags]
        is_seen_N = target_N < categories
        cell_N = (target_N * times + own.times) * 2 + label_N
        self.total_CP2 += _counted(cell_N[is_seen_N], self.total_CP2.shape)
        is_seen_N &= own.behaviour_N < categories
        cell_N = ((target_N * categories + own.behaviour_N) * times + own.times) * 2 + label_N
        self.count_CCP2 += _counted(cell_N[is_seen_N], self.count_CCP2.shape)

    def information(self) -> Tensor:
        """Return the truth: (C targets, C behaviours, P) in nats."""
        return information_of(self.count_CCP2, self.total_CP2.unsqueeze(1))


def _counted(cell_N: Tensor, shape: torch.Size) -> Tensor:
    return torch.bincount(cell_N, minlength=shape.numel()).view(shape)


class LearnedAttention:
    """The mean weight, times the history's length, that behaviours of a cell get.

    Args:
        num_categories: C.
        num_times: P.
    """

    def __init__(self, num_categories: int, num_times: int) -> None:
        self.shape = torch.Size([num_categories, num_categories, num_times])
        self.sum_CCP = torch.zeros(self.shape, dtype=torch.float64)
        self.count_CCP = torch.zeros(self.shape, dtype=torch.int64)

    def add(self, own: Read, weight_N: Tensor) -> None:
        """Count the behaviours of a batch.

        Args:
            own: The batch.
            weight_N: The softmax of each history's logits.
        """
        categories, _, times = self.shape
        target_N = own.target_B[own.bags]
        is_seen_N = (target_N < categories) & (own.behaviour_N < categories)
        cell_N = (target_N * categories + own.behaviour_N) * times + own.times
        cell_N = cell_N[is_seen_N]
        share_N = (weight_N * own.lengths[own.bags])[is_seen_N].double()
        self.sum_CCP.view(-1).index_add_(0, cell_N, share_N)
        self.count_CCP += _counted(cell_N, self.shape)

    def mean(self) -> Tensor:
        """Return the mean of each cell: (C, C, P); 1 is even attention, NaN too few behaviours."""
        return torch.where(
            self.count_CCP >= FEWEST, self.sum_CCP / self.count_CCP, torch.full((), torch.nan)
        )


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Return Spearman's correlation over the entries that are numbers in both; NaN of one entry."""
    is_number = ~(one.isnan() | other.isnan())
    if int(is_number.sum()) < 2:
        return math.nan
    ranks = torch.stack([_ranks(values[is_number].flatten()) for values in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values_N: Tensor) -> Tensor:
    """Return ranks from 0; equal values share the mean of theirs."""
    _, place_N, count_U = torch.unique(values_N, return_inverse=True, return_counts=True)
    last_U = count_U.cumsum(0)
    rank_U: Tensor = (2 * last_U - count_U - 1).double() / 2
    return rank_U[place_N]


def search_ndcg(score_N: Tensor, gain_N: Tensor, lengths_B: Tensor, keep: int) -> Tensor:
    """Return the NDCG of the ``keep`` behaviours with the largest scores, per history: (B,).

    Gains are the truth's own; NaN where all gains of a history are 0.

    Args:
        score_N: What the behaviours are ordered by.
        gain_N: What finding each is worth, at least 0.
        lengths_B: Behaviours of each history.
        keep: k.
    """
    lowest = torch.finfo(score_N.dtype).min
    score_BL, _ = to_padded(Jagged(score_N, lengths_B), fill=lowest)
    gain_BL, _ = to_padded(Jagged(gain_N, lengths_B))
    count = min(keep, score_BL.shape[1])
    discount_k = 1 / torch.log2(torch.arange(count).double() + 2)
    found_Bk = gain_BL.gather(1, score_BL.topk(count, 1).indices)
    best_Bk = gain_BL.topk(count, 1).values
    best_B = (best_Bk * discount_k).sum(1)
    found_B = (found_Bk * discount_k).sum(1)
    return torch.where(best_B > 0, found_B / best_B, torch.full((), torch.nan))


class Conflict(NamedTuple):
    """The two gradients of one table's rows: as attention reads them and as they are summed."""

    conflicting: float
    """Share of the rows met by both whose gradients point apart (negative product)."""
    cosine: float
    """Their mean cosine."""
    norm_ratio: float
    """Median of the representation's norm over the attention's."""


def gradient_conflict(model: TWIN, batches: Iterable[Batch], category: str) -> Conflict:
    """Return how the uses of a table pull at it in training batches.

    The batches are scored twice over the same values: once those that attention reads are a leaf
    of their own, and so are those that are summed.

    Args:
        model: It is left as it was.
        batches: Batches of training rows.
        category: See :func:`read`.
    """
    is_training = model.training
    saved = {name: one.clone() for name, one in model.state_dict().items()}
    model.train()
    cosines, ratios = [], []
    for batch in batches:
        with torch.no_grad():
            own = read(model, batch, category)
        summed = [one.representation_UD.clone().requires_grad_() for one in own.items]
        attended = [one.representation_UD.clone().requires_grad_() for one in own.items]
        items = []
        for number, one in enumerate(own.items):
            query_Ud, key_Ud = model.attention_of_rows(number, attended[number])
            items.append(
                one._replace(representation_UD=summed[number], query_Ud=query_Ud, key_Ud=key_Ud)
            )
        loss = model.mean_loss(model.score_items(items, own.context_BC), batch)
        loss = loss + model.penalty(batch)
        grads = torch.autograd.grad(loss, [summed[0], attended[0]])
        norm_2U = torch.stack([grad.norm(dim=1) for grad in grads])
        is_met_U = (norm_2U > 0).all(0)
        dot_U = (grads[0] * grads[1]).sum(1)
        cosines.append((dot_U / norm_2U.prod(0))[is_met_U])
        ratios.append((norm_2U[0] / norm_2U[1])[is_met_U])
    model.load_state_dict(saved)
    model.train(is_training)
    cosine = torch.cat(cosines)
    return Conflict(
        float((cosine < 0).double().mean()), float(cosine.mean()), float(torch.cat(ratios).median())
    )


def discriminability(
    vectors_BD: Tensor, label_B: Tensor, clusters: Sequence[int], seed: int = 0
) -> list[float]:
    """Return, per number of clusters, what a vector's cluster tells of the label, in nats.

    What independent draws would show on average, (K - 1) / (2 B), is taken off.

    Args:
        vectors_BD: Representations, such as the product of target and history.
        label_B: 0 or 1.
        clusters: Each K of k-means.
        seed: Of k-means.
    """
    found = []
    for count in clusters:
        generator = torch.Generator().manual_seed(seed)
        centers_1KD = kmeans(vectors_BD.unsqueeze(0), count, generator)
        cluster_B = assign(vectors_BD.unsqueeze(0), centers_1KD)[0][0]
        joint_K2 = torch.bincount(cluster_B * 2 + label_B.long(), minlength=2 * count)
        joint_K2 = joint_K2.view(count, 2).double() / len(label_B)
        independent_K2 = joint_K2.sum(1, keepdim=True) * joint_K2.sum(0, keepdim=True)
        terms_K2 = torch.xlogy(joint_K2, joint_K2) - torch.xlogy(joint_K2, independent_K2)
        found.append(float(terms_K2.sum()) - (count - 1) / (2 * len(label_B)))
    return found
