"""Frequency-adaptive: the most frequent ids have a row each, the rest share what is left.

    row = id for the most frequent ids, else a hashed one of the shared rows    vector = E[row]
    bytes = num_rows * dim * 4 (fp32); no remap, because vocabularies number ids by frequency

Where a table serves several id spaces, the ids with rows of their own are the most frequent of all
of them together.

Source: Zhang et al., "Model Size Reduction Using Frequency Based Double Hashing for Recommender
Systems", RecSys 2020, arXiv:2007.14523 (here the rest has one hash).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import rows_of, salt_of
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.hashed import check_num_rows
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableFeature,
    int_buffer,
    num_ids,
    spread,
)
from recemb.tables.numbered import NumberedIds


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptive(TableConfig):
    """``num_rows`` rows, of which a share is hashed into by the ids without a row of their own."""

    kind: Literal["adaptive"] = "adaptive"
    """The name of the kind."""
    num_rows: int | None = None
    """Rows in all, at least 2; a share or a budget may choose it."""
    shared: float = 0.2
    """Share of the rows that the rest shares, above 0 and below 1; at least one row."""

    searched: ClassVar[str] = "num_rows"
    formula: ClassVar[str] = "E[id] for the most frequent ids, E[h(id)] for the rest"
    memory: ClassVar[str] = "rows x dim"
    paper: ClassVar[str] = "Zhang et al. 2020, arXiv:2007.14523"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_num_rows(where, self.num_rows)
        if self.num_rows is not None and self.num_rows < 2:
            raise RecembError(f"{where}: num_rows must be at least 2, got {self.num_rows}")
        if not 0 < self.shared < 1:
            raise RecembError(
                f"{where}: shared must be above 0 and below 1, got {self.shared}; at 1 it is kind "
                "hashed"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``: those of frequent ids, then the shared ones.

        Raises:
            RecembError: If an id space has no counts.
        """
        for space in spaces:
            if space.counts_V is None:
                raise RecembError(
                    f"{where}: kind adaptive needs the training counts of ids, got raw ids or no "
                    f"counts of {space.name!r}; set raw=false on the column, or use kind hashed"
                )
        rows = self.part(
            min(self._num_rows, num_ids(where, self, spaces) + 1),
            self.dim,
            Uniform(self.init_scale),
        )
        return {"rows": rows}

    @property
    def _num_rows(self) -> int:
        assert self.num_rows is not None
        return self.num_rows

    @property
    def num_shared(self) -> int:
        """Rows that the rest shares."""
        return min(self._num_rows - 1, max(1, round(self.shared * self._num_rows)))

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return every number of rows up to that of the ids and one shared."""
        return range(2, max(3, num_ids(where, self, spaces) + 2))

    def build(self, features: Sequence[TableFeature]) -> "AdaptiveKind":
        """Return the module for ``features``."""
        return AdaptiveKind(features)


def most_frequent(spaces: Sequence[IdSpace], count: int) -> list[int]:
    """Return how many ids of each space are among the ``count`` most frequent of all.

    They are the first ones of their space.
    """
    counts = [space.counts_V for space in spaces]
    known = [values for values in counts if values is not None]
    owner = torch.cat([torch.full((len(values),), f) for f, values in enumerate(known)])
    # A stable sort keeps equally frequent ids in order, so each space keeps a prefix.
    order = torch.cat(known).argsort(descending=True, stable=True)[:count]
    found: list[int] = torch.bincount(owner[order], minlength=len(spaces)).tolist()
    return found


class AdaptiveKind(NumberedIds):
    """Own rows below a limit of each feature, hashed ones from it on."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        own, first, shared_first, shared = [], [], [], []
        for feature in features:
            config = feature.config
            assert isinstance(config, Adaptive)
            rows = feature.parts[0].num_rows
            num_shared = min(config.num_shared, rows - 1)
            # The table's other spaces decide with it.
            frequent = most_frequent(feature.spaces, rows - num_shared)
            place = [space.name for space in feature.spaces].index(feature.space.name)
            own.append(frequent[place])
            first.append(feature.base_rows[0] + sum(frequent[:place]))
            shared_first.append(feature.base_rows[0] + rows - num_shared)
            shared.append(num_shared)
        salts = [salt_of(feature.table, feature.space.name) for feature in features]
        for name, values in (
            ("own_F", own),
            ("first_F", first),
            ("shared_first_F", shared_first),
            ("shared_F", shared),
            ("salt_F", salts),
        ):
            self.register_buffer(name, int_buffer(values), persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return own rows of frequent ids and shared rows of the others."""
        self.check_ids(ids_N, feature_N)

        def of_feature(name: str) -> Tensor:
            return spread(self.get_buffer(name), feature_N)

        shared_N = rows_of(ids_N, of_feature("salt_F"), of_feature("shared_F"))
        return (
            torch.where(
                ids_N < of_feature("own_F"),
                ids_N + of_feature("first_F"),
                shared_N + of_feature("shared_first_F"),
            ),
        )

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows as they are."""
        return parts[0].squeeze(1)
