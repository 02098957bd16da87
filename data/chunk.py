"""Chunk: encoded rows in memory, from which batches are cut without a loop over rows.

Shapes: N rows, S columns with one id per row, K dense columns, B rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recemb.jagged import position_of_each


class Bags(NamedTuple):
    """A list column: all ids, and (N + 1,) where each row's ids start."""

    values: Tensor
    offsets: Tensor

    def take(self, rows_B: Tensor) -> "Bags":
        """Return the bags of ``rows_B`` in that order."""
        starts_B = self.offsets[rows_B]
        lengths_B = self.offsets[rows_B + 1] - starts_B
        index = torch.repeat_interleave(starts_B, lengths_B) + position_of_each(lengths_B)
        return bags_of(self.values[index], lengths_B)


def bags_of(values: Tensor, lengths_N: Tensor) -> Bags:
    """Return the bags of consecutive ``lengths_N`` values."""
    return Bags(values, torch.cat([lengths_N.new_zeros(1), lengths_N.cumsum(0)]))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as tensors.

    Attributes:
        ids_SN: One id per row, per column.
        lists: Bags, per list column.
        dense_NK: Numbers.
        label_N: 0 or 1, or a number.
    """

    ids_SN: Tensor
    lists: tuple[Bags, ...]
    dense_NK: Tensor
    label_N: Tensor

    def __len__(self) -> int:
        return self.label_N.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        tensors = [self.ids_SN, self.dense_NK, self.label_N]
        tensors += [tensor for bags in self.lists for tensor in bags]
        return sum(tensor.nbytes for tensor in tensors)

    def take(self, rows_B: Tensor) -> "Chunk":
        """Return the rows ``rows_B`` in that order."""
        return Chunk(
            self.ids_SN[:, rows_B],
            tuple(bags.take(rows_B) for bags in self.lists),
            self.dense_NK[rows_B],
            self.label_N[rows_B],
        )


def concatenate(chunks: Sequence[Chunk]) -> Chunk:
    """Return the rows of all chunks, one after the other."""
    if len(chunks) == 1:
        return chunks[0]
    return Chunk(
        torch.cat([chunk.ids_SN for chunk in chunks], dim=1),
        tuple(
            bags_of(
                torch.cat([bags.values for bags in same]),
                torch.cat([bags.offsets.diff() for bags in same]),
            )
            for same in zip(*(chunk.lists for chunk in chunks), strict=True)
        ),
        torch.cat([chunk.dense_NK for chunk in chunks]),
        torch.cat([chunk.label_N for chunk in chunks]),
    )
