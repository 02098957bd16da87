"""Hashes against published vectors, a plain-integer form and the statistics of random rows.

The three tables of vectors are what a Java or C++ server must reproduce; they were computed outside
this package (the strings by the C library of xxHash, the rows by 15 lines of C on uint64_t and
__uint128_t, the mixes are those published with SplitMix64).
"""

import math

import polars as pl
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recemb.hashing import (
    MAX_ROWS,
    hash_string,
    hash_strings,
    mix,
    rows_of,
    rows_of_one,
    salt_of,
    to_signed,
)

STRINGS = [
    # string, xxHash64 with seed 0 of its UTF-8 bytes; the first three are in the specification
    ("", 0xEF46DB3751D8E999),
    ("a", 0xD24EC4F1A98C6E5B),
    ("abc", 0x44BC2CF5AD770999),
    ("recemb", 0x3E8C1BC29C0BC3EE),
    ("\x00", 0xE934A84ADB052768),
    ("0123456789abcdef0123456789abcdef", 0x642A94958E71E6C5),
    ("0123456789abcdef0123456789abcdef0", 0xE87684F08D6D0816),
    ("The quick brown fox jumps over the lazy dog, twice.", 0x0BD828078C4CB965),
    ("\u041f\u0440\u0438\u0432\u0435\u0442", 0x44981E068BB9C260),
    ("\u65e5\u672c\u8a9e\u306e\u30ab\u30c6\u30b4\u30ea", 0xD05E46623A789F43),
    ("na\u00efve caf\u00e9 \u2014 \U0001f355", 0x02D6E4693C4F8A4F),
    ("\u00dcn\u00ef" * 40, 0x5AF1E989EE80DA2C),
]
"""Strings and their unsigned hashes; the id is the same 64 bits read as a signed integer."""

