"""Precisions: the same tables with rows of fewer bits.

    fp16, bf16: the nearest number of 16 bits
    int8, int4: value = code * scale + bias, both fp16 and of the row: from its smallest element to
                its largest in 2^bits - 1 equal steps

Any kind that stores rows can have them at any precision: the rows store reads them as fp32.

Source: Guan et al., "Post-Training 4-bit Quantization on Embedding Tables", NeurIPS 2019 workshop,
arXiv:1911.02079 (there, as here, a scale and a bias per row).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from recemb.compress.method import Method, TrainedTable
from recemb.physical import INTEGERS
from recemb.tables.kind import TableConfig, TableContent

Quantized = Literal["fp16", "bf16", "int8", "int4"]
"""The precisions that a trained table may be given."""


class ToPrecision(Method):
    """Rows at another precision.

    Args:
        precision: Which.
    """

    has_size = False

    def __init__(self, precision: Quantized) -> None:
        self.precision: Quantized = precision
        self.name = precision

    def refusal(self, table: TrainedTable) -> str | None:
        """Return a reason for kinds without rows."""
        if not table.content.values:
            return f"it is of kind {table.kind}, which stores no rows"
        return None

    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the one there is."""
        return [self.precision]

    def unsized(self) -> Any:
        """Return the one there is."""
        return self.precision

    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return the same with another precision."""
        step: Literal["row", "table"] = "row" if self.precision in INTEGERS else "table"
        return replace(table.content.config, precision=self.precision, step=step)

    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Return the same rows: the rows store rounds them."""
        return replace(table.content, config=self.config(table, size))

    def total(self, tables: Mapping[str, TrainedTable]) -> int:
        """Return the bytes of tables of which all that get smaller have this precision."""
        return sum(
            min(one.num_bytes, one.num_bytes if self.refusal(one) else self._bytes(one))
            for one in tables.values()
        )

    def _bytes(self, table: TrainedTable) -> int:
        return table.bytes_of(self.config(table, self.precision))

    def advice(self, tables: Mapping[str, TrainedTable], room: int) -> str:
        """Return the highest precision that fits, or the next thing to try."""
        for precision in get_args(Quantized):
            needed = ToPrecision(precision).total(tables)
            if needed <= room:
                return f"or choose {precision}, the most precise that fits"
        return "or choose pq, svd, prune or dedup: no precision fits"
