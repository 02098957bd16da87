"""Vocabularies against hand-ranked counts and a dictionary."""

import io

import polars as pl
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from recemb.errors import RecembError
from recemb.hashing import rows_of_one
from recemb.vocabulary import Vocabulary, VocabularyConfig, build_vocabulary

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def _counts(counts: dict[int, int] | dict[str, int]) -> pl.DataFrame:
    return pl.DataFrame({"value": list(counts), "count": list(counts.values())})


def _build(counts: dict[int, int] | dict[str, int], **settings: object) -> Vocabulary:
    return build_vocabulary("item", _counts(counts), VocabularyConfig(**settings))


def _lookup(vocabulary: Vocabulary, values: list[int]) -> list[int]:
    return vocabulary.lookup(torch.tensor(values, dtype=torch.int64)).tolist()


def _hash(text: str) -> int:
    return int.from_bytes(xxhash.xxh64(text.encode()).digest(), "big", signed=True)


def test_indices_follow_falling_count() -> None:
    vocabulary = _build({30: 5, 10: 9, 40: 1, 20: 7})
    assert _lookup(vocabulary, [10, 20, 30, 40]) == [0, 1, 2, 3]


def test_equal_counts_follow_the_key() -> None:
    vocabulary = _build({30: 5, -10: 5, 20: 5, 7: 6})
    assert _lookup(vocabulary, [7, -10, 20, 30]) == [0, 1, 2, 3]


def test_counts_are_those_of_the_indices() -> None:
    assert _build({30: 5, 10: 9, 40: 1}).counts_V.tolist() == [9, 5, 1]


def test_keys_ascend() -> None:
    assert _build({30: 5, -10: 9, 40: 1}).keys_V.tolist() == [-10, 30, 40]


def test_lookup_is_a_bijection_onto_the_known_indices() -> None:
    counts = {key * 17 % 1009 - 500: key % 7 + 1 for key in range(200)}
    vocabulary = _build(counts)
    assert sorted(_lookup(vocabulary, list(counts))) == list(range(200))


def test_min_count_keeps_what_reaches_it() -> None:
    vocabulary = _build({30: 5, 10: 9, 40: 4}, min_count=5)
    assert vocabulary.num_known == 2
    assert _lookup(vocabulary, [10, 30, 40]) == [0, 1, 2]


def test_unknown_own_share_one_further_index() -> None:
    vocabulary = _build({30: 5, 10: 9}, unknown="own", num_unknown=8)
    assert vocabulary.num_ids == 3
    assert _lookup(vocabulary, [99, -1, 20]) == [2, 2, 2]


def test_unknown_hash_go_to_hashed_further_indices() -> None:
    vocabulary = _build({30: 5, 10: 9}, unknown="hash", num_unknown=8)
    unknown = [value for value in range(-50, 50) if value not in (10, 30)]
    assert vocabulary.num_ids == 10
    assert _lookup(vocabulary, unknown) == [2 + rows_of_one(value, 0, 8) for value in unknown]
    assert _lookup(vocabulary, [10, 30]) == [0, 1]


def test_unknown_error_is_minus_one() -> None:
    vocabulary = _build({30: 5, 10: 9}, unknown="error")
    assert vocabulary.num_ids == 2
    assert _lookup(vocabulary, [10, 11, 30]) == [0, -1, 1]


def test_text_is_known_by_its_hash() -> None:
    vocabulary = _build({"b": 1, "a": 3, "\u00e9": 2})
    assert vocabulary.is_text
    assert _lookup(vocabulary, [_hash(text) for text in ("a", "\u00e9", "b", "z")]) == [0, 1, 2, 3]


def test_text_of_equal_counts_follows_the_signed_hash() -> None:
    words = ["ant", "bee", "cat", "dog", "eel"]
    ranked = sorted(words, key=_hash)
    assert _lookup(_build(dict.fromkeys(words, 2)), [_hash(word) for word in ranked]) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_integers_are_no_text() -> None:
    assert not _build({1: 1}).is_text


def test_nothing_left_is_refused() -> None:
    with pytest.raises(
        RecembError, match=r"^vocabulary 'item': no value is seen min_count=10 times in training"
    ):
        _build({30: 5, 10: 9}, min_count=10)


def test_values_of_other_files_come_last_and_count_towards_the_minimum() -> None:
    counts = pl.DataFrame({"value": [7, 8, 9, 5], "count": [0, 2, 0, 1], "seen": [3, 2, 1, 2]})
    vocabulary = build_vocabulary("item", counts, VocabularyConfig(min_count=2, unknown="error"))
    assert _lookup(vocabulary, [8, 5, 7, 9]) == [0, 1, 2, -1]
    assert vocabulary.counts_V.tolist() == [2, 1, 0]


