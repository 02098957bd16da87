"""FastRP: vectors of users and items without training, from random numbers that propagate.

    y^(0) = D^(1/2 + e) R,   y^(k) = A y^(k-1),   x = sum over k = 1 .. of weight_k y^(k) / |y^(k)|

R is a very sparse random projection, D holds degrees, A_vw = 1 / sqrt(degree_v degree_w) on edges.
Rows of unit length are those that powers of the random walk D^-1 (edges) would give, of which A
differs by factors per row.

Shapes: N nodes, D elements of a vector.

Source: Chen et al., "Fast and Accurate Network Embeddings via Very Sparse Random Projection",
CIKM 2019, arXiv:1908.11512; values of R as in Achlioptas, PODS 2001.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from recemb.errors import RecembError
from recemb.models.propagation import BipartiteGraph


@dataclass(frozen=True, kw_only=True, slots=True)
class FastRP:
    """How random numbers propagate."""

    weights: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    """Of one step along edges, of two, and so on."""
    degree_exponent: float = -0.5
    """e: below 0, nodes with many edges count for less."""
    scale: float = 0.1
    """Root of the mean square of the elements, where tables begin with the vectors."""
    seed: int = 1
    """Of the random numbers."""

    def check(self) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        if not any(self.weights):
            raise RecembError(f"initial: weights must not all be 0, got {self.weights}")
        if not self.scale > 0:
            raise RecembError(f"initial: scale must be above 0, got {self.scale}")

    @torch.no_grad()
    def vectors(self, graph: BipartiteGraph, dim: int) -> Tensor:
        """Return vectors of all nodes, users first; zeros for those without edges: (N, D)."""
        generator = torch.Generator().manual_seed(self.seed)
        draw_ND = torch.rand(graph.num_nodes, dim, generator=generator)
        sign_ND = (draw_ND > 5 / 6).float() - (draw_ND < 1 / 6).float()
        matrix = graph.matrix
        degree_N1 = matrix.offsets_N1.diff().unsqueeze(1).float()
        y_ND = sign_ND.to(degree_N1) * degree_N1.clamp(min=1) ** (0.5 + self.degree_exponent)
        x_ND = torch.zeros_like(y_ND)
        for weight in self.weights:
            y_ND = matrix.product(y_ND)
            x_ND += weight * F.normalize(y_ND, dim=1)
        return x_ND
