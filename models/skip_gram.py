"""Skip-gram with negative sampling: the loss of pairs, and which pairs and negatives it sees.

    loss = -log sigmoid(s_ic) - sum over k of log sigmoid(-s_in),   n_k drawn by the noise law

    noise law      P(n) in proportion to count(n)^exponent
    sub-sampling   a pair is kept with probability keep(i) keep(c), keep(i) = min(1, (t / f(i))^1/2)

with f(i) the share of item i among all items of training pairs. Exponent 0.75 is that of text; in
recommendation the best may be anything from below 0 (rare items are drawn most) to 1.

Shapes: V items, B pairs, K negatives of each.

Sources: Mikolov et al., "Distributed Representations of Words and Phrases and their
Compositionality", NIPS 2013, arXiv:1310.4546; exponents of any sign: Caselles-Dupre, Lesaint and
Royo-Letelier, "Word2Vec applied to Recommendation: Hyperparameters Matter", RecSys 2018,
arXiv:1804.04212.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.errors import RecembError


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipGram:
    """What is learned of a pair."""

    num_negatives: int = 10
    """Items drawn for each pair."""
    exponent: float = 0.75
    """Of the counts in the noise law: any number; 0: all items alike."""
    subsample: float | None = None
    """The share t above which items are met less often; None: every pair is learned from."""
    l2: float = 0.0
    """Times half the squared length of the vectors of a pair and its negatives."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        if self.num_negatives < 1:
            raise RecembError(
                f"skip_gram: num_negatives must be at least 1, got {self.num_negatives}"
            )
        if not abs(self.exponent) < float("inf"):
            raise RecembError(f"skip_gram: exponent must be a finite number, got {self.exponent}")
        if self.subsample is not None and not self.subsample > 0:
            raise RecembError(f"skip_gram: subsample must be above 0, got {self.subsample}")
        if not self.l2 >= 0:
            raise RecembError(f"skip_gram: l2 must be at least 0, got {self.l2}")


class Noise(nn.Module):
    """Draws negatives and chooses pairs by the counts of training.

    Args:
        counts_V: Of all items; one that training lacks is drawn as one that it has once.
        settings: The law.
    """

    ends_V: Tensor
    keep_V: Tensor

    def __init__(self, counts_V: Tensor, settings: SkipGram) -> None:
        super().__init__()
        count_V = counts_V.clamp(min=1).double()
        # By logarithms: a large exponent of a large count is no number.
        weight_V = (settings.exponent * (count_V / count_V.max()).log()).softmax(0)
        self.register_buffer("ends_V", weight_V.cumsum(0), persistent=False)
        share_V = count_V / counts_V.sum().clamp(min=1)
        t = settings.subsample or float("inf")
        self.register_buffer("keep_V", (t / share_V).sqrt().clamp(max=1), persistent=False)
        self.is_subsampled = settings.subsample is not None

    def negatives(self, size: int, count: int) -> Tensor:
        """Return items drawn by the noise law: (B, K)."""
        draw_BK = torch.rand(size, count, dtype=torch.float64, device=self.ends_V.device)
        # The last end may fall short of 1 by rounding.
        draw_BK *= self.ends_V[-1]
        return torch.searchsorted(self.ends_V, draw_BK, right=True).clamp(max=len(self.ends_V) - 1)

    def kept(self, item_B: Tensor, context_B: Tensor) -> Tensor:
        """Return which pairs are learned from this time: (B,) bool."""
        if not self.is_subsampled:
            return torch.ones_like(item_B, dtype=torch.bool)
        chance_B = self.keep_V[item_B] * self.keep_V[context_B]
        return torch.rand(chance_B.shape, dtype=torch.float64, device=chance_B.device) < chance_B


def skip_gram_losses(positive_B: Tensor, negative_BK: Tensor, is_other_BK: Tensor) -> Tensor:
    """Return the loss of each pair: (B,).

    Args:
        positive_B: Scores of the pairs.
        negative_BK: Scores of the items drawn for each.
        is_other_BK: Which of these are not the pair's own context, drawn by chance.
    """
    noise_BK = F.logsigmoid(-negative_BK) * is_other_BK
    return -F.logsigmoid(positive_B) - noise_BK.sum(1)
