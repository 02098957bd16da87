"""Matryoshka: one table trained so that its first elements serve alone, at several widths.

    vector at width d = E[id][:d], then zeros    loss = sum over widths of the loss at that width
    served: ids * serve * 4 bytes (fp32); trained: ids * dim * 4

Which width is served is chosen after training, or by a budget. A vector keeps ``dim`` elements
whatever the width, so that one network fits all.

Source: Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022, arXiv:2205.13147 (the
form with one shared head).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import BlockIds, IdSpace, TableConfig, TableContent, TableFeature, num_ids
from recemb.tables.numbered import RowPerId


@dataclass(frozen=True, kw_only=True, slots=True)
class Matryoshka(TableConfig):
    """A row per id of which the first ``serve`` elements are served."""

    kind: Literal["matryoshka"] = "matryoshka"
    """The name of the kind."""
    widths: list[int] | None = None
    """Widths that are trained, ascending, the last one ``dim``; by default the powers of two."""
    serve: int | None = None
    """The width that is evaluated and served, one of ``widths``; a share or a budget may choose
    it; by default ``dim``."""
    is_cut: bool = False
    """Whether only the served elements are stored, as in the served form."""

    searched: ClassVar[str] = "serve"
    formula: ClassVar[str] = "E[id][:d], d each of the widths in training, one in serving"
    memory: ClassVar[str] = "served: ids x width; trained: ids x dim"
    paper: ClassVar[str] = "Kusupati et al. 2022, arXiv:2205.13147"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        widths = self.all_widths
        if widths != sorted(set(widths)) or widths[0] < 1 or widths[-1] != self.dim:
            raise RecembError(
                f"{where}: widths must ascend from 1 or more to dim={self.dim}, got {widths}"
            )
        if self.serve is not None and self.serve not in widths:
            raise RecembError(f"{where}: serve must be one of widths {widths}, got {self.serve}")

    @property
    def all_widths(self) -> list[int]:
        """The widths that are trained."""
        if self.widths is not None:
            return list(self.widths) or [0]
        powers = [2**bit for bit in range(self.dim.bit_length()) if 2**bit < self.dim]
        return [*powers, self.dim]

    @property
    def served_width(self) -> int:
        """The width that is evaluated and served."""
        return self.serve or self.dim

    def with_defaults(self, where: str) -> Self:
        """Return the configuration that serves ``dim`` unless told."""
        return replace(self, serve=self.served_width)

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``."""
        rows = self.part(
            num_ids(where, self, spaces),
            self.served_width if self.is_cut else self.dim,
            Uniform(self.init_scale),
        )
        return {"rows": rows}

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where the widths agree."""
        return tuple(self.all_widths), self.serve, self.is_cut

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the widths."""
        return self.all_widths

    def served(self, where: str, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the configuration that stores the served elements only."""
        return replace(self, is_cut=True)

    def to_served(
        self, where: str, spaces: Sequence[IdSpace], content: TableContent
    ) -> TableContent:
        """Return the content with rows cut to the served width."""
        return TableContent(
            config=replace(self, is_cut=True),
            values={},
            learned=None,
            selected={"rows": None},
        )

    def build(self, features: Sequence[TableFeature]) -> "MatryoshkaKind":
        """Return the module for ``features``."""
        return MatryoshkaKind(features)


class MatryoshkaKind(RowPerId):
    """Shows the first elements of rows, as many as its form says."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        self.form: int | None = None

    def forms(self) -> int:
        """Return the longest number of widths among the tables; a cut table has one."""
        return max(
            1 if feature.config.is_cut else len(feature.config.all_widths)
            for feature in self.features
            if isinstance(feature.config, Matryoshka)
        )

    def set_form(self, number: int | None) -> None:
        """Show one of the widths; None: the one that is served."""
        self.form = number

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the first elements of rows, then zeros."""
        config = feature.config
        assert isinstance(config, Matryoshka)
        rows_ND = parts[0].squeeze(1)
        if config.is_cut:
            return F.pad(rows_ND, (0, config.dim - config.served_width))
        width = config.served_width
        if self.form is not None:
            width = config.all_widths[min(self.form, len(config.all_widths) - 1)]
        return torch.cat([rows_ND[:, :width], torch.zeros_like(rows_ND[:, width:])], 1)
