"""Rows of bytes: vectors as int8 with one scale per row, for searches that need no more.

Shapes: V rows, N ids, d elements of a vector.
"""

import torch
from torch import Tensor, nn

LARGEST = 127
"""Of int8, used symmetrically."""


class ByteRows(nn.Module):
    """Vectors as int8 with one scale per row.

    Args:
        vectors_Vd: fp32.
    """

    def __init__(self, vectors_Vd: Tensor) -> None:
        super().__init__()
        scale_V = vectors_Vd.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
        self.register_buffer("scale_V", scale_V)
        self.register_buffer("rows_Vd", (vectors_Vd / scale_V.unsqueeze(1)).round().to(torch.int8))

    def forward(self, ids_N: Tensor) -> Tensor:
        """Return the vectors of ids: (N, d) fp32."""
        rows_Nd = self.get_buffer("rows_Vd").index_select(0, ids_N).to(torch.float32)
        return rows_Nd * self.get_buffer("scale_V").index_select(0, ids_N).unsqueeze(1)

    def error(self, ids_N: Tensor) -> Tensor:
        """Return how far an element of each vector may be from the one it stands for: (N, d)."""
        half_N = 0.501 * self.get_buffer("scale_V").index_select(0, ids_N)
        return half_N.unsqueeze(1).expand(-1, self.get_buffer("rows_Vd").shape[1])
