"""Hashed: ids share fewer rows, found by k salted hashes.

    row_j = h(id + salt_j)    vector = sum, mean or concatenation of E[row_1] .. E[row_k]
    bytes = num_rows * dim * 4 (fp32), dim divided by k under concatenation

Two ids that collide under one hash rarely collide under all k. The salts belong to the id space, so
two features that share a vocabulary and a table share vectors.

Source: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009; several
hashes: Svenstrup et al., "Hash Embeddings", NeurIPS 2017, of which this is the form without learned
weights (with them: :mod:`recemb.tables.weighted_hash`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import MAX_ROWS, SMALL_ROWS, rows_of, salt_of
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableFeature,
    TableKind,
    int_buffer,
    own_reads,
    spread,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hashed(TableConfig):
    """``num_rows`` rows read through ``num_hashes`` hashes."""

    kind: Literal["hashed"] = "hashed"
    """The name of the kind."""
    num_rows: int | None = None
    """Rows, at least 1; a share or a budget may choose it."""
    num_hashes: int = 1
    """k, at least 1."""
    combine: Literal["sum", "mean", "concatenate"] = "sum"
    """How k rows become one vector; ``concatenate`` makes each row dim / k wide."""

    searched: ClassVar[str] = "num_rows"
    formula: ClassVar[str] = "sum, mean or concatenation of E[h_j(id)], j < k"
    memory: ClassVar[str] = "rows x dim"
    paper: ClassVar[str] = "Weinberger et al. 2009; k hashes: Svenstrup et al. 2017"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        # super() without arguments does not survive slots=True, which makes a second class.
        TableConfig.check(self, where)
        check_num_rows(where, self.num_rows)
        if self.num_hashes < 1:
            raise RecembError(f"{where}: num_hashes must be at least 1, got {self.num_hashes}")
        if self.combine == "concatenate" and self.dim % self.num_hashes:
            raise RecembError(
                f"{where}: concatenation cuts dim in num_hashes equal parts, got dim={self.dim} "
                f"and num_hashes={self.num_hashes}"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``rows``."""
        assert self.num_rows is not None
        rows = self.part(
            self.num_rows,
            self.dim // self.num_hashes if self.combine == "concatenate" else self.dim,
            Uniform(self.init_scale),
        )
        return {"rows": rows}

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return every number of rows."""
        return range(1, MAX_ROWS + 1)

    def reads_per_id(self, part: str, lookups: int) -> int:
        """Return k."""
        return self.num_hashes

    def signature(self, lookups: int) -> Hashable:
        """Features are composed together where k and the combination agree."""
        return self.num_hashes, self.combine

    def build(self, features: Sequence[TableFeature]) -> "HashedKind":
        """Return the module for ``features``."""
        return HashedKind(features)


def check_num_rows(where: str, num_rows: int | None, name: str = "num_rows") -> None:
    """Raise a :class:`RecembError` if a number of hashed rows is out of range."""
    if num_rows is not None and not 1 <= num_rows <= MAX_ROWS:
        raise RecembError(f"{where}: {name} must be in 1..{MAX_ROWS}, got {num_rows}")


class SaltedReads(TableKind):
    """Encode shared by the hashing kinds: read j of feature f goes to a salted, hashed row."""

    base_F: Tensor
    num_rows_F: Tensor
    reads_F: Tensor
    salt_FR: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__()
        reads = [feature.reads[0] for feature in features]
        self.equal_reads = len(set(reads)) == 1
        self.is_small = all(feature.parts[0].num_rows <= SMALL_ROWS for feature in features)
        salts = [
            # Numbers, not text, order the reads; the id space, not the feature, owns them.
            [salt_of(feature.table, feature.space.name, read) for read in range(max(reads))]
            for feature in features
        ]
        for name, values in (
            ("base_F", int_buffer([feature.base_rows[0] for feature in features])),
            ("num_rows_F", int_buffer([feature.parts[0].num_rows for feature in features])),
            ("reads_F", int_buffer(reads)),
            ("salt_FR", torch.tensor(salts, dtype=torch.int64)),
        ):
            self.register_buffer(name, values, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return ``base + h(id + salt of the read)``, the reads of an id side by side."""
        rows_NR = rows_of(
            ids_N.unsqueeze(-1),
            spread(self.salt_FR, feature_N),
            spread(self.num_rows_F, feature_N).unsqueeze(-1),
            self.is_small,
        )
        rows_NR += spread(self.base_F, feature_N).unsqueeze(-1)
        return (own_reads(rows_NR, self.reads_F, feature_N, self.equal_reads),)


class HashedKind(SaltedReads):
    """k hashed rows per id, combined."""

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the sum, mean or concatenation of k rows."""
        assert isinstance(feature.config, Hashed)
        rows_NRD = parts[0]
        if feature.config.num_hashes == 1:
            return rows_NRD.squeeze(1)
        if feature.config.combine == "concatenate":
            return rows_NRD.flatten(1)
        return rows_NRD.sum(1) if feature.config.combine == "sum" else rows_NRD.mean(1)
