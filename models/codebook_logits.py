"""Codebook logits: scores of a large catalogue from the scores of a few codes.

Each item has one of K codes:

    s_i = h . c[code(i)] + b_i

so the output has K vectors and one number per item instead of a vector per item. The softmax falls
apart in two, and is exact, at the cost of K items:

    p(i) = p(code) p(i | code),   B_k = sum over items of code k of exp(b_i)
    p(code = k) ~ exp(h . c_k + log B_k),   p(i | code) = exp(b_i) / B_code(i)

What is best for a query lies in few codes, so only their items are looked at: ``num_probes`` codes
of highest log-mass s_k + log B_k. Within a code the bias alone orders items; a *rerank* scores
those few items by vectors of their own instead.

Shapes: B queries, V items, K codes, N positions, D elements of a vector, M items looked at.

Source: "VQ-Logits: Compressing the Output Bottleneck of Large Language Models via Vector Quantized
Logits", 2025, arXiv:2505.10202; that items of one code tie is its fault, mended here.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recemb.compress.kmeans import assign as nearest
from recemb.compress.kmeans import kmeans
from recemb.jagged import Jagged, bag_of_each, position_of_each
from recemb.models.next_item_loss import next_item_loss

NOTHING = -1e9
"""The log-mass of a code without items."""


class CodebookLogits(nn.Module):
    """K vectors, and per item a code and a bias.

    Args:
        num_items: V.
        dim: D.
        num_codes: K, in 1 .. V.
        num_probes: Codes whose items are looked at, in 1 .. K.

    Attributes:
        is_assigned: Whether items have codes yet.
    """

    def __init__(self, num_items: int, dim: int, num_codes: int, num_probes: int) -> None:
        super().__init__()
        self.num_codes, self.num_probes = num_codes, num_probes
        self.code_KD = nn.Parameter(torch.zeros(num_codes, dim))
        self.bias_V = nn.Parameter(torch.zeros(num_items))
        self.register_buffer("code_V", torch.zeros(num_items, dtype=torch.int32))
        # The items of code 0, then those of code 1, and where each code's begin.
        self.register_buffer("item_V", torch.arange(num_items, dtype=torch.int32))
        self.register_buffer("start_K", torch.zeros(num_codes + 1, dtype=torch.int64))
        # Of evaluation: it does not change there.
        self.register_buffer("log_mass_K", torch.zeros(num_codes))
        self.register_buffer("assigned", torch.zeros((), dtype=torch.bool))
        self.is_assigned = False
        self.code_V: Tensor
        self.item_V: Tensor
        self.start_K: Tensor
        self.log_mass_K: Tensor
        self.assigned: Tensor

    @torch.no_grad()
    def fit(self, vectors_VD: Tensor, counts_V: Tensor) -> None:
        """Give each item the code nearest to its vector, and biases by its training clicks.

        Args:
            vectors_VD: What k-means finds codes for.
            counts_V: Training clicks.
        """
        generator = torch.Generator().manual_seed(0)
        points = vectors_VD.detach().cpu().unsqueeze(0)
        centers = kmeans(points, self.num_codes, generator)
        nearest_V = nearest(points, centers)[0][0].to(self.code_V.device)
        self.assign(nearest_V, vectors_VD, counts_V)

    @torch.no_grad()
    def assign(self, code_V: Tensor, vectors_VD: Tensor, counts_V: Tensor) -> None:
        """Give items given codes, whose vectors are the means of their items'.

        Args:
            code_V: 0 .. K - 1.
            vectors_VD: Of the items.
            counts_V: Training clicks, for the biases.
        """
        self.code_V.copy_(code_V)
        self.item_V.copy_(torch.argsort(code_V, stable=True))
        sizes_K = torch.bincount(code_V, minlength=self.num_codes)
        self.start_K[1:] = sizes_K.cumsum(0)
        size_K1 = sizes_K.clamp(min=1).unsqueeze(1)
        self.code_KD.copy_(torch.zeros_like(self.code_KD).index_add(0, code_V, vectors_VD))
        self.code_KD.div_(size_K1)
        # Shares of clicks within a code, whose mass stays that of so many equal items.
        clicks_V = counts_V + 1.0
        mean_K = torch.zeros_like(size_K1[:, 0], dtype=torch.float32)
        mean_K = mean_K.index_add(0, code_V, clicks_V) / size_K1[:, 0]
        self.bias_V.copy_(torch.log(clicks_V / mean_K[code_V]))
        self.assigned.fill_(True)
        self.is_assigned = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Learn from a checkpoint whether its items have codes."""
        super()._load_from_state_dict(*args, **kwargs)
        self.is_assigned = bool(self.assigned)

    def train(self, mode: bool = True) -> "CodebookLogits":
        """Keep the log-mass of codes when evaluation begins."""
        if not mode:
            with torch.no_grad():
                self.log_mass_K.copy_(self.log_mass())
        return super().train(mode)

    def log_mass(self) -> Tensor:
        """Return log B of each code (K,); of a code without items, a very low number."""
        code_V = self.code_V.long()
        highest_K = self.bias_V.new_full((self.num_codes,), NOTHING)
        highest_K = highest_K.scatter_reduce(0, code_V, self.bias_V.detach(), "amax")
        shares_V = torch.exp(self.bias_V - highest_K[code_V])
        sums_K = torch.zeros_like(highest_K).index_add(0, code_V, shares_V)
        # The largest share of a code that has items is 1.
        return torch.where(sums_K > 0, sums_K.clamp(min=1).log() + highest_K, NOTHING)

    def loss(self, hidden_ND: Tensor, target_N: Tensor) -> Tensor:
        """Return the sum over positions of the cross-entropy of the item that came."""
        log_mass_K = self.log_mass()
        code_N = self.code_V[target_N].long()
        of_code = next_item_loss(hidden_ND, self.code_KD, code_N, log_mass_K)
        return of_code + (log_mass_K[code_N] - self.bias_V[target_N]).sum()

    def scores(self, query_BD: Tensor, items: slice) -> Tensor:
        """Return the scores of B queries for a slice of the catalogue."""
        per_code_BK = query_BD @ self.code_KD.t()
        return per_code_BK.index_select(1, self.code_V[items]) + self.bias_V[items]

    def near(self, query_BD: Tensor) -> tuple[Jagged, Tensor]:
        """Return, in evaluation, the items of the likeliest codes of each query, and their scores.

        Items are a bag per query, scores (M,).
        """
        per_code_BK = query_BD @ self.code_KD.t()
        best = (per_code_BK + self.log_mass_K).topk(self.num_probes, 1).indices
        start_BP, stop_BP = self.start_K[best], self.start_K[best + 1]
        size_P = (stop_BP - start_BP).flatten()
        place_M = torch.repeat_interleave(start_BP.flatten(), size_P) + position_of_each(size_P)
        item_M = self.item_V[place_M].long()
        sizes_B = (stop_BP - start_BP).sum(1)
        row_M = bag_of_each(sizes_B)
        score_M = per_code_BK[row_M, self.code_V[item_M].long()] + self.bias_V[item_M]
        return Jagged(item_M, sizes_B), score_M
