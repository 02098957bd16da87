"""Stable 64-bit hashing: strings to ids, ids to rows. The same numbers in every language.

Two published functions, both on 64 bits and both independent of Python's own ``hash``:

* strings become ids by **xxHash64** with seed 0 over their UTF-8 bytes (Collet, xxHash
  specification 0.1.1), read as a signed two's-complement int64;
* ids become rows by the **SplitMix64** finaliser over ``id + salt`` (Steele, Lea and Flood, OOPSLA
  2014), then a multiplication and a shift of the top bits instead of a modulo (Lemire, 2019): the
  top 31 bits in tables of up to 2^24 rows, the top 48 bits in larger ones.

``tests/test_hashing.py`` holds the vectors that a Java or C++ server must reproduce.

Shapes: N ids.
"""

from typing import TYPE_CHECKING

import torch
import xxhash
from torch import Tensor

if TYPE_CHECKING:
    import polars as pl

SMALL_ROWS = 1 << 24
"""Up to so many rows 31 bits of the hash are enough: no row is read 1 % more than another."""
MAX_ROWS = 1 << 38
"""Rows that :func:`rows_of` can address: 24 bits of the hash times 2^38 must stay below 2^63."""

_DIGIT = (1 << 24) - 1
_TOP = (1 << 31) - 1
_GOLDEN = -7046029254386353131


def to_signed(value: int) -> int:
    """Return the int64 whose two's complement bits are those of the unsigned ``value``.

    Example:
        >>> to_signed(2**64 - 1)
        -1
    """
    return value - (1 << 64) if value >= 1 << 63 else value


def hash_string(text: str) -> int:
    """Return the id of a string: xxHash64, seed 0, of its UTF-8 bytes as a signed int64.

    Example:
        >>> hash_string("recemb")
        4507007849746645998
    """
    return to_signed(xxhash.xxh64_intdigest(text.encode("utf-8")))


def hash_strings(strings: "pl.Series") -> "pl.Series":
    """Return the ids of a column of strings, as :func:`hash_string` of each; nulls stay null."""
    import polars as pl  # late: see recemb/__init__.py
    import polars_hash

    hashed = pl.DataFrame({"text": strings}).select(polars_hash.col("text").nchash.xxhash64())
    return hashed["text"].reinterpret(signed=True)


def salt_of(*parts: str | int) -> int:
    """Return a salt that depends on ``parts`` alone: neither on their text order nor on a run.

    Parts are joined by a unit separator and hashed, so ``("a", 11)`` and ``("a1", 1)`` differ.
    """
    return hash_string("\x1f".join(str(part) for part in parts))


def mix(ids_N: Tensor) -> Tensor:
    """Return the SplitMix64 finaliser of int64 ids: a bijection in which every bit matters."""
    x = _mix_top(ids_N + _GOLDEN)
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _mix_top(x: Tensor) -> Tensor:
    """Mix ``x`` in place, all but the last step, which leaves the top 31 bits as they are.

    In place, because hashing is bound by memory.
    """
    # Tensors have no logical shift: shift arithmetically, then clear the copies of the sign bit.
    shifted = x >> 30
    x ^= shifted.bitwise_and_(0x3FFFFFFFF)
    x *= -4658895280553007687
    torch.bitwise_right_shift(x, 27, out=shifted)
    x ^= shifted.bitwise_and_(0x1FFFFFFFFF)
    x *= -7723592293110705685
    return x


def rows_of(
    ids_N: Tensor, salts_N: Tensor, num_rows_N: Tensor, is_small: bool | None = None
) -> Tensor:
    """Return a pseudo-random row in ``0 .. num_rows - 1`` for each (id, salt).

    Args:
        ids_N: int64, any value.
        salts_N: int64, one per id, or one for all (or anything that broadcasts).
        num_rows_N: int64 in ``1 .. MAX_ROWS``, likewise.
        is_small: Whether ``num_rows_N`` is known to be at most :data:`SMALL_ROWS` everywhere; None
            where that is to be looked at row by row.
    """
    x = _mix_top(ids_N + (salts_N + _GOLDEN))
    if is_small:
        return _rows_of_top(x, num_rows_N)
    small_N = _rows_of_top(x.clone(), num_rows_N)
    x = x ^ ((x >> 31) & 0x1FFFFFFFF)
    high_N = (x >> 40) & _DIGIT
    low_N = (x >> 16) & _DIGIT
    # floor(top48 * num_rows / 2^48) in two 24-bit digits; nested floors are exact.
    large_N = (high_N * num_rows_N + ((low_N * num_rows_N) >> 24)) >> 24
    return torch.where(num_rows_N <= SMALL_ROWS, small_N, large_N)


def _rows_of_top(x: Tensor, num_rows_N: Tensor) -> Tensor:
    """Return floor(top31 * num_rows / 2^31), written over ``x``."""
    x >>= 33
    x &= _TOP
    x *= num_rows_N
    x >>= 31
    return x


def rows_of_one(key: int, salt: int, num_rows: int) -> int:
    """Return what :func:`rows_of` gives for one id, in plain Python integers: the readable form."""
    mask = (1 << 64) - 1
    x = (key + salt + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    x ^= x >> 31
    return ((x >> 33) * num_rows) >> 31 if num_rows <= SMALL_ROWS else ((x >> 16) * num_rows) >> 48
