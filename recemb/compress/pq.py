"""Product quantisation: a plain table becomes one of codes and a codebook (kind ``codes``).

Each row is cut in P parts; the parts at one place are clustered by k-means into K = 2^bits centres,
and a row keeps the numbers of its parts' centres.

Source: Jegou et al., "Product Quantization for Nearest Neighbor Search", TPAMI 2011.
"""

from collections.abc import Sequence
from typing import Any

import torch

from recemb.compress.kmeans import assign, kmeans
from recemb.compress.method import FullOnly, TrainedTable
from recemb.tables.codes import Codebook, Codes, pack
from recemb.tables.kind import TableConfig, TableContent

CHUNK_ROWS = 2**15
"""Rows whose codes are found and packed at once."""


class ProductQuantization(FullOnly):
    """Size: the number of parts and the bits of a code."""

    name = "pq"

    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the pairs that no smaller one beats.

        Of two sizes the one with more bits of codes per row is the better; of equally many bits,
        the one with fewer parts, whose centres describe more elements together.
        """
        dim, rows = self.plain(table).dim, len(table.content.values["rows"])
        pairs = [
            (parts, bits)
            for parts in range(1, dim + 1)
            for bits in range(1, 9)
            if dim % parts == 0 and 2**bits <= rows
        ]
        order = {pair: (table.bytes_of(self.config(table, pair)), _rank(pair)) for pair in pairs}
        best: list[tuple[int, int]] = []
        for pair in sorted(pairs, key=order.__getitem__):
            if not best or _rank(pair) < _rank(best[-1]):
                best.append(pair)
        return best

    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return a configuration of kind codes."""
        plain, (parts, bits) = self.plain(table), size
        return Codes(
            dim=plain.dim,
            init_scale=plain.init_scale,
            project=plain.project,
            num_parts=parts,
            num_bits=bits,
        )

    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Cluster the parts of the rows."""
        parts, bits = size
        config = self.config(table, size)
        points_PVd = table.content.values["rows"].unflatten(1, (parts, -1)).transpose(0, 1)
        centers_PKd = kmeans(points_PVd, 2**bits, torch.Generator().manual_seed(0))
        codebook = Codebook(parts, 2**bits, config.dim, config.init_scale)
        codebook.values_PKd.data.copy_(centers_PKd)
        packed = [
            pack(assign(some_Pnd, centers_PKd)[0].T, bits)
            for some_Pnd in points_PVd.split(CHUNK_ROWS, 1)
        ]
        return TableContent(config=config, values={"codes": torch.cat(packed)}, learned=codebook)


def _rank(pair: tuple[int, int]) -> tuple[int, int]:
    """Return a key by which better sizes come first."""
    parts, bits = pair
    return -parts * bits, parts
