"""Gated: a plain table whose dimensions have gates, shared by the ids of a frequency block.

    vector = E[id] * gate[block of the id]
    trained: ids * dim * 4 bytes (fp32) + blocks * dim * 4; served: the same

The supernet of a search (``recemb search --method dnis``), which moves the gates; training alone
moves rows only. Gates begin at 1, where the table is a plain one. What a search finds is stored as
kind ``selected`` or ``pruned``.

Source: Cheng et al., "Differentiable Neural Input Search for Recommender Systems", 2020,
arXiv:2006.04466 (later Kong et al., "AutoSrh", TKDE 2022).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from recemb.physical import PhysicalTable, Uniform
from recemb.tables.frequency_blocks import block_sizes, check_ends, starts_of
from recemb.tables.kind import BlockIds, IdSpace, TableConfig, TableFeature, num_ids, spread
from recemb.tables.numbered import RowPerId


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated(TableConfig):
    """A row per id, times the gates of its block; ``dim`` is the most that a budget may leave."""

    kind: Literal["gated"] = "gated"
    """The name of the kind."""
    ends: list[int] | None = None
    """Ranks by falling training frequency at which blocks end, ascending; the last block has the
    rest of the ids. None: one block."""

    searched: ClassVar[str] = "dim"
    formula: ClassVar[str] = "E[id] * gate[block of the id]"
    memory: ClassVar[str] = "(ids + blocks) x dim"
    paper: ClassVar[str] = "Cheng et al. 2020, arXiv:2006.04466 (the supernet of search)"

    @property
    def all_ends(self) -> list[int]:
        """The ends of blocks; none where there is one block."""
        return self.ends or []

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_ends(where, self.all_ends)

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: as many rows as the id spaces have ids."""
        rows = self.part(num_ids(where, self, spaces), self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the gates."""
        return Gates(len(block_sizes(where, self, spaces, self.all_ends)), self.dim)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the dimensions up to ``dim``."""
        return range(1, self.dim + 1)

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where dim and the number of blocks agree."""
        return self.dim, len(self.all_ends)

    def build(self, features: Sequence[TableFeature]) -> "GatedKind":
        """Return the module for ``features``."""
        return GatedKind(features)


class Gates(nn.Module):
    """The gates of S blocks, in 0..1. A buffer: no optimizer of a training knows of it."""

    gate_SD: Tensor

    def __init__(self, num_blocks: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("gate_SD", torch.ones(num_blocks, dim))


class GatedKind(RowPerId):
    """Multiplies rows by the gates of their ids' blocks."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        starts = [starts_of(feature, cast(Gated, feature.config).all_ends) for feature in features]
        # Blocks of features with fewer end where no id is.
        longest = max(map(len, starts))
        padded = [own[1:-1] + [2**62] * (longest - len(own)) for own in starts]
        ends_FS = torch.tensor(padded, dtype=torch.int64).view(len(starts), -1)
        self.register_buffer("ends_FS", ends_FS, persistent=False)
        self.ends_FS: Tensor

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows times their gates."""
        ends_NS = spread(self.ends_FS, ids.feature_N)
        block_N = (ids.ids_N.unsqueeze(-1) >= ends_NS).sum(-1)
        return parts[0].squeeze(1) * cast(Gates, feature.learned).gate_SD[block_N]
