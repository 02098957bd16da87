"""Candidate dims: a plain table read at several widths at once, whose vectors are mixed.

    vector = sum_k p_k * norm_k(W_k E[id][:d_k])
    bytes = ids * dim * 4 (fp32) + sum_k (d_k * dim * 4), and the norms

The supernet of a search (``recemb search --method autodim``), which learns one weight per candidate
width d_k: while it searches, p is a draw from a Gumbel-softmax of the weights, otherwise 1 for the
candidate of the largest weight and 0 for the others. ``norm_k`` is a batch norm without scale and
shift of its own, so that candidates compare. All candidates read the first elements of the same
rows. What a search finds is stored as a plain table of d_k elements behind a matrix (kind ``full``
with ``project``).

Shapes: N ids, D elements (``dim``), K candidates.

Source: Zhao et al., "AutoDim: Field-aware Embedding Dimension Search in Recommender Systems",
WWW 2021, arXiv:2006.14827.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.batch_norm import BatchNorm
from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import BlockIds, IdSpace, TableConfig, TableFeature, num_ids
from recemb.tables.numbered import RowPerId


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateDims(TableConfig):
    """A row per id, read at several widths; ``dim`` is the widest that a budget may leave."""

    kind: Literal["candidate_dims"] = "candidate_dims"
    """The name of the kind."""
    candidates: list[int] | None = None
    """Widths, ascending, in 1..dim. None: 2, 4, 8 and so on below ``dim``, and ``dim``."""

    searched: ClassVar[str] = "dim"
    formula: ClassVar[str] = "sum_k p_k norm_k(W_k E[id][:d_k])"
    memory: ClassVar[str] = "ids x dim, and a matrix per candidate"
    paper: ClassVar[str] = "Zhao et al. 2021, arXiv:2006.14827 (the supernet of search)"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        given = self.candidates
        if given is None:
            return
        if given != sorted(set(given)) or not given or given[0] < 1 or given[-1] > self.dim:
            raise RecembError(
                f"{where}: candidates must be widths in 1..{self.dim}, ascending, got {given}"
            )

    @property
    def widths(self) -> list[int]:
        """The candidates."""
        if self.candidates is not None:
            return self.candidates
        return [width for width in (2**power for power in range(1, 31)) if width < self.dim] + [
            self.dim
        ]

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: as many rows as the id spaces have ids."""
        rows = self.part(num_ids(where, self, spaces), self.dim, Uniform(self.init_scale))
        return {"rows": rows}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return matrices, norms and weights of the candidates."""
        return Candidates(self.widths, self.dim)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the dimensions up to ``dim``, none of them below a given candidate."""
        return range(self.candidates[-1] if self.candidates else 1, self.dim + 1)

    def build(self, features: Sequence[TableFeature]) -> "CandidateDimsKind":
        """Return the module for ``features``."""
        return CandidateDimsKind(features)


class Candidates(nn.Module):
    """The candidates of a table.

    Attributes:
        weight_K: One per candidate, a buffer: no optimizer of a training moves it.
        temperature: Of the Gumbel-softmax, above 0; None where nothing is searched.
    """

    weight_K: Tensor

    def __init__(self, widths: Sequence[int], dim: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.maps = nn.ModuleList(nn.Linear(width, dim, bias=False) for width in widths)
        self.norms = nn.ModuleList(BatchNorm(dim, affine=False) for _ in widths)
        self.register_buffer("weight_K", torch.zeros(len(widths)))
        self.temperature: float | None = None

    @property
    def chosen(self) -> int:
        """The number of the candidate of the largest weight, the narrowest of equal ones."""
        return int(self.weight_K.argmax())

    def forward(self, rows_ND: Tensor) -> Tensor:
        """Return the mixture of all candidates."""
        if self.temperature is None:
            share_K = F.one_hot(self.weight_K.argmax(), len(self.widths)).to(rows_ND.dtype)
        else:
            share_K = F.gumbel_softmax(self.weight_K, self.temperature)
        mixed_ND = torch.zeros_like(rows_ND)
        for number, (width, linear, norm) in enumerate(
            zip(self.widths, self.maps, self.norms, strict=True)
        ):
            mixed_ND = mixed_ND + share_K[number] * norm(linear(rows_ND[:, :width]))
        return mixed_ND


class CandidateDimsKind(RowPerId):
    """Mixes the candidates of a table."""

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the mixed vectors."""
        return cast(Tensor, cast(Candidates, feature.learned)(parts[0].squeeze(1)))
