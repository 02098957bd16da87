"""Batch: what a model trains on: keyed jagged ids, numbers and labels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recemb.data.chunk import Chunk
from recemb.jagged import KeyedJagged


class Batch(NamedTuple):
    """B samples: all of a batch or, where several processes train, one process's part of it.

    Attributes:
        ids: The ids of every column; columns with one id per sample have bags of one.
        dense_BK: Numbers, as in the file.
        label_B: 0 or 1, float32.
        total: Samples of the whole batch.
    """

    ids: KeyedJagged
    dense_BK: Tensor
    label_B: Tensor
    total: int

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which copies to a GPU need not wait."""
        return self._replace(
            ids=self.ids.pin_memory(),
            dense_BK=self.dense_BK.pin_memory(),
            label_B=self.label_B.pin_memory(),
        )

    @property
    def num_samples(self) -> int:
        """B."""
        return self.label_B.shape[0]


def batch_of(chunk: Chunk, names: Sequence[str], total: int | None = None) -> Batch:
    """Return a chunk's rows as a batch, or as a part of one.

    Args:
        chunk: The rows.
        names: Of the columns with one id per row, then of the list columns.
        total: Rows of the whole batch; by default these are all.
    """
    lengths = [torch.ones_like(chunk.ids_SN, dtype=torch.int64)]
    lengths += [bags.offsets.diff().unsqueeze(0) for bags in chunk.lists]
    values = [chunk.ids_SN.reshape(-1), *(bags.values for bags in chunk.lists)]
    ids = KeyedJagged(
        tuple(names), torch.cat([part.to(torch.int64) for part in values]), torch.cat(lengths)
    )
    return Batch(ids, chunk.dense_NK, chunk.label_N, len(chunk) if total is None else total)