def test_two_strings_of_one_hash_are_refused() -> None:
    # No two such strings are known; the same one twice takes the same path.
    counts = pl.DataFrame({"value": ["a", "a"], "count": [2, 1]})
    with pytest.raises(RecembError, match=r"^vocabulary 'item': two strings have the same 64-bit"):
        build_vocabulary("item", counts, VocabularyConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_count": 0}, "min_count must be at least 1, got 0"),
        ({"num_unknown": -2}, "num_unknown must be at least 1, got -2"),
        ({"unknown": "drop"}, "unknown must be 'own', 'hash' or 'error', got 'drop'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecembError, match=f"^vocabulary 'item': {message}$"):
        _build({1: 1}, **settings)


@pytest.mark.parametrize("unknown", ["own", "hash", "error"])
def test_state_round_trip_through_a_safe_load(unknown: str) -> None:
    vocabulary = _build({30: 5, 10: 9, 20: 1}, unknown=unknown, num_unknown=4, min_count=2)
    file = io.BytesIO()
    torch.save(vocabulary.state(), file)
    file.seek(0)
    loaded = Vocabulary.from_state(torch.load(file, weights_only=True))
    values = [10, 20, 30, 77]
    assert _lookup(loaded, values) == _lookup(vocabulary, values)
    assert (loaded.name, loaded.config, loaded.is_text) == ("item", vocabulary.config, False)
    assert loaded.counts_V.tolist() == [9, 5]


def _reloaded(vocabulary: Vocabulary) -> Vocabulary:
    file = io.BytesIO()
    torch.save(vocabulary.state(), file)
    file.seek(0)
    return Vocabulary.from_state(torch.load(file, weights_only=True))


def test_values_are_those_of_the_files() -> None:
    words = {"00007": 2, "7": 3, "": 1, "crème 🍮": 9, "a\nb": 4}
    for vocabulary in (_build(words), _reloaded(_build(words))):
        got = vocabulary.values(torch.tensor([0, 3, 5, -1, 4, 2, 1]))
        assert got.to_list() == ["crème 🍮", "00007", None, None, "", "7", "a\nb"]
    numbers = _reloaded(_build({30: 5, 10: 9, 40: 1}))
    assert numbers.values(torch.tensor([2, 0, 3])).to_list() == [40, 10, None]
    assert numbers.has_names


def test_rare_strings_are_not_kept() -> None:
    vocabulary = _build({"tea": 5, "rum": 1, "ale": 3}, min_count=2)
    assert vocabulary.values(torch.arange(3)).to_list() == ["tea", "ale", None]
    assert vocabulary.strings.bytes_Q.numpy().tobytes() == b"teaale"
    assert vocabulary.strings.offsets_V1.tolist() == [0, 3, 6]


def test_strings_can_be_left_out() -> None:
    vocabulary = _reloaded(_build({"tea": 5, "rum": 1}, keep_strings=False))
    assert not vocabulary.has_names
    assert not vocabulary.config.keep_strings
    # What is left are the hashes, by which the same strings are still found.
    assert vocabulary.values(torch.arange(2)).to_list() == [_hash("tea"), _hash("rum")]
    assert _lookup(vocabulary, [_hash("rum")]) == [1]


@pytest.mark.parametrize(
    ("content", "offsets"),
    [
        (b"teaale", [0, 3, 7]),
        (b"teaale", [0, 4, 3]),
        (b"teaale", [0, 2**62, 6]),
        (b"teaale", [-8, 3, 6]),
        (b"teaale", [0, 3]),
        (b"te\xffale", [0, 3, 6]),
        ("é".encode(), [0, 1, 2]),
    ],
)
def test_damaged_strings_are_refused(content: bytes, offsets: list[int]) -> None:
    state = _build({"tea": 5, "ale": 3}).state()
    state["strings"] = (torch.tensor(list(content), dtype=torch.uint8), torch.tensor(offsets))
    with pytest.raises(RecembError, match=r"^vocabulary 'item': its strings are damaged"):
        Vocabulary.from_state(state)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), min_size=1, max_size=20, unique=True))
def test_any_strings_come_back(words: list[str]) -> None:
    ranked = {word: len(words) - place for place, word in enumerate(words)}
    vocabulary = _reloaded(_build(ranked))
    assert vocabulary.values(torch.arange(len(words))).to_list() == words


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(st.integers(INT64_MIN, INT64_MAX), st.integers(1, 5), min_size=1, max_size=40),
    st.lists(st.integers(INT64_MIN, INT64_MAX), max_size=40),
)
def test_lookup_equals_a_dictionary(counts: dict[int, int], others: list[int]) -> None:
    ranked = sorted(counts, key=lambda key: (-counts[key], key))
    index = {key: rank for rank, key in enumerate(ranked)}
    near = [max(INT64_MIN, min(counts) - 1), min(INT64_MAX, max(counts) + 1)]
    asked = [*counts, *others, *near, INT64_MIN, INT64_MAX]
    assert _lookup(_build(counts), asked) == [index.get(key, len(counts)) for key in asked]
