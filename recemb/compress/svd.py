"""Low rank: a plain table becomes a narrower one and a matrix back to the width the model sees.

    E = U S V^T    rows = U_r S_r    projection = V_r

which is the nearest table of rank r in the least squares sense. The singular values are folded into
the rows. Where the table has a projection already, their product is what is approximated.

Source: Eckart and Young, "The Approximation of One Matrix by Another of Lower Rank", Psychometrika
1936.

Shapes: V rows, D elements per row, O elements that the model sees, r the rank.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recemb.compress.method import FullOnly, TrainedTable, storage
from recemb.tables.kind import TableConfig, TableContent

CHUNK_ROWS = 2**18
"""Rows that are held in double precision at once."""


class LowRank(FullOnly):
    """Size: the rank."""

    name = "svd"

    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the ranks."""
        plain = self.plain(table)
        return range(1, min(plain.dim, plain.project or plain.dim) + 1)

    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return a narrower table with a projection."""
        plain = self.plain(table)
        return replace(plain, dim=size, project=plain.project or plain.dim, **storage(plain))

    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Project the rows on the first right singular vectors."""
        rows_VD, given_OD = table.content.values["rows"], table.content.projection_OD
        basis_Or = right_singular_vectors(rows_VD, given_OD)[:, :size].to(torch.float32)
        onto_Dr = basis_Or if given_OD is None else given_OD.T @ basis_Or
        return TableContent(
            config=self.config(table, size),
            values={"rows": rows_VD @ onto_Dr},
            learned=None,
            projection_OD=basis_Or,
        )


def right_singular_vectors(rows_VD: Tensor, projection_OD: Tensor | None) -> Tensor:
    """Return V of ``rows_VD @ projection_OD.T``, by falling singular value: (O, O) float64.

    From the small product of the matrix with itself; in double precision that loses nothing which
    single precision has.
    """
    gram = torch.zeros(rows_VD.shape[1], rows_VD.shape[1], dtype=torch.float64)
    for some_nD in rows_VD.split(CHUNK_ROWS):
        some_nD = some_nD.to(torch.float64)
        gram += some_nD.T @ some_nD
    if projection_OD is not None:
        gram = projection_OD.double() @ gram @ projection_OD.double().T
    rising_OO: Tensor = torch.linalg.eigh(gram).eigenvectors
    return rising_OO.flip(1)
