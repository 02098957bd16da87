"""Embedding layers: a table in the place of ``nn.Embedding`` or ``nn.EmbeddingBag``.

They are called as what they stand for, so that a module that has them goes on as it is.

Shapes: N ids, B bags, D elements per vector.
"""

import torch
from torch import Tensor, nn

from recemb.asked import INTEGERS
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.jagged import Jagged, bag_of_each
from recemb.pooling import Pooling, pool


class TableLayer(nn.Module):
    """A table with one feature.

    Args:
        embeddings: With one feature, of one id per sample.
        padding_idx: The id that trains nothing; None: there is none.
        padding_D: Its vector; None: zeros.

    Attributes:
        num_embeddings: How many ids there are, from 0.
        embedding_dim: D.
    """

    padding_D: Tensor | None

    def __init__(
        self,
        embeddings: Embeddings,
        padding_idx: int | None = None,
        padding_D: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        (self.name,) = embeddings.dims
        self.num_embeddings = embeddings.features[0].space.num_ids
        self.embedding_dim = embeddings.dims[self.name]
        self.padding_idx = padding_idx
        self.register_buffer("padding_D", padding_D)

    @property
    def kind(self) -> str:
        """The name of the table's kind."""
        (config,) = self.embeddings.tables.values()
        return config.kind_name

    def vectors(self, ids_N: Tensor) -> Tensor:
        """Return the (N, D) vectors of ids, that of the padding included."""
        found = self.embeddings({self.name: ids_N})[self.name]
        assert isinstance(found, Tensor)
        if self.padding_idx is None:
            return found
        padding_D = found.new_zeros(()) if self.padding_D is None else self.padding_D
        return torch.where((ids_N == self.padding_idx).unsqueeze(1), padding_D, found)

    def serving_bytes(self) -> int:
        """Return the bytes of what is served, the vector of the padding included."""
        padding = 0 if self.padding_D is None else self.padding_D.nbytes
        return sum(self.embeddings.serving_bytes().values()) + padding

    def loss(self) -> Tensor | float:
        """Return what the kind adds to the loss of the last training batch, such as dpq does."""
        return self.embeddings.loss()

    def extra_repr(self) -> str:
        """Return what ``print`` shows of the layer."""
        return f"{self.num_embeddings}, {self.embedding_dim}, kind={self.kind}"

    def _check(self, what: str, values: object) -> None:
        if not isinstance(values, Tensor) or values.dtype not in INTEGERS:
            said = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise RecembError(
                f"layer {self.name!r}: {what} must be a tensor of whole numbers, got {said}"
            )


class TableEmbedding(TableLayer):
    """Called as ``nn.Embedding``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the vectors of ids of any shape: (..., D).

        Raises:
            RecembError: If ids are no whole numbers, or outside 0..num_embeddings - 1.
        """
        self._check("ids", input)
        return self.vectors(input.reshape(-1)).view(*input.shape, self.embedding_dim)


class TableEmbeddingBag(TableLayer):
    """Called as ``nn.EmbeddingBag``.

    Args:
        embeddings: As of :class:`TableLayer`.
        mode: ``sum``, ``mean`` or ``max``.
        include_last_offset: Whether offsets end with the number of ids.
        padding_idx: The id that no bag counts.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        mode: Pooling,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(embeddings, padding_idx)
        self.mode: Pooling = mode
        self.include_last_offset = include_last_offset

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the pooled vectors of bags: (B, D); zeros where a bag is empty.

        Args:
            input: Ids, (B, size of every bag), or those of all bags one after the other.
            offsets: Where each bag begins in ``input``, where that has one dimension.
            per_sample_weights: A number for each id, in the shape of ``input``; of mode ``sum``.

        Raises:
            RecembError: If ids, offsets and weights do not fit one another, or ids are unknown.
        """
        self._check("ids", input)
        lengths_B = self._lengths(input, offsets)
        ids_N, weights_N = input.reshape(-1), per_sample_weights
        if weights_N is not None:
            if self.mode != "sum" or weights_N.shape != input.shape:
                raise RecembError(
                    f"layer {self.name!r}: per_sample_weights are for mode 'sum' and have the "
                    f"shape of the ids, {tuple(input.shape)}, got mode {self.mode!r} and shape "
                    f"{tuple(weights_N.shape)}"
                )
            weights_N = weights_N.reshape(-1)
        if self.padding_idx is not None:
            is_own_N = ids_N != self.padding_idx
            bag_T = bag_of_each(lengths_B)[is_own_N]
            lengths_B = torch.zeros_like(lengths_B).index_add(0, bag_T, torch.ones_like(bag_T))
            ids_N = ids_N[is_own_N]
            weights_N = None if weights_N is None else weights_N[is_own_N]
        vectors_ND = super().vectors(ids_N)
        if weights_N is not None:
            vectors_ND = vectors_ND * weights_N.unsqueeze(1)
        return pool(Jagged(vectors_ND, lengths_B), self.mode)

    def _lengths(self, input: Tensor, offsets: Tensor | None) -> Tensor:
        """Return the sizes of the bags: (B,) int64."""
        where = f"layer {self.name!r}"
        if input.ndim not in (1, 2) or (input.ndim == 1) != (offsets is not None):
            raise RecembError(
                f"{where}: ids must have two dimensions, or one and offsets with them, got "
                f"{input.ndim} and {'no ' if offsets is None else ''}offsets"
            )
        if offsets is None:
            return torch.full((len(input),), input.shape[1], device=input.device)
        self._check("offsets", offsets)
        ends = offsets.to(torch.int64)
        if not self.include_last_offset:
            ends = torch.cat([ends, ends.new_tensor([len(input)])])
        lengths_B = ends.diff()
        if input.device.type == "cpu":  # a GPU would have to be waited for
            fits = len(ends) and int(ends[0]) == 0 and int(ends[-1]) == len(input)
            if not fits or bool((lengths_B < 0).any()):
                raise RecembError(
                    f"{where}: offsets must rise from 0 to at most the number of ids, "
                    f"{len(input)}, got {offsets.tolist()[:8]}"
                )
        return lengths_B
