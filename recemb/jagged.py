"""Jagged ids: for each feature and each sample of a batch, a bag of ids, stored without padding.

TorchRec's ``KeyedJaggedTensor`` is the input type of the engine. The engine reads three things of
it, all of them tensors, so that it also works where torchrec is not installed and inside a traced
program; :class:`KeyedJagged` is the smallest class that has them.

                 sample 0     sample 1
    feature a    [a0, a1]     []           lengths (F, B) = [[2, 0],
    feature b    [b0]         [b1]                           [1, 1]]
    values (N,) = [a0, a1, b0, b1]

Shapes: F features, B samples, N ids in all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


def is_tracing() -> bool:
    """Return whether operations are being recorded into a TorchScript program."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


class KeyedIds(Protocol):
    """What the engine reads of a ``KeyedJaggedTensor``."""

    def keys(self) -> Sequence[str]:
        """Return the F feature names."""

    def values(self) -> Tensor:
        """Return all ids, feature by feature, sample by sample: (N,) int64."""

    def lengths(self) -> Tensor:
        """Return the size of each bag, feature by feature: (F * B,)."""


@dataclass(frozen=True, slots=True)
class KeyedJagged:
    """Keyed jagged ids with no dependency but torch; see the module for the layout."""

    names: tuple[str, ...]
    values_N: Tensor
    lengths_FB: Tensor

    def keys(self) -> tuple[str, ...]:
        """Return the F feature names."""
        return self.names

    def values(self) -> Tensor:
        """Return all ids: (N,)."""
        return self.values_N

    def lengths(self) -> Tensor:
        """Return the bag sizes: (F * B,)."""
        return self.lengths_FB.reshape(-1)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "KeyedJagged":
        """Return the ids on a device; these ones if they are there."""
        return KeyedJagged(
            self.names,
            self.values_N.to(device, non_blocking=non_blocking),
            self.lengths_FB.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "KeyedJagged":
        """Return the ids in page-locked memory, from which copies to a GPU need not wait."""
        return KeyedJagged(self.names, self.values_N.pin_memory(), self.lengths_FB.pin_memory())


class Jagged(NamedTuple):
    """The bags of one feature, or their vectors: ``values`` (N, ...) and ``lengths`` (B,)."""

    values: Tensor
    lengths: Tensor


Ids = Tensor | Jagged
"""One id per sample, (B,) int64; or a bag of ids per sample."""
Vectors = Tensor | Jagged
"""One vector per sample, (B, D); or, unpooled, a sequence of vectors per sample."""


def split_keyed(keyed: KeyedIds) -> dict[str, Jagged]:
    """Return the bags of each feature by name; views of ``keyed``, no copies."""
    names = list(keyed.keys())
    lengths_FB = keyed.lengths().reshape(len(names), -1)
    blocks = split_rows(keyed.values(), lengths_FB.sum(1))
    return {name: Jagged(blocks[f], lengths_FB[f]) for f, name in enumerate(names)}


def sizes_of(tensors: Sequence[Tensor]) -> Tensor:
    """Return the first size of each tensor as int64, readable by a traced program."""
    device = tensors[0].device
    if not is_tracing():
        return torch.tensor([len(tensor) for tensor in tensors], device=device)
    return torch.cat([torch._shape_as_tensor(tensor)[:1] for tensor in tensors]).to(device)


def split_rows(values: Tensor, sizes_F: Tensor) -> list[Tensor]:
    """Cut ``values`` into consecutive blocks of ``sizes_F`` rows; views, no copies.

    A traced program must read the sizes at run time, so there each block is a slice whose ends
    are tensors; otherwise they become integers at once, which costs one device synchronisation.
    """
    if not is_tracing():
        return list(values.split(sizes_F.tolist()))
    ends_F = sizes_F.cumsum(0)
    starts_F = ends_F - sizes_F
    return [values[starts_F[f] : ends_F[f]] for f in range(sizes_F.shape[0])]


def bag_of_each(lengths_B: Tensor) -> Tensor:
    """Return for each of the N ids the number of the bag that holds it."""
    bags_B = torch.arange(lengths_B.shape[0], device=lengths_B.device)
    return torch.repeat_interleave(bags_B, lengths_B)


def position_of_each(lengths_B: Tensor) -> Tensor:
    """Return for each of the N ids its position in its bag, from 0."""
    starts_B = lengths_B.cumsum(0) - lengths_B
    # A tensor where the stubs want a number: so a traced program reads it at run time.
    total: Any = lengths_B.sum()
    index_N = torch.arange(total, device=lengths_B.device)
    return index_N - torch.repeat_interleave(starts_B, lengths_B)


def to_padded(jagged: Jagged, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return (B, L, ...) with bags side by side, and the (B, L) mask that is true on real ids.

    L is the longest bag of the batch, at least 1 so that an all-empty batch keeps its shape.
    """
    values, lengths_B = jagged
    longest: Any = torch.cat([lengths_B, lengths_B.new_ones(1)]).max()
    mask_BL = torch.arange(longest, device=values.device) < lengths_B.unsqueeze(1)
    padded = values.new_full((*mask_BL.shape, *values.shape[1:]), fill)
    padded[mask_BL] = values
    return padded, mask_BL
