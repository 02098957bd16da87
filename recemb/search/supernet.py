"""Supernets: the tables that a search trains, and what a trained one holds.

Shapes: V ids of a table, S blocks, D dimensions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.search.dnis import gates_of
from recemb.tables.frequency_blocks import ranks
from recemb.tables.full import Full
from recemb.tables.gated import Gated
from recemb.tables.kind import IdSpace, TableConfig, TableContent, num_ids
from recemb.tables.pruned import Elements, Pruned
from recemb.tables.selected import Selected


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
    """Return the supernet of a plain table."""
    total = num_ids(f"table {name!r}", config, spaces)
    return Gated(
        dim=config.dim,
        init_scale=config.init_scale,
        precision=config.precision,
        step=config.step,
        sharding=config.sharding,
        project=config.project,
        ends=block_ends(total, num_blocks, least),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Searched:
    """A table of a trained supernet.

    Attributes:
        name: Its name.
        config: Of the supernet.
        spaces: Its id spaces.
        rows_VD: Rows times their gates, by number of the id.
        block_V: The block of each id.
        counts_V: Training counts, 0 where an id was not counted.
    """

    name: str
    config: Gated
    spaces: tuple[IdSpace, ...]
    rows_VD: Tensor
    block_V: Tensor
    counts_V: Tensor

    @property
    def where(self) -> str:
        """What starts the message of an error."""
        return f"table {self.name!r}"

    @property
    def num_blocks(self) -> int:
        """S."""
        return len(self.config.all_ends) + 1

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
            ends=config.all_ends,
            keep=[list(kept) for kept in keep],
        )

    def content(self, keep: Sequence[Sequence[int]]) -> TableContent:
        """Return the rows of the dimensions that blocks keep, gates multiplied in."""
        values = {
            str(block): self.rows_VD[self.block_V == block][:, list(kept)]
            for block, kept in enumerate(keep)
            if kept
        }
        return TableContent(config=self.selected(keep), values=values, learned=None)

    def sparse(self, place_M: Tensor) -> TableContent:
        """Return the elements at places, gates multiplied in, numbered row by row."""
        config = Pruned(**self.common(), num_values=len(place_M))
        elements = Elements.at(self.rows_VD, place_M)
        return TableContent(config=config, values={}, learned=elements)


@torch.no_grad()
def searched_tables(embeddings: Embeddings) -> dict[str, Searched]:
    """Return the tables of a trained supernet that were searched."""
    found = {}
    for name, gates in gates_of(embeddings).items():
        config, spaces = embeddings.tables[name], tuple(embeddings.spaces[name])
        assert isinstance(config, Gated)
        block_V = ranks(f"table {name!r}", spaces, config.all_ends)
        found[name] = Searched(
            name=name,
            config=config,
            spaces=spaces,
            rows_VD=embeddings.content(name).values["rows"] * gates.gate_SD[block_V],
            block_V=block_V,
            counts_V=torch.cat([_counts(space) for space in spaces]),
        )
    return found


def _counts(space: IdSpace) -> Tensor:
    counts_V = torch.zeros(space.num_ids or 0)
    if space.counts_V is not None:
        counts_V[: len(space.counts_V)] = space.counts_V.float()
    return counts_V


def other_bytes(embeddings: Embeddings, searched: Mapping[str, Searched]) -> int:
    """Return the serving bytes of the tables that were not searched."""
    return sum(
        config.serving_bytes(f"table {name!r}", embeddings.spaces[name])
        for name, config in embeddings.tables.items()
        if name not in searched
    )
