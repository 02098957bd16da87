"""Frequency-adaptive: the most frequent ids have a row each, the rest share what is left.

    vector = E[id] for the most frequent ids, else the mean of k hashed ones of the shared rows
    bytes = num_rows * dim * 4 (fp32); no remap, because vocabularies number ids by frequency

With two hashes an id has to meet another in both rows to lose itself, and few do.

Where a table serves several id spaces, the ids with rows of their own are the most frequent of all
of them together.

Source: Zhang et al., "Model Size Reduction Using Frequency Based Double Hashing for Recommender
Systems", RecSys 2020, arXiv:2007.14523.
"""

from collections.abc import Hashable, Sequence
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
    own_reads,
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
    shared: float = 0.5
    """Share of the rows that the rest shares, above 0 and below 1; at least one row."""
    num_hashes: int = 2
    """k, shared rows that an id of the rest reads, at least 1; two as published."""

    searched: ClassVar[str] = "num_rows"
    formula: ClassVar[str] = "E[id] for the most frequent ids, mean E[h_j(id)] for the rest"
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
        if self.num_hashes < 1:
            raise RecembError(f"{where}: num_hashes must be at least 1, got {self.num_hashes}")

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

    def reads_per_id(self, part: str, lookups: int) -> int:
        """Return k; a row of an id's own is read as often, and is its own mean."""
        return self.num_hashes

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where dim and k agree."""
        return self.dim, self.num_hashes

    def build(self, features: Sequence[TableFeature]) -> "AdaptiveKind":
        """Return the module for ``features``."""
        return AdaptiveKind(features)


def most_frequent(spaces: Sequence[IdSpace], count: int) -> list[int]:
    """Return how many ids of each space are among the ``count`` most frequent of all.

    They are the first ones of their space.
    """
    counts = [space.counts_V for space in spaces]
    known = [values for values in counts if values is not None]
    owner = torch.cat(
        [torch.full((len(values),), f, device=values.device) for f, values in enumerate(known)]
    )
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
        reads = [feature.reads[0] for feature in features]
        self.equal_reads = len(set(reads)) == 1
        salts = [
            [salt_of(feature.table, feature.space.name, read) for read in range(max(reads))]
            for feature in features
        ]
        self.register_buffer("salt_FR", torch.tensor(salts, dtype=torch.int64), persistent=False)
        for name, values in (
            ("own_F", own),
            ("first_F", first),
            ("shared_first_F", shared_first),
            ("shared_F", shared),
            ("reads_F", reads),
        ):
            self.register_buffer(name, int_buffer(values), persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return own rows of frequent ids and shared rows of the others, k of each id."""
        self.check_ids(ids_N, feature_N)

        def of_feature(name: str) -> Tensor:
            return spread(self.get_buffer(name), feature_N).unsqueeze(-1)

        ids_N1 = ids_N.unsqueeze(-1)
        salt_NR = spread(self.get_buffer("salt_FR"), feature_N)
        shared_NR = rows_of(ids_N1, salt_NR, of_feature("shared_F"))
        row_NR = torch.where(
            ids_N1 < of_feature("own_F"),
            ids_N1 + of_feature("first_F"),
            shared_NR + of_feature("shared_first_F"),
        )
        return (own_reads(row_NR, self.get_buffer("reads_F"), feature_N, self.equal_reads),)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the mean of an id's rows."""
        return parts[0].mean(1)
