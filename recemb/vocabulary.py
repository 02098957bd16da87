"""Vocabulary: raw value to index, numbered by falling training frequency.

A raw value is an int64: an integer id as it is, or the 64-bit hash of a string. The most frequent
value has index 0, so "the most frequent tenth" is ``index < k`` and costs no remap. Looking up is
a binary search in a sorted int64 tensor: the same operation in training and in an exported model.
Where raw values are hashes, the strings are kept beside them, so that what leaves the system names
users and items as the user's files did.

Shapes: V known values, N values looked up.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.hashing import MAX_ROWS, hash_strings, rows_of
from recemb.strings import Strings

if TYPE_CHECKING:
    import polars as pl

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
    keep_strings: bool = True
    """Whether values that are strings are kept beside their hashes. Without them checkpoints are
    smaller, and answers name such values by their hashes."""

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
        strings: String of index i, where raw values are hashes and the strings were kept.
    """

    name: str
    keys_V: Tensor
    index_V: Tensor
    counts_V: Tensor
    config: VocabularyConfig
    is_text: bool
    strings: Strings | None = None
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

    @property
    def has_names(self) -> bool:
        """Whether values are known as the user's files have them, and not by their hashes alone."""
        return not self.is_text or self.strings is not None

    def raw_of_index(self) -> Tensor:
        """Return the raw value of each known index: (V,) int64."""
        raw_V = torch.empty_like(self.keys_V)
        raw_V[self.index_V] = self.keys_V
        return raw_V

    def values(self, index_N: Tensor) -> "pl.Series":
        """Return the values of indices as the user's files have them: (N,).

        Strings, or int64: integers, and hashes where :attr:`has_names` is false. An index that is
        not known is null.

        Example:
            >>> import polars as pl
            >>> counts = pl.DataFrame({"value": ["tea", "rum"], "count": [1, 2]})
            >>> drinks = build_vocabulary("drink", counts, VocabularyConfig())
            >>> drinks.values(torch.tensor([1, 0, 2])).to_list()
            ['tea', 'rum', None]
        """
        import polars as pl  # late: see recemb/__init__.py

        index = pl.Series("index", index_N.cpu().numpy())
        is_known = (index >= 0) & (index < self.num_known)
        place = pl.select(pl.when(is_known).then(index)).to_series()
        if self.strings is not None:
            named = self.strings.series
        else:
            named = pl.Series(self.raw_of_index().cpu().numpy())
        return named.gather(place).alias(self.name)

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

    def to(self, device: torch.device) -> "Vocabulary":
        """Return the vocabulary with what it looks up on a device."""
        return replace(self, keys_V=self.keys_V.to(device), index_V=self.index_V.to(device))

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
            "keep_strings": self.config.keep_strings,
            "is_text": self.is_text,
            "strings": self.strings and (self.strings.bytes_Q, self.strings.offsets_V1),
        }

    @classmethod
    def from_state(cls, state: dict[str, object]) -> "Vocabulary":
        """Return the vocabulary that :meth:`state` described.

        Raises:
            RecembError: If its strings are not as many as its values, or no strings.
        """
        config = VocabularyConfig(
            min_count=state["min_count"],  # type: ignore[arg-type]
            unknown=state["unknown"],  # type: ignore[arg-type]
            num_unknown=state["num_unknown"],  # type: ignore[arg-type]
            keep_strings=state["keep_strings"],  # type: ignore[arg-type]
        )
        parts: dict[str, Any] = state
        tensors = (parts["keys"], parts["index"], parts["counts"])
        strings = None
        if parts["strings"] is not None:
            content_Q, offsets_V1 = parts["strings"]
            where = f"vocabulary {parts['name']!r}"
            strings = Strings.checked(where, content_Q, offsets_V1, len(parts["keys"]))
        return cls(parts["name"], *tensors, config, parts["is_text"], strings)


def build_vocabulary(name: str, counts: "pl.DataFrame", config: VocabularyConfig) -> Vocabulary:
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
    import polars as pl

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
    ranked = kept.select("count", "value", key=keys)
    ranked = ranked.sort(["count", "key"], descending=[True, False])
    by_key = ranked.select("key").with_row_index("index").sort("key")
    if by_key["key"].n_unique() < len(by_key):
        raise RecembError(f"{where}: two strings have the same 64-bit hash; rename one of them")
    return Vocabulary(
        name=name,
        keys_V=_tensor(by_key["key"]),
        index_V=_tensor(by_key["index"]),
        counts_V=_tensor(ranked["count"]),
        config=config,
        is_text=is_text,
        strings=Strings.of(ranked["value"]) if is_text and config.keep_strings else None,
    )


def count_vocabulary(
    values: Any, config: VocabularyConfig | None = None, name: str = "ids"
) -> Vocabulary:
    """Return the vocabulary of the values of a column.

    Args:
        values: Of training: integers or strings, as a polars or pandas column, a numpy array or a
            list. Nulls count for nothing.
        config: Minimum count and the treatment of unknown values.
        name: What errors call the values.

    Raises:
        RecembError: If they are neither integers nor strings; and as :func:`build_vocabulary` does.

    Example:
        >>> drinks = count_vocabulary(["tea", "rum", "tea"])
        >>> drinks.lookup(raw_ids(["rum", "tea", "milk"]))
        tensor([1, 0, 2])
    """
    column = _column(name, values).drop_nulls()
    counts = column.to_frame("value").group_by("value").len("count")
    return build_vocabulary(name, counts, config or VocabularyConfig())


def raw_ids(values: Any) -> Tensor:
    """Return values as the int64 ids that vocabularies and hashing kinds take: (N,).

    Integers are ids as they are, strings by their 64-bit hash (:mod:`recemb.hashing`).

    Args:
        values: Integers or strings, as a polars or pandas column, a numpy array or a list.

    Raises:
        RecembError: If they are neither, or some are missing.

    Example:
        >>> raw_ids([3, 5])
        tensor([3, 5])
    """
    import polars as pl

    column = _column("ids", values)
    if column.null_count():
        raise RecembError("ids: none may be missing, got nulls; fill or drop them")
    return _tensor(hash_strings(column) if column.dtype == pl.String else column)


def _column(name: str, values: Any) -> "pl.Series":
    """Return integers or strings as a column of int64 or strings."""
    import polars as pl

    column = pl.Series(name, values)
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype != pl.String and not column.dtype.is_integer():
        raise RecembError(
            f"{name}: values must be integers or strings, got type {column.dtype}; cast them"
        )
    if column.dtype == pl.UInt64 and bool((column > 2**63 - 1).any()):
        raise RecembError(f"{name}: integers must be below 2^63; cast them to strings")
    return column if column.dtype == pl.String else column.cast(pl.Int64)


def _tensor(column: "pl.Series") -> Tensor:
    import polars as pl

    return torch.from_numpy(column.cast(pl.Int64).to_numpy().copy())
