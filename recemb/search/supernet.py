"""Supernets: the tables that a search trains, and what a trained one holds.

Shapes: V ids of a table, S blocks, D dimensions.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.dnis import gates_of
from recemb.search.optembed import kept_rows, thresholds_of
from recemb.search.pep import margins, soft_thresholds_of
from recemb.tables.candidate_dims import CandidateDims
from recemb.tables.flags import packed
from recemb.tables.frequency_blocks import ranks
from recemb.tables.full import Full
from recemb.tables.gated import Gated
from recemb.tables.kind import IdSpace, TableConfig, TableContent, num_ids
from recemb.tables.pruned import Elements, Pruned
from recemb.tables.selected import Selected
from recemb.tables.soft_thresholded import SoftThresholded
from recemb.tables.thresholded import Thresholded


def reason_to_stay(config: TableConfig) -> str | None:
    """Return why a table is not searched, or None where it is."""
    if not isinstance(config, Full):
        return f"it is of kind {config.kind_name}, and a search is of kind full"
    if config.budget is not None or config.share is not None:
        return "it has a budget of its own"
    return None


def block_ends(total: int, num_blocks: int, least: int) -> list[int]:
    """Return the ranks at which equal blocks of ids end.

    Args:
        total: Ids of the table.
        num_blocks: How many blocks there are at most.
        least: Ids that a block has at least; a table with fewer is one block.
    """
    count = max(1, min(num_blocks, total // least))
    return [total * block // count for block in range(1, count)]


def gated(name: str, config: Full, spaces: Sequence[IdSpace], num_blocks: int, least: int) -> Gated:
    """Return the supernet of a plain table whose blocks have gates."""
    total = num_ids(f"table {name!r}", config, spaces)
    return Gated(**_common(config), ends=block_ends(total, num_blocks, least))


def thresholded(name: str, config: Full, spaces: Sequence[IdSpace]) -> Thresholded:
    """Return the supernet of a plain table whose rows have a threshold.

    Raises:
        RecembError: If it serves several id spaces, which could not have widths of their own.
    """
    if len(spaces) > 1:
        raise RecembError(
            f"table {name!r}: optembed finds a width for each id space, got one table for "
            f"{[space.name for space in spaces]}; give each a table of its own"
        )
    num_ids(f"table {name!r}", config, spaces)
    return Thresholded(**_common(config))


def soft_thresholded(
    name: str, config: Full, spaces: Sequence[IdSpace], start: float
) -> SoftThresholded:
    """Return the supernet of a plain table whose elements have thresholds."""
    num_ids(f"table {name!r}", config, spaces)
    return SoftThresholded(**_common(config), start=start)


def candidate_dims(name: str, config: Full, spaces: Sequence[IdSpace]) -> CandidateDims:
    """Return the supernet of a plain table that is read at several widths.

    Raises:
        RecembError: If it is behind a matrix already.
    """
    num_ids(f"table {name!r}", config, spaces)
    if config.project is not None:
        raise RecembError(
            f"table {name!r}: autodim finds a matrix for each table, got one with project "
            f"{config.project}; drop it"
        )
    return CandidateDims(**_common(config))


def _common(config: Full) -> dict[str, Any]:
    """Return the settings that a supernet has from the plain table."""
    names = ("dim", "init_scale", "precision", "step", "sharding", "project")
    return {name: getattr(config, name) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """A table of a trained supernet.

    Attributes:
        name: Its name.
        config: Of the supernet.
        ends: Ranks at which its blocks end.
        spaces: Its id spaces.
        rows_VD: Masked rows, by number of the id: times their gates, or 0 for dropped ids.
        block_V: The block of each id.
        counts_V: Training counts, 0 where an id was not counted.
        kept_V: Which ids have rows (None: all).
        begun_VD: The rows from which what is found is trained, where those are others.
    """

    name: str
    config: TableConfig
    ends: list[int]
    spaces: tuple[IdSpace, ...]
    rows_VD: Tensor
    block_V: Tensor
    counts_V: Tensor
    kept_V: Tensor | None = None
    begun_VD: Tensor | None = None

    @property
    def first_rows(self) -> Tensor:
        """The rows from which what is found is trained."""
        return self.rows_VD if self.begun_VD is None else self.begun_VD

    @property
    def where(self) -> str:
        """What starts the message of an error."""
        return f"table {self.name!r}"

    @property
    def num_blocks(self) -> int:
        """S."""
        return len(self.ends) + 1

    def common(self) -> dict[str, Any]:
        """Return the settings that a table keeps whatever is found."""
        config = self.config
        return {"dim": config.dim, "init_scale": config.init_scale, "project": config.project}

    def selected(self, keep: Sequence[Sequence[int]]) -> Selected:
        """Return the configuration in which blocks keep some dimensions."""
        config = self.config
        return Selected(
            **self.common(),
            precision=config.precision,
            step="row" if config.step == "learned" else config.step,
            sharding=config.sharding,
            ends=self.ends or None,
            keep=[list(kept) for kept in keep],
            kept_ids=None if self.kept_V is None else packed(self.kept_V),
        )

    def content(self, keep: Sequence[Sequence[int]]) -> TableContent:
        """Return the masked rows of the dimensions that blocks keep."""
        config = self.selected(keep)
        own_V = self.block_V if self.kept_V is None else self.block_V.where(self.kept_V, -1)
        values = {
            str(block): self.first_rows[own_V == block][:, list(kept)]
            for block, kept in enumerate(keep)
            if kept
        }
        learned = config.learned(self.where, self.spaces)
        return TableContent(config=config, values=values, learned=learned)

    def sparse(self, place_M: Tensor) -> TableContent:
        """Return the elements at places, numbered row by row."""
        is_kept_X = torch.zeros(self.rows_VD.numel(), dtype=torch.bool)
        is_kept_X[place_M] = True
        config = Pruned(**self.common(), num_values=len(place_M), kept=packed(is_kept_X))
        elements = Elements.at(self.first_rows, place_M)
        return TableContent(config=config, values={}, learned=elements)

    def kept_of_blocks(self) -> list[float]:
        """Return the share of each block's ids that have rows."""
        if self.kept_V is None:
            return [1.0] * self.num_blocks
        sums_S = torch.zeros(self.num_blocks).index_add_(0, self.block_V, self.kept_V.float())
        found: list[float] = (sums_S / self.sizes).tolist()
        return found

    def elements_of_blocks(self, place_M: Tensor) -> list[float]:
        """Return how many elements an id of each block has, on average, of those at places."""
        owner_M = torch.div(place_M, self.rows_VD.shape[1], rounding_mode="floor")
        counts_S = torch.bincount(self.block_V[owner_M], minlength=self.num_blocks)
        found: list[float] = (counts_S / self.sizes).tolist()
        return found

    @property
    def sizes(self) -> Tensor:
        """How many ids each block has."""
        return torch.bincount(self.block_V, minlength=self.num_blocks)


