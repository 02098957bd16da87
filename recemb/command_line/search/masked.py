"""What methods have in common whose supernet masks elements of rows."""

from collections.abc import Mapping

from torch import Tensor

from recemb.command_line.search.stages import Found, Search, Section
from recemb.embeddings import Embeddings
from recemb.search.supernet import block_ends, other_bytes
from recemb.search.within_budget import SCORES, Keep, best_columns, num_elements
from recemb.tables.kind import num_ids


class MaskedSearch(Search):
    """A method whose supernet masks elements: what it leaves may be columns or elements."""

    def dense(self, keep: Keep, report: Section) -> Found:
        """Return the dimensions that blocks keep."""
        contents = {name: one.content(keep[name]) for name, one in self.searched.items()}
        dimensions = {
            name: [
                len(kept) * share
                for kept, share in zip(keep[name], one.kept_of_blocks(), strict=True)
            ]
            for name, one in self.searched.items()
        }
        return Found(contents=contents, dimensions=dimensions, report={"keep": keep, **report})

    def sparse(self, place: Mapping[str, Tensor], report: Section) -> Found:
        """Return the elements at places."""
        contents = {name: one.sparse(place[name]) for name, one in self.searched.items()}
        dimensions = {
            name: one.elements_of_blocks(place[name]) for name, one in self.searched.items()
        }
        return Found(contents=contents, dimensions=dimensions, report=report)

    def best_keep(self, score: str) -> Keep:
        """Return the dimensions of blocks that are worth most and fit the budget."""
        return best_columns(self.searched, SCORES[score](self.searched), self.room)

    def blocks(self) -> dict[str, list[int]]:
        """Return the ranks at which the blocks of each table end."""
        ends = {}
        for name in self.names:
            total = num_ids(f"table {name!r}", self.given[name], self.embeddings.spaces[name])
            ends[name] = block_ends(total, self.options.blocks, self.options.block_ids)
        return ends

    def elements_that_fit(self, embeddings: Embeddings) -> int:
        """Return how many elements of the plain tables of a model fit the budget."""
        budget = self.asked(embeddings)
        assert budget is not None
        tables = {
            name: (config, num_ids(f"table {name!r}", config, embeddings.spaces[name]))
            for name, config in embeddings.tables.items()
            if name in self.names
        }
        return num_elements(tables, budget - other_bytes(embeddings, self.names))
