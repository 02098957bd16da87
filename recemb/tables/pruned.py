"""Pruned: a table of which only some elements are stored; the others are 0.

    vector[column_m] = value_m for the elements m of an id, 0 elsewhere
    bytes = kept elements * (4 + 1 or 2) + (ids + 1) * 4

What magnitude pruning leaves: values, their columns, and where each id's begin. Without a table
that has been pruned (``recemb compress``), the places are random ones. Values are trained on as
they are; the places stay.

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS
2015, arXiv:1506.02626; the division by ranks is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.jagged import bag_of_each, position_of_each
from recemb.physical import PhysicalTable
from recemb.tables.flags import unpacked
from recemb.tables.kind import BlockIds, IdSpace, TableConfig, TableFeature, num_ids, spread
from recemb.tables.numbered import NumberedIds


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned(TableConfig):
    """``num_values`` elements of a plain table."""

    kind: Literal["pruned"] = "pruned"
    """The name of the kind."""
    num_values: int | None = None
    """Elements that are stored, at least 1; a share or a budget may choose it."""
    kept: str | None = None
    """Which elements are stored, row by row, as :func:`recemb.tables.flags.packed` writes it (None:
    random ones, until a checkpoint says which)."""

    searched: ClassVar[str] = "num_values"
    formula: ClassVar[str] = "E[id] with all but the kept elements 0"
    memory: ClassVar[str] = "kept values, their columns, and where each id's begin"
    paper: ClassVar[str] = "Han et al. 2015, arXiv:1506.02626"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        if self.num_values is not None and self.num_values < 1:
            raise RecembError(f"{where}: num_values must be at least 1, got {self.num_values}")
        if self.kept is not None and self.num_values is None:
            raise RecembError(
                f"{where}: kept says which of num_values elements are stored, got no num_values; "
                "set it, or drop kept"
            )
        if self.precision != "fp32":
            raise RecembError(
                f"{where}: kind pruned stores no rows, so it has no precision, got "
                f"{self.precision!r}; drop it"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return no part: elements are not rows."""
        total = num_ids(where, self, spaces) * self.dim
        if self.num_values is not None and self.num_values > total:
            raise RecembError(
                f"{where}: num_values must be at most {total}, all elements of the table, got "
                f"{self.num_values}"
            )
        return {}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the stored elements."""
        assert self.num_values is not None
        total = num_ids(where, self, spaces)
        elements = Elements(total, self.dim, self.num_values, self.init_scale)
        if self.kept is not None and elements.value_M.device.type != "meta":
            elements.put(self.places(where, total))
        return elements

    def places(self, where: str, total: int) -> Tensor:
        """Return the places of the elements that ``kept`` says, numbered row by row: (M,)."""
        assert self.kept is not None
        flags = unpacked(f"{where}: kept", self.kept, total * self.dim)
        place_M = flags.nonzero().squeeze(1)
        if len(place_M) != self.num_values:
            raise RecembError(
                f"{where}: num_values must be {len(place_M)}, the elements that kept says, got "
                f"{self.num_values}"
            )
        return place_M

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the numbers of elements."""
        return range(1, num_ids(where, self, spaces) * self.dim + 1)

    def build(self, features: Sequence[TableFeature]) -> "PrunedKind":
        """Return the module for ``features``."""
        return PrunedKind(features)


class Elements(nn.Module):
    """M stored elements of a (V, D) table, row by row."""

    column_M: Tensor
    offset_V: Tensor

    def __init__(self, num_ids: int, dim: int, num_values: int, init_scale: float) -> None:
        super().__init__()
        self.dim = dim
        values_M = torch.empty(num_values).uniform_(-init_scale, init_scale)
        self.value_M = nn.Parameter(values_M)
        dtype = torch.uint8 if dim <= 256 else torch.int32
        place_M = torch.zeros(num_values, dtype=torch.int64)
        if values_M.device.type != "meta":
            place_M = torch.randperm(num_ids * dim)[:num_values].sort().values
        self.register_buffer("column_M", (place_M % dim).to(dtype))
        offsets = torch.searchsorted(place_M, torch.arange(num_ids + 1) * dim)
        self.register_buffer("offset_V", offsets.to(torch.int32))

    @classmethod
    def of(cls, rows_VD: Tensor, num_values: int) -> "Elements":
        """Return elements of a table: those that are largest for their place in their row.

        The largest of the whole table would be those of a few ids and leave many ids none. So an
        element's magnitude counts divided by its rank in its row: 1 for the row's largest, 2 for
        the next.
        """
        size_VD = rows_VD.abs()
        rank_VD = size_VD.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
        return cls.at(rows_VD, (size_VD / rank_VD).flatten().topk(num_values).indices)

    @classmethod
    def at(cls, rows_VD: Tensor, place_M: Tensor) -> "Elements":
        """Return the elements of a table at places, its elements numbered row by row."""
        num_ids, dim = rows_VD.shape
        elements = cls(num_ids, dim, len(place_M), 1.0)
        place_M = place_M.sort().values
        elements.value_M.data.copy_(rows_VD.flatten()[place_M])
        elements.put(place_M)
        return elements

    def put(self, place_M: Tensor) -> None:
        """Let the values be those at ascending places, elements numbered row by row."""
        dim, count = self.dim, len(self.offset_V)
        self.column_M.copy_(place_M % dim)
        self.offset_V.copy_(torch.searchsorted(place_M, torch.arange(count) * dim))


class PrunedKind(NumberedIds):
    """Writes an id's elements into zeros."""

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return nothing: there are no rows."""
        self.check_ids(ids_N, feature_N)
        return ()

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return vectors that are 0 but for their elements."""
        elements = cast(Elements, feature.learned)
        number_N = ids.ids_N + spread(self.first_id_F, ids.feature_N)
        start_N = elements.offset_V[number_N].to(torch.int64)
        lengths_N = elements.offset_V[number_N + 1].to(torch.int64) - start_N
        element_T = torch.repeat_interleave(start_N, lengths_N) + position_of_each(lengths_N)
        place_T = bag_of_each(lengths_N) * feature.config.dim + elements.column_M[element_T]
        zeros_ND = start_N.new_zeros((), dtype=torch.float32).expand(
            start_N.shape[0], feature.config.dim
        )
        flat = zeros_ND.reshape(-1).index_put((place_T,), elements.value_M[element_T])
        vectors_ND: Tensor = flat.unflatten(0, (-1, feature.config.dim))
        return vectors_ND
