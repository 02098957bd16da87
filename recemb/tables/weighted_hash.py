"""Weighted hash: k hashed rows, summed with weights that are learned for each id.

    vector = sum_j p[id, j] * E[h_j(id)], j < k
    bytes = (num_rows * dim + num_weight_rows * k) * 4 (fp32)

An id that matters can turn a row that it shares with others down. The weights are rows too: one per
id, or, where ids are raw or too many, one per bucket of another hash.

Source: Svenstrup et al., "Hash Embeddings for Efficient Word Representations", NeurIPS 2017,
arXiv:1709.03933.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import MAX_ROWS, rows_of, salt_of
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.hashed import SaltedReads, check_num_rows
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
class WeightedHash(TableConfig):
    """``num_rows`` shared rows, and k weights per id."""

    kind: Literal["weighted_hash"] = "weighted_hash"
    """The name of the kind."""
    num_rows: int | None = None
    """Shared rows, at least 1; a share or a budget may choose it."""
    num_hashes: int = 2
    """k, at least 1."""
    num_weight_rows: int | None = None
    """Rows of weights, found by hash; by default one for every id."""

    searched: ClassVar[str] = "num_rows"
    formula: ClassVar[str] = "sum of p[id, j] E[h_j(id)], j < k"
    memory: ClassVar[str] = "rows x dim + weight rows x k"
    paper: ClassVar[str] = "Svenstrup et al. 2017, arXiv:1709.03933"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_num_rows(where, self.num_rows)
        check_num_rows(where, self.num_weight_rows, "num_weight_rows")
        if self.num_hashes < 1:
            raise RecembError(f"{where}: num_hashes must be at least 1, got {self.num_hashes}")

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return ``rows`` and ``weights``; the weights start near 1."""
        assert self.num_rows is not None
        rows = self.part(self.num_rows, self.dim, Uniform(self.init_scale))
        weights = self.part(
            self.num_weight_rows or num_ids(where, self, spaces),
            self.num_hashes,
            Uniform(0.1, center=1.0),
        )
        return {"rows": rows, "weights": weights}

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return every number of rows."""
        return range(1, MAX_ROWS + 1)

    def reads_per_id(self, part: str, lookups: int) -> int:
        """Return k rows, one row of weights."""
        return self.num_hashes if part == "rows" else 1

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where k agrees."""
        return self.num_hashes

    def build(self, features: Sequence[TableFeature]) -> "WeightedHashKind":
        """Return the module for ``features``."""
        return WeightedHashKind(features)


class WeightedHashKind(SaltedReads):
    """Hashed rows weighted by another part."""

    weight_base_F: Tensor
    weight_rows_F: Tensor
    weight_salt_F: Tensor
    is_numbered_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        self.ids = _Numbers(features)
        numbered = [
            isinstance(feature.config, WeightedHash) and feature.config.num_weight_rows is None
            for feature in features
        ]
        self.all_numbered, self.none_numbered = all(numbered), not any(numbered)
        salts = [salt_of(feature.table, feature.space.name, "weights") for feature in features]
        for name, values in (
            ("weight_base_F", int_buffer([feature.base_rows[1] for feature in features])),
            ("weight_rows_F", int_buffer([feature.parts[1].num_rows for feature in features])),
            ("weight_salt_F", int_buffer(salts)),
            ("is_numbered_F", torch.tensor(numbered)),
        ):
            self.register_buffer(name, values, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the hashed rows, and the row of weights of each id."""
        (rows_T,) = super().encode(ids_N, feature_N)
        return rows_T, self._weights_of(ids_N, feature_N) + spread(self.weight_base_F, feature_N)

    def _weights_of(self, ids_N: Tensor, feature_N: Tensor) -> Tensor:
        if self.all_numbered:
            return self.ids.numbers(ids_N, feature_N)
        salt_N, count_N = (
            spread(self.weight_salt_F, feature_N),
            spread(self.weight_rows_F, feature_N),
        )
        hashed_N = rows_of(ids_N, salt_N, count_N)
        if self.none_numbered:
            return hashed_N
        numbered_N = spread(self.is_numbered_F, feature_N)
        is_own_N = numbered_N.expand_as(ids_N)
        self.ids.check_ids(ids_N[is_own_N], feature_N.expand_as(ids_N)[is_own_N])
        own_N = ids_N + spread(self.ids.first_id_F, feature_N)
        return torch.where(numbered_N, own_N, hashed_N)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the weighted sum of k rows."""
        rows_NkD, weights_N1k = parts
        return torch.bmm(weights_N1k, rows_NkD).squeeze(1)


class _Numbers(NumberedIds):
    """The numbers of ids alone; the weights' rows are where they are used."""

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return the numbers."""
        return (self.numbers(ids_N, feature_N),)

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the rows."""
        return parts[0].squeeze(1)
