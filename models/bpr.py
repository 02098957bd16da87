"""Bayesian personalised ranking: an item that a user took scores above one that the user did not.

    loss = mean over (u, i, j) of -log sigmoid(s_ui - s_uj),   i taken by u, j not

A negative j is drawn with equal probability from the items that u has not taken, without a loop and
without drawing again: with the taken items p_0 < p_1 < ... the r-th of the others is r + k, where k
is how many of the numbers p_n - n, which never fall, are at most r. They are searched for all users
at once, behind one another in one sorted tensor.

Shapes: U users, V items, P pairs of training, B samples, K negatives of each, S vectors of D
elements.

Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009,
arXiv:1205.2618.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.errors import RecembError
from recemb.schema import Attribute

Positives = Literal["pairs", "users"]
"""``pairs``: each pair of training once an epoch; ``users``: as many times a user, drawn with equal
probability, and one of the items of that user: so users count alike however much they took."""

TILE_ELEMENTS = 2**22
"""Elements of candidates' vectors that are in memory at once."""

Negatives = Literal["all", "hardest"]
"""``all``: a mean over the negatives of a sample; ``hardest``: the one that scores highest alone,
whose gradient does not fade while most others are ranked well (dynamic negative sampling: Zhang et
al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling", SIGIR 2013)."""


class PairSampler(nn.Module):
    """Draws positives and negatives of users; see the module.

    Args:
        seen: The items of each user.
        num_items: V: negatives are below.

    Raises:
        RecembError: If a user has taken all items: there is no negative.
    """

    items_P: Tensor
    offsets_U1: Tensor
    users_A: Tensor
    keys_P: Tensor

    def __init__(self, seen: Attribute, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        counts_U = seen.offsets_V.diff()
        if int(counts_U.max()) >= num_items:
            raise RecembError(
                f"training: a user has taken all {num_items} items, so there is none to rank "
                "below; drop such users"
            )
        user_P = torch.repeat_interleave(torch.arange(len(counts_U)), counts_U)
        # Sorted by user and item: user times a number above all items, plus the item.
        both_P = (user_P * (num_items + 1) + seen.values_M).sort().values
        items_P = both_P - user_P * (num_items + 1)
        place_P = torch.arange(len(user_P)) - seen.offsets_V[user_P]
        for name, tensor in (
            ("items_P", items_P),
            ("offsets_U1", seen.offsets_V),
            ("users_A", counts_U.nonzero().squeeze(1)),
            ("keys_P", both_P - place_P),
        ):
            self.register_buffer(name, tensor, persistent=False)

    def positives(self, count: int) -> tuple[Tensor, Tensor]:
        """Return users, each with equal probability, and an item that each has taken."""
        device = self.items_P.device
        user_B = self.users_A[torch.randint(len(self.users_A), (count,), device=device)]
        start_B = self.offsets_U1[user_B]
        place_B = _below(self.offsets_U1[user_B + 1] - start_B)
        return user_B, self.items_P[start_B + place_B]

    def negatives(self, user_B: Tensor, count: int) -> Tensor:
        """Return items that users have not taken, each with equal probability: (B, K)."""
        start_B = self.offsets_U1[user_B]
        free_B = self.num_items - (self.offsets_U1[user_B + 1] - start_B)
        rank_BK = _below(free_B.unsqueeze(1).expand(-1, count))
        key_BK = user_B.unsqueeze(1) * (self.num_items + 1) + rank_BK
        place_BK = torch.searchsorted(self.keys_P, key_BK.contiguous(), right=True)
        return rank_BK + place_BK - start_B.unsqueeze(1)


def _below(ends: Tensor) -> Tensor:
    """Return for each number one of those from 0 to before it, with equal probability."""
    # 2^62 is no multiple of the number: the probabilities differ by less than 2^-30.
    return torch.randint(2**62, ends.shape, device=ends.device) % ends


def bpr_losses(positive_B: Tensor, negative_BK: Tensor) -> Tensor:
    """Return the loss of each score of a taken item, a mean over its negatives: (B,)."""
    return -F.logsigmoid(positive_B.unsqueeze(1) - negative_BK).mean(1)


@torch.no_grad()
def hardest(x_SD: Tensor, user_B: Tensor, candidate_BK: Tensor) -> Tensor:
    """Return the candidate of each sample that scores highest: (B, 1).

    Args:
        x_SD: Vectors of users and items.
        user_B: Where each sample's user is among them.
        candidate_BK: Where its candidates are.
    """
    found = []
    tile = max(1, TILE_ELEMENTS // (candidate_BK.shape[1] * x_SD.shape[1]))
    for user_b, candidate_bK in zip(user_B.split(tile), candidate_BK.split(tile), strict=True):
        user_bD1 = x_SD.index_select(0, user_b).unsqueeze(2)
        candidate_bKD = x_SD[candidate_bK]
        best_b1 = torch.bmm(candidate_bKD, user_bD1).squeeze(2).argmax(1, keepdim=True)
        found.append(candidate_bK.gather(1, best_b1))
    return torch.cat(found)
