"""What every table kind is: a configuration, an encode and a compose.

    ids --encode--> row numbers --gather--> row vectors --compose--> one vector per id

A kind knows no rows store. It says which physical tables it wants (its *parts*), turns ids into row
numbers of them, and turns the gathered rows into vectors. One :class:`TableKind` module serves all
features of its kind whose parts are equally wide, so encoding is a handful of tensor operations
however many features there are.

Shapes: F features of the module, N ids of all of them (feature by feature), T >= N rows read (an
id may read several, one after the other), d elements per row, D elements per vector.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import PhysicalTable


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig(ABC):
    """What a user says of one table. A kind is a subclass with a literal field ``kind``."""

    dim: int
    """Elements per row; at least 1."""
    init_scale: float = 0.05
    """Rows start uniform in -init_scale..init_scale."""

    searched: ClassVar[str] = "nothing"
    """What a byte budget is solved for."""

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` that starts with ``where`` if a setting is out of range."""
        if self.dim < 1:
            raise RecembError(f"{where}: dim must be at least 1, got {self.dim}")
        if not 0 < self.init_scale < math.inf:
            raise RecembError(f"{where}: init_scale must be above 0, got {self.init_scale}")

    @abstractmethod
    def physical_tables(self, where: str, spaces: "Sequence[IdSpace]") -> dict[str, PhysicalTable]:
        """Return the parts, named; the same names in the same order for every table of a kind.

        Args:
            where: Starts the message of an error.
            spaces: The distinct id spaces of the features that read the table.
        """

    @abstractmethod
    def output_dim(self, lookups: int) -> int:
        """Return D for a feature that does ``lookups`` lookups."""

    def reads_per_id(self, lookups: int) -> int:
        """Return how many rows of each part an id reads."""
        return lookups

    def signature(self, lookups: int) -> Hashable:
        """Return a key; features of a kind with equal keys are composed in one call."""
        return self.reads_per_id(lookups), self.output_dim(lookups)

    @abstractmethod
    def build(self, features: "Sequence[TableFeature]") -> "TableKind":
        """Return the module that serves ``features``, all of them of this kind."""


@dataclass(frozen=True, slots=True)
class IdSpace:
    """A numbering of ids: its name, and how many there are (None: any 64-bit value)."""

    name: str
    num_ids: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFeature:
    """One feature as its kind sees it."""

    name: str
    table: str
    config: TableConfig
    space: IdSpace
    lookups: int
    parts: tuple[PhysicalTable, ...]
    base_rows: tuple[int, ...]
    """Per part, what the rows store wants added to the row numbers of this feature's table."""

    @property
    def reads(self) -> int:
        """How many rows of each part an id reads."""
        return self.config.reads_per_id(self.lookups)


class TableKind(nn.Module, ABC):
    """Encode and compose for all features of one kind whose parts are equally wide."""

    @abstractmethod
    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the row numbers to read, per part: (T,) int64, the reads of an id adjacent.

        Args:
            ids_N: Ids of all features, feature by feature.
            feature_N: Which of the module's features each id belongs to, ascending.
        """

    @abstractmethod
    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature) -> Tensor:
        """Return the (N, D) vectors of features that share the signature of ``feature``.

        Args:
            parts: Gathered rows per part: (N, reads per id, d).
            feature: Any one of the features, for what they have in common.
        """


def spread(values_F: Tensor, feature_N: Tensor) -> Tensor:
    """Return the value of each id's feature: the loop over features that encode does not do."""
    return values_F.index_select(0, feature_N)


def int_buffer(values: Sequence[int]) -> Tensor:
    """Return per-feature constants as an int64 tensor, to be registered as a buffer."""
    return torch.tensor(values, dtype=torch.int64)
