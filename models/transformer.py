"""Causal transformer over jagged sequences: no operation ever sees padding.

The tokens of all sequences lie one after the other, (N, D), and every layer but attention works on
them as they are. For attention, sequences are put in order of their lengths; those of one length
then are one block of the same tokens, read as (S, L, D) without a copy. Amazon Beauty's sequences
have 7 tokens of at most 50: padded, six of seven products would be of zeros.

Shapes: B sequences, N tokens of all of them, S sequences of one length L, D elements of a token,
H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.jagged import Jagged, is_tracing, position_of_each, to_padded


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Sequences in order of their lengths.

    Attributes:
        tokens_N: Which token, as it was given, lies where.
        places_N: Where each given token lies: the inverse.
        blocks: (sequences, length) of each block of equally long ones, one after the other.
    """

    tokens_N: Tensor
    places_N: Tensor
    blocks: Sequence[tuple[int, int]]


def arrange(lengths_B: Tensor) -> Arrangement:
    """Return the arrangement of sequences of these lengths."""
    starts_B = lengths_B.cumsum(0) - lengths_B
    order_B = torch.argsort(lengths_B, stable=True)
    ordered_B = lengths_B[order_B]
    tokens_N = torch.repeat_interleave(starts_B[order_B], ordered_B) + position_of_each(ordered_B)
    places_N = torch.empty_like(tokens_N)
    places_N[tokens_N] = torch.arange(len(tokens_N), device=tokens_N.device)
    lengths, counts = torch.unique_consecutive(ordered_B, return_counts=True)
    blocks = zip(counts.tolist(), lengths.tolist(), strict=True)
    return Arrangement(tokens_N, places_N, [block for block in blocks if block[1]])


def _attend(qkv: Tensor, num_heads: int, dropout: float) -> Tensor:
    """Return (S, L, D) of queries, keys and values (S, L, 3 D)."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
    return attended.transpose(1, 2).flatten(2)


def _over_blocks(
    qkv: Tensor, blocks: Sequence[tuple[int, int]], num_heads: int, dropout: float
) -> Tensor:
    """Return (N, D) of queries, keys and values (N, 3 D), block by block."""
    sizes = [count * length for count, length in blocks]
    attended = [
        _attend(part.view(count, length, -1), num_heads, dropout).flatten(0, 1)
        for part, (count, length) in zip(qkv.split(sizes), blocks, strict=True)
    ]
    return torch.cat(attended)


class CausalAttention(nn.Module):
    """Multi-head attention of each token to itself and those before it.

    Args:
        dim: D, a multiple of ``num_heads``.
        num_heads: H.
        dropout: Share of attention weights dropped in training.

    Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762; the causal
    form over items is SASRec's (Kang and McAuley, ICDM 2018, arXiv:1808.09781).
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, tokens_ND: Tensor, blocks: Sequence[tuple[int, int]]) -> Tensor:
        """Return (N, D) for tokens that lie as :func:`arrange` says."""
        qkv = self.to_qkv(tokens_ND)
        return cast(Tensor, self.to_out(_over_blocks(qkv, blocks, self.num_heads, self._rate())))

    def padded(self, tokens_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Return (N, D) for tokens as they were given, through one padded block.

        A traced program cannot loop over lengths that it does not know. Padding comes after the
        tokens of a sequence, so causal attention never looks at it.
        """
        qkv, mask_BL = to_padded(Jagged(self.to_qkv(tokens_ND), lengths_B))
        return cast(Tensor, self.to_out(_attend(qkv, self.num_heads, self._rate())[mask_BL]))

    def _rate(self) -> float:
        return self.dropout if self.training else 0.0


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + perceptron(norm(x)).

    Source: Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
    arXiv:2002.04745.
    """

    def __init__(
        self, dim: int, num_heads: int, hidden: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CausalAttention(dim, num_heads, attention_dropout)
        self.norm = nn.LayerNorm(dim)
        self.perceptron = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens_ND: Tensor, attend: Any) -> Tensor:
        """Return (N, D); ``attend`` calls the attention on normalised tokens."""
        attended_ND = attend(self.attention, self.attention_norm(tokens_ND))
        tokens_ND = tokens_ND + self.dropout(attended_ND)
        return tokens_ND + cast(Tensor, self.dropout(self.perceptron(self.norm(tokens_ND))))


class Readout(nn.Module):
    """What each position comes to as a mean of the tokens that were given, itself and before it.

    Weights are an attention of the encoder's states. A transformer's own output lies anywhere; a
    mean of items lies among items, which is where the next one is looked for.

    Args:
        dim: D.

    Source: Hou et al., "CORE: Simple and Effective Session-based Recommendation within Consistent
    Representation Space", SIGIR 2022, arXiv:2204.11067, where an item's weight is the same for
    all positions after it; here each position weighs anew.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_qk = nn.Linear(dim, 2 * dim)

    def forward(
        self, states_ND: Tensor, given_ND: Tensor, blocks: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Return (N, D) for states and tokens that lie as :func:`arrange` says."""
        qkv = torch.cat([self.to_qk(states_ND), given_ND], 1)
        return _over_blocks(qkv, blocks, 1, 0.0)

    def padded(self, states_ND: Tensor, given_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Return (N, D) for tokens as they were given, through one padded block."""
        qkv, mask_BL = to_padded(Jagged(torch.cat([self.to_qk(states_ND), given_ND], 1), lengths_B))
        return _attend(qkv, 1, 0.0)[mask_BL]


class CausalTransformer(nn.Module):
    """Pre-norm blocks over jagged sequences with learned positions, counted from the start.

    Args:
        dim: D.
        num_layers: Blocks, at least 1.
        num_heads: H; D must be a multiple of it.
        hidden: Width of the perceptrons.
        dropout: Share of values dropped in training: of the input, and of what each layer adds.
        attention_dropout: Share of attention weights dropped in training.
        max_length: Longest sequence.
        reads_tokens: Whether the result is a mean of the tokens given (:class:`Readout`).
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        max_length: int,
        reads_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.position_LD = nn.Parameter(0.02 * torch.randn(max_length, dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, hidden, dropout, attention_dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.readout = Readout(dim) if reads_tokens else None

    def forward(self, tokens_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Return (N, D): each token in the light of itself and those before it.

        Args:
            tokens_ND: Sequence by sequence.
            lengths_B: Tokens of each; 0 to ``max_length``.
        """
        given_ND = self.dropout(tokens_ND) if self.readout is not None else tokens_ND
        tokens_ND = tokens_ND + self.position_LD[position_of_each(lengths_B)]
        tokens_ND = self.dropout(tokens_ND)
        if is_tracing():
            for block in self.blocks:
                tokens_ND = block(tokens_ND, lambda one, x_ND: one.padded(x_ND, lengths_B))
            states_ND = cast(Tensor, self.norm(tokens_ND))
            if self.readout is not None:
                return self.readout.padded(states_ND, given_ND, lengths_B)
            return states_ND
        arranged = arrange(lengths_B)
        if not arranged.blocks:
            return tokens_ND
        tokens_ND = tokens_ND[arranged.tokens_N]
        for block in self.blocks:
            tokens_ND = block(tokens_ND, lambda one, x_ND: one(x_ND, arranged.blocks))
        states_ND = cast(Tensor, self.norm(tokens_ND))
        if self.readout is not None:
            states_ND = self.readout(states_ND, given_ND[arranged.tokens_N], arranged.blocks)
        return states_ND[arranged.places_N]