@torch.no_grad()
def gated_tables(embeddings: Embeddings) -> dict[str, Searched]:
    """Return the gated tables of a trained supernet."""
    found = {}
    for name, gates in gates_of(embeddings).items():
        config, spaces = embeddings.tables[name], tuple(embeddings.spaces[name])
        assert isinstance(config, Gated)
        block_V = ranks(f"table {name!r}", spaces, config.all_ends)
        found[name] = Searched(
            name=name,
            config=config,
            ends=config.all_ends,
            spaces=spaces,
            rows_VD=embeddings.content(name).values["rows"] * gates.gate_SD[block_V],
            block_V=block_V,
            counts_V=torch.cat([_counts(space) for space in spaces]),
        )
    return found


@torch.no_grad()
def plain_tables(embeddings: Embeddings, ends: Mapping[str, list[int]]) -> dict[str, Searched]:
    """Return tables as they are, in blocks.

    Args:
        embeddings: That hold them.
        ends: By table that is searched, the ranks at which its blocks end.
    """
    found = {}
    for name, own_ends in ends.items():
        spaces = tuple(embeddings.spaces[name])
        found[name] = Searched(
            name=name,
            config=embeddings.tables[name],
            ends=own_ends,
            spaces=spaces,
            rows_VD=embeddings.content(name).values["rows"].clone(),
            block_V=ranks(f"table {name!r}", spaces, own_ends),
            counts_V=torch.cat([_counts(space) for space in spaces]),
        )
    return found


@torch.no_grad()
def shrunk_tables(
    embeddings: Embeddings, begun: Embeddings, ends: Mapping[str, list[int]]
) -> dict[str, Searched]:
    """Return soft-thresholded tables, in blocks, to be trained from their first rows.

    Args:
        embeddings: The trained ones.
        begun: Those from which they were trained.
        ends: By table, the ranks at which its blocks end.
    """
    found = {}
    for name, one in plain_tables(embeddings, ends).items():
        assert name in soft_thresholds_of(embeddings)
        shrunk_VD = one.rows_VD.sign() * margins(embeddings, name).clamp(min=0)
        found[name] = replace(
            one, rows_VD=shrunk_VD, begun_VD=begun.content(name).values["rows"].clone()
        )
    return found


@torch.no_grad()
def thresholded_tables(embeddings: Embeddings) -> dict[str, Searched]:
    """Return the thresholded tables of a trained supernet, without the rows that are dropped."""
    found = {}
    for name in thresholds_of(embeddings):
        kept_V = kept_rows(embeddings, name)
        spaces = tuple(embeddings.spaces[name])
        rows_VD = embeddings.content(name).values["rows"]
        found[name] = Searched(
            name=name,
            config=embeddings.tables[name],
            ends=[],
            spaces=spaces,
            rows_VD=rows_VD * kept_V.unsqueeze(1),
            block_V=torch.zeros(len(rows_VD), dtype=torch.int64),
            counts_V=torch.cat([_counts(space) for space in spaces]),
            kept_V=None if bool(kept_V.all()) else kept_V,
        )
    return found


def _counts(space: IdSpace) -> Tensor:
    counts_V = torch.zeros(space.num_ids or 0)
    if space.counts_V is not None:
        counts_V[: len(space.counts_V)] = space.counts_V.float()
    return counts_V


def other_bytes(embeddings: Embeddings, searched: Collection[str]) -> int:
    """Return the serving bytes of the tables that were not searched."""
    return sum(
        config.serving_bytes(f"table {name!r}", embeddings.spaces[name])
        for name, config in embeddings.tables.items()
        if name not in searched
    )
