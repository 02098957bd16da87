"""Magnitude pruning: of a plain table the elements of large magnitude stay (kind ``pruned``).

Source: Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS
2015, arXiv:1506.02626.
"""

from collections.abc import Sequence
from typing import Any

from recemb.compress.method import FullOnly, TrainedTable
from recemb.tables.kind import TableConfig, TableContent
from recemb.tables.pruned import Elements, Pruned


class MagnitudePruning(FullOnly):
    """Size: the number of elements that stay."""

    name = "prune"

    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the numbers of elements."""
        return range(1, table.content.values["rows"].numel() + 1)

    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return a configuration of kind pruned."""
        plain = self.plain(table)
        return Pruned(
            dim=plain.dim, init_scale=plain.init_scale, project=plain.project, num_values=size
        )

    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Keep the elements that are largest for their rank in their row."""
        elements = Elements.of(table.content.values["rows"], size)
        return TableContent(config=self.config(table, size), values={}, learned=elements)
