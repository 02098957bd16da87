"""Vocabulary: raw value to index, numbered by falling training frequency.

A raw value is an int64: an integer id as it is, or the 64-bit hash of a string. The most frequent
value has index 0, so "the most frequent tenth" is ``index < k`` and costs no remap. Looking up is
a binary search in a sorted int64 tensor: the same operation in training and in an exported model.

Shapes: V known values, N values looked up.
"""

from dataclasses import dataclass, field
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import MAX_ROWS, hash_strings, rows_of

Unknown = Literal["own", "hash", "error"]
"""What an unknown value gets: one index of its own for all, a hashed index, or an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """How raw values become known, and what the others get."""

    min_count: int = 1
    """Values seen less often in training are unknown; at least 1."""
    unknown: Unknown = "own"
    """``own``: all unknown values share one index; ``hash``: one of ``num_unknown`` indices by
    hash; ``error``: an unknown value is refused."""
    num_unknown: int = 1
    """Indices for unknown values under ``hash``; at least 1."""

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` that starts with ``where`` if a setting is out of range."""
        for name in ("min_count", "num_unknown"):
            if getattr(self, name) < 1:
                raise RecembError(f"{where}: {name} must be at least 1, got {getattr(self, name)}")
        if self.num_unknown > MAX_ROWS:
            raise RecembError(
                f"{where}: num_unknown must be at most {MAX_ROWS}, got {self.num_unknown}"
            )
        if self.unknown not in ("own", "hash", "error"):
            raise RecembError(
                f"{where}: unknown must be 'own', 'hash' or 'error', got {self.unknown!r}"
            )


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The known values of one id space and the index of each.

    Attributes:
        name: The id space; errors and salts use it.
        keys_V: Known raw values, ascending, int64.
        index_V: Index of ``keys_V[i]``: its rank by falling training frequency.
        counts_V: Training count of index i, falling.
        config: What the unknown ones get.
        is_text: Whether raw values are hashes of strings.
    """

    name: str
    keys_V: Tensor
    index_V: Tensor
    counts_V: Tensor
    config: VocabularyConfig
    is_text: bool
    num_known: int = field(init=False)
    """V. Kept as a number, because the shape of a tensor is a tensor while a program is traced."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_known", self.keys_V.shape[0])

    @classmethod
    def unread(cls, name: str, num_known: int, config: VocabularyConfig) -> "Vocabulary":
        """Return a vocabulary of which the number of ids is known and nothing else.

        Its tensors are on the meta device: it looks nothing up, and takes no memory.
        """
        nothing_V = torch.empty(num_known, dtype=torch.int64, device="meta")
        return cls(name, nothing_V, nothing_V, nothing_V, config, is_text=False)

    @property
    def num_ids(self) -> int:
        """How many indices :meth:`lookup` can give: the known ones and those for unknown values."""
        extra = {"own": 1, "hash": self.config.num_unknown, "error": 0}[self.config.unknown]
        return self.num_known + extra

    def lookup(self, values_N: Tensor) -> Tensor:
        """Return the index of each raw value: (N,) int64; -1 for an unknown one under ``error``."""
        place_N = torch.searchsorted(self.keys_V, values_N).clamp(max=self.num_known - 1)
        known_N = self.keys_V[place_N] == values_N
        return torch.where(known_N, self.index_V[place_N], self._index_of_unknown(values_N))

    def _index_of_unknown(self, values_N: Tensor) -> Tensor:
        if self.config.unknown == "error":
            return torch.full_like(values_N, -1)
        if self.config.unknown == "own":
            return torch.full_like(values_N, self.num_known)
        zero = torch.zeros_like(values_N)
        return self.num_known + rows_of(values_N, zero, zero + self.config.num_unknown)

    def state(self) -> dict[str, object]:
        """Return everything as plain values and tensors, safe to load without running code."""
        return {
            "name": self.name,
            "keys": self.keys_V,
            "index": self.index_V,
            "counts": self.counts_V,
            "min_count": self.config.min_count,
            "unknown": self.config.unknown,
            "num_unknown": self.config.num_unknown,
            "is_text": self.is_text,
        }

    @classmethod
    def from_state(cls, state: dict[str, object]) -> "Vocabulary":
        """Return the vocabulary that :meth:`state` described."""
        config = VocabularyConfig(
            min_count=state["min_count"],  # type: ignore[arg-type]
            unknown=state["unknown"],  # type: ignore[arg-type]
            num_unknown=state["num_unknown"],  # type: ignore[arg-type]
        )
        tensors = (state["keys"], state["index"], state["counts"])
        return cls(state["name"], *tensors, config, state["is_text"])  # type: ignore[arg-type]


def build_vocabulary(name: str, counts: pl.DataFrame, config: VocabularyConfig) -> Vocabulary:
    """Return the vocabulary of counted raw values.

    Args:
        name: The id space.
        counts: Columns ``value`` (integer or string, distinct, no nulls) and ``count`` (in
            training); and, where values of other files are known too, ``seen`` (in all of them),
            to which the minimum count then applies.
        config: Minimum count and the treatment of unknown values.

    Raises:
        RecembError: If a setting is out of range, if no value reaches ``min_count``, or if two
            strings have the same 64-bit hash (a chance of about V^2 / 2^65).
    """
    where = f"vocabulary {name!r}"
    config.check(where)
    seen = "seen" if "seen" in counts.columns else "count"
    kept = counts.filter(pl.col(seen) >= config.min_count)
    if kept.is_empty():
        raise RecembError(
            f"{where}: no value is seen min_count={config.min_count} times in training; lower it"
        )
    is_text = kept["value"].dtype == pl.String
    keys = hash_strings(kept["value"]) if is_text else kept["value"].cast(pl.Int64)
    ranked = kept.select("count", key=keys).sort(["count", "key"], descending=[True, False])
    by_key = ranked.with_row_index("index").sort("key")
    if by_key["key"].n_unique() < len(by_key):
        raise RecembError(f"{where}: two strings have the same 64-bit hash; rename one of them")
    return Vocabulary(
        name=name,
        keys_V=_tensor(by_key["key"]),
        index_V=_tensor(by_key["index"]),
        counts_V=_tensor(ranked["count"]),
        config=config,
        is_text=is_text,
    )


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.cast(pl.Int64).to_numpy().copy())