MIXES = [
    # seed of the generator, its first outputs (Vigna's splitmix64.c)
    (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]),
    (1234567, [0x599ED017FB08FC85, 0x2C73F08458540FA5, 0x883EBCE5A3F27C77, 0x3FBEF740E9177B3F]),
]
"""SplitMix64: ``mix`` of seed + n * golden gamma is output n of the generator, from n = 0."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

ROWS = [
    # id, salt (signed), num_rows, row
    (0, 0, 1, 0),
    (0, 0, 1_000_003, 883_313),
    (0, 0, 2**31 + 5, 1_896_895_521),
    (0, 0, 2**38, 242_802_626_142),
    (1, 0, 2, 1),
    (1, 0, 1_000_003, 566_563),
    (-1, 0, 1_000_003, 893_945),
    (42, 0, 2**31 + 5, 1_592_498_454),
    (INT64_MIN, 0, 1_000_003, 281_720),
    (INT64_MAX, 0, 2**38, 45_532_697_931),
    # The salt is the id of the string "abc".
    (0, 4952883123889572249, 2, 1),
    (1, 4952883123889572249, 1_000_003, 742_023),
    (-1, 4952883123889572249, 1_000_003, 44_666),
    (42, 4952883123889572249, 2**38, 118_765_120_951),
    (INT64_MIN, 4952883123889572249, 2**31 + 5, 948_003_547),
    (INT64_MAX, 4952883123889572249, 1_000_003, 493_106),
]
"""Rows: floor(top 48 bits of mix(id + salt) * num_rows / 2^48)."""

GAMMA = 0x9E3779B97F4A7C15
int64s = st.integers(INT64_MIN, INT64_MAX)


def _signed(bits: int) -> int:
    return int.from_bytes((bits % 2**64).to_bytes(8, "little"), "little", signed=True)


def _rows(ids: Tensor, salt: int, num_rows: int) -> Tensor:
    return rows_of(ids, torch.tensor(salt), torch.tensor(num_rows))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def random_ids(generator: torch.Generator) -> Tensor:
    """Return random int64 over the whole range, and the values where carries go wrong."""
    drawn = torch.randint(INT64_MIN, INT64_MAX, (1000,), generator=generator)
    extremes = [0, 1, -1, INT64_MIN, INT64_MIN + 1, INT64_MAX, 2**32, -(2**32), _signed(-GAMMA)]
    return torch.cat([drawn, torch.tensor(extremes)])


@pytest.mark.parametrize(("text", "bits"), STRINGS)
def test_hash_string_gives_the_published_bits(text: str, bits: int) -> None:
    assert hash_string(text) == _signed(bits)


def test_hash_strings_gives_the_published_bits_over_a_column() -> None:
    column = pl.Series("title", [text for text, _ in STRINGS])
    assert hash_strings(column).to_list() == [_signed(bits) for _, bits in STRINGS]


def test_hash_strings_keeps_nulls_and_is_int64() -> None:
    hashed = hash_strings(pl.Series([None, "a", None, ""], dtype=pl.String))
    assert hashed.dtype == pl.Int64
    assert hashed.to_list() == [
        None,
        _signed(0xD24EC4F1A98C6E5B),
        None,
        _signed(0xEF46DB3751D8E999),
    ]


def test_hash_strings_of_an_empty_column_is_empty() -> None:
    assert hash_strings(pl.Series([], dtype=pl.String)).to_list() == []


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80))
def test_both_string_hashes_equal_the_c_library(text: str) -> None:
    wanted = _signed(int.from_bytes(xxhash.xxh64(text.encode("utf-8"), seed=0).digest(), "big"))
    assert hash_string(text) == wanted
    assert hash_strings(pl.Series([text])).to_list() == [wanted]


@pytest.mark.parametrize(
    ("unsigned", "signed"),
    [(0, 0), (2**63 - 1, INT64_MAX), (2**63, INT64_MIN), (2**64 - 1, -1)],
)
def test_to_signed_reads_twos_complement(unsigned: int, signed: int) -> None:
    assert to_signed(unsigned) == signed


@pytest.mark.parametrize(("seed", "outputs"), MIXES)
def test_mix_is_the_published_generator(seed: int, outputs: list[int]) -> None:
    states = torch.tensor([_signed(seed + n * GAMMA) for n in range(len(outputs))])
    assert mix(states).tolist() == [_signed(output) for output in outputs]


@pytest.mark.parametrize(("key", "salt", "num_rows", "row"), ROWS)
def test_rows_of_gives_the_rows_of_a_server(key: int, salt: int, num_rows: int, row: int) -> None:
    assert _rows(torch.tensor([key]), salt, num_rows).tolist() == [row]


@pytest.mark.parametrize(("key", "salt", "num_rows", "row"), ROWS)
def test_rows_of_one_gives_the_rows_of_a_server(
    key: int, salt: int, num_rows: int, row: int
) -> None:
    assert rows_of_one(key, salt, num_rows) == row


@pytest.mark.parametrize("num_rows", [1, 2, 1_000_003, 2**31 + 5, 2**38 - 1, 2**38])
@pytest.mark.parametrize("salt", [0, -1, INT64_MIN, 4952883123889572249])
def test_rows_of_equals_plain_integers(random_ids: Tensor, salt: int, num_rows: int) -> None:
    wanted = [rows_of_one(key, salt, num_rows) for key in random_ids.tolist()]
    assert _rows(random_ids, salt, num_rows).tolist() == wanted


def test_rows_of_takes_a_salt_and_a_size_per_id(random_ids: Tensor) -> None:
    salts, sizes = random_ids.flip(0), torch.arange(len(random_ids)) * 977 + 1
    triples = zip(random_ids.tolist(), salts.tolist(), sizes.tolist(), strict=True)
    wanted = [rows_of_one(*triple) for triple in triples]
    assert rows_of(random_ids, salts, sizes).tolist() == wanted


@settings(deadline=None, max_examples=300)
@given(int64s, int64s, st.integers(1, MAX_ROWS))
def test_rows_are_in_range(key: int, salt: int, num_rows: int) -> None:
    row = int(_rows(torch.tensor([key]), salt, num_rows))
    assert 0 <= row < num_rows


def test_rows_reach_both_ends_of_the_range() -> None:
    assert _rows(torch.arange(1000), 3, 10).unique().tolist() == list(range(10))


def _chi_square(counts: Tensor) -> float:
    mean = counts.double().mean()
    return float(((counts - mean) ** 2 / mean).sum())


def _is_chi_square(value: float, degrees: int) -> bool:
    # Mean k and variance 2k; five standard deviations on both sides: too even is no chance either.
    return abs(value - degrees) < 5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("stride", [1, 1024, 2**40])
def test_regular_ids_fill_rows_uniformly(stride: int) -> None:
    rows = _rows(torch.arange(100_000) * stride, salt_of("uniform"), 1000)
    assert _is_chi_square(_chi_square(rows.bincount(minlength=1000)), 999)


def test_collisions_are_those_of_balls_in_bins() -> None:
    balls, bins = 100_000, 200_000
    distinct = len(_rows(torch.arange(balls), salt_of("balls"), bins).unique())
    load = balls / bins
    mean = bins * (1 - (1 - 1 / bins) ** balls)
    variance = bins * (math.exp(-load) - (1 + load) * math.exp(-2 * load))
    assert abs(distinct - mean) < 5 * math.sqrt(variance)


def test_rows_under_two_salts_are_independent() -> None:
    ids = torch.arange(90_000)
    pairs = _rows(ids, salt_of("s", 0), 30) * 30 + _rows(ids, salt_of("s", 1), 30)
    assert _is_chi_square(_chi_square(pairs.bincount(minlength=900)), 899)


def test_salt_is_the_hash_of_its_parts_around_a_unit_separator() -> None:
    wanted = int.from_bytes(xxhash.xxh64(b"ads\x1fitem\x1f11").digest(), "big")
    assert salt_of("ads", "item", 11) == _signed(wanted)


def test_salt_keeps_the_border_between_its_parts() -> None:
    assert salt_of("a", 11) != salt_of("a1", 1)
