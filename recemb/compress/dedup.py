"""Deduplication: similar rows of a plain table become one (kind ``deduplicated``).

Source: Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases",
VLDB 2022, arXiv:2201.10442; :mod:`recemb.tables.deduplicated` has the method.
"""

from collections.abc import Sequence
from typing import Any

from recemb.compress.method import FullOnly, TrainedTable
from recemb.tables.deduplicated import BlockMap, Deduplicated, merge_to
from recemb.tables.kind import TableConfig, TableContent


class Deduplication(FullOnly):
    """Size: the most rows that stay. Without one, rows that are equal within the kind's default."""

    name = "dedup"

    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the numbers of rows."""
        return range(1, len(table.content.values["rows"]) + 1)

    def unsized(self) -> Any:
        """Return that the tolerance decides."""
        return None

    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return a configuration of kind deduplicated."""
        plain = self.plain(table)
        return Deduplicated(
            dim=plain.dim,
            init_scale=plain.init_scale,
            project=plain.project,
            num_blocks=size,
            precision=plain.precision,
            step=plain.step,
        )

    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Merge rows, and keep those that others stand on, as they are stored."""
        config = self.config(table, size)
        assert isinstance(config, Deduplicated)
        rows_VD = table.content.values["rows"]
        block_map = BlockMap(len(rows_VD), len(rows_VD))
        found_V = merge_to(rows_VD, size, config.tolerance, config.similarity)
        block_map.block_of_M.copy_(found_V)
        block_map.is_merged.fill_(True)
        whole = TableContent(config=config, values={"rows": rows_VD}, learned=block_map)
        return config.to_served(table.where, table.spaces, whole)
