"""A synthetic click log whose law is known: any size, reproducible, in bounded memory.

Real logs never say how good a model could be. Here the click probability of every row is known,
so the best reachable AUC (the Bayes AUC) is written beside the data. The law rewards what a
recommender should learn: who the user is, what the item is, and what the user's history reveals.

    P(click) = sigmoid(bias + quality(item) + strength * interest(user, category(item))
                       + factor(user) . factor(item) + price effect + hour effect)

A user is interested in three categories, and the history is drawn mostly from them. Latents are
hashes of (seed, name of the latent, index) and are never stored: ten million users need no memory.

Rows come in chunks of ``CHUNK_ROWS``. A chunk depends on the seed, the split and its number only,
and is always drawn whole: the first rows of a longer log are those of a shorter one. The rows are
equal wherever numpy's ``Generator``, ``log1p`` and ``exp`` are (one release, one kind of CPU).

Legend: N rows and M history items of one chunk, K interests, C categories, T tag slots, G groups
of equal probability. An *index* is 0 .. count - 1, most popular first; the *id* in the files is the
index scattered over 0 .. 2**63 - 1.
"""

import json
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from recemb.errors import RecembError
from recemb.files import whole_file

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

CHUNK_ROWS = 65_536
"""Rows of a chunk and of a parquet row group. Another value is another log."""

LAW_VERSION = 1
"""Raised whenever the rows of a given config change, so that no stale folder is taken for new."""

SPLITS = ("train", "validation", "test")
LAW = "law.json"
"""The file beside them that says what they hold."""

# Tuned together: the default config has a click rate of 0.31 and a Bayes AUC of 0.84.
INTEREST_WEIGHTS = (0.5, 0.3, 0.2)
TARGET_POPULARITY_SHARE = 0.5
HISTORY_POPULARITY_SHARE = 0.2
NUM_FACTOR_ELEMENTS, NUM_TAGS, MAX_TAGS = 4, 32, 3
BIAS, QUALITY_SCALE, TAG_SCALE, FACTOR_SCALE = -2.5, 0.35, 0.25, 0.2
PRICE_SLOPE, HOUR_SCALE, HOUR_PEAK = -0.3, 0.3, 20.0

# Arbitrary; they differ so that user k and item k do not get the same id.
USER_SALT, ITEM_SALT = 0x1C69B3F74AC4AE35, 0x3C79AC492BA7B653
HISTOGRAM_BINS, PROGRESS_ROWS = 2**16, 1_000_000
STRING = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {"label": pa.int8(), "user": pa.int64(), "item": pa.int64(), "category": STRING}
    | {"hour": pa.int8(), "price": pa.float32(), "tags": pa.list_(STRING)}
    | {"history_item": pa.list_(pa.int64()), "history_category": pa.list_(STRING)}
)

Latent = IntEnum(
    "Latent", "INTEREST USER_FACTOR ITEM_FACTOR CATEGORY_FACTOR QUALITY PRICE TAG TAG_EFFECT"
)
"""Names the hash stream of each latent; two streams of one seed are unrelated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticLog:
    """Describe a click log completely: equal configs give equal rows.

    Raises:
        RecembError: If a field is out of its range; the message names the field and the value.
    """

    num_rows: int = 200_000
    """Rows of the train split, at least 10,000."""
    num_validation_rows: int | None = None
    """At least 1,000. None: a tenth of ``num_rows``, which is that at least."""
    num_test_rows: int | None = None
    """At least 1,000. None: a tenth of ``num_rows``, which is that at least."""
    num_users: int = 20_000
    """Users that may occur, at least 1; rare ones may not."""
    num_items: int = 5_000
    """Items that may occur, at least ``num_categories``; rare ones may not."""
    num_categories: int = 40
    """Item ``i`` is of category ``i % num_categories``, so all are about equally large."""
    history_length: int = 20
    """Most items of a history, in 1 .. 1,000; lengths are uniform over 0 .. ``history_length``."""
    zipf_exponent: float = 0.8
    """Popularity of rank r falls as ``r ** -zipf_exponent``, in 0 (all equal) .. 3."""
    interest_strength: float = 5.5
    """Logits per unit of interest, in 0 .. 100; a user's largest interest is 0.5 or more."""
    seed: int = 0
    """0 .. 2**64 - 1."""

    def __post_init__(self) -> None:
        """Check every field; a NaN fails its chained comparison, so it is refused too."""
        validation, test = self.num_validation_rows, self.num_test_rows
        rules: dict[str, tuple[bool, str]] = {
            "num_rows": (self.num_rows >= 10_000, "at least 10000"),
            "num_validation_rows": (validation is None or validation >= 1_000, "at least 1000"),
            "num_test_rows": (test is None or test >= 1_000, "at least 1000"),
            "num_users": (self.num_users >= 1, "at least 1"),
            "num_categories": (self.num_categories >= 2, "at least 2"),
            "num_items": (self.num_items >= self.num_categories, "at least num_categories"),
            "history_length": (1 <= self.history_length <= 1_000, "in 1..1000"),
            "zipf_exponent": (0 <= self.zipf_exponent <= 3, "in 0..3"),
            "interest_strength": (0 <= self.interest_strength <= 100, "in 0..100"),
            "seed": (0 <= self.seed < 2**64, "in 0..2**64 - 1"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise RecembError(
                    f"synthetic log: {name} must be {rule}, got {getattr(self, name)}"
                )

    def split_rows(self, split: str) -> int:
        """Return the number of rows of ``split``, one of ``SPLITS``."""
        rows = (self.num_rows, self.num_validation_rows, self.num_test_rows)
        return rows[SPLITS.index(split)] or self.num_rows // 10


def generate(log: SyntheticLog, folder: Path) -> dict[str, float]:
    """Write ``train``, ``validation`` and ``test`` parquet and ``law.json``; return the Bayes AUCs.

    Nothing is written if the folder already holds this log. Each file appears whole or not at all,
    and ``law.json`` last: a folder with it is complete.

    Columns: ``label`` int8, ``user`` and ``item`` int64, ``category`` string, ``hour`` int8,
    ``price`` float32 (mean 0, variance 1), ``tags`` list of 0 .. 3 strings, and ``history_item``
    (list of int64) with its parallel ``history_category`` (list of string). There are no nulls.

    Args:
        log: The log to write.
        folder: Made if missing. A different log in it is overwritten.

    Returns:
        Split name -> the AUC of ranking by the true click probabilities, in 0.5 .. 1. It is taken
        over bins of 1 / 65,536 in probability, and so is too low by less than 2.1e-5 for a click
        rate in 0.25 .. 0.75 (derived at :func:`bayes_auc`).
    """
    law_path = folder / LAW
    law = {"law_version": LAW_VERSION, "log": asdict(log)}
    finished = json.loads(law_path.read_text()) if law_path.is_file() else {}
    auc: dict[str, float] = finished.pop("bayes_auc", {})
    if finished == law and all((folder / f"{split}.parquet").is_file() for split in SPLITS):
        return auc
    folder.mkdir(parents=True, exist_ok=True)
    # Removed before the first new file: an interrupted run must not leave new rows to an old law.
    law_path.unlink(missing_ok=True)
    auc = {split: _write_split(log, split, folder / f"{split}.parquet") for split in SPLITS}
    with whole_file(law_path) as temporary:
        temporary.write_text(json.dumps(law | {"bayes_auc": auc}, indent=2) + "\n")
    return auc


def draw_chunk(log: SyntheticLog, split: str, chunk: int) -> tuple[pa.Table, Floats]:
    """Return the ``CHUNK_ROWS`` rows of one chunk, and the click probability of each.

    Args:
        log: Its row counts are not read: a chunk does not know how many follow.
        split: One of ``SPLITS``.
        chunk: Its number in the split, 0 or more.

    Returns:
        The table of :func:`generate` (strings as dictionaries); probabilities (N,) in 0 .. 1.
    """
    key = np.array([log.seed, SPLITS.index(split) << 48 | chunk], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    user_N = _zipf_index(generator.random(CHUNK_ROWS), log.num_users, log.zipf_exponent)
    interest_NK = _interests(log, user_N)
    item_N = _draw_items(log, generator, interest_NK, TARGET_POPULARITY_SHARE)
    hour_N = generator.integers(0, 24, CHUNK_ROWS)
    # Both parts have unit variance and 0.8 ** 2 + 0.6 ** 2 = 1, so the price has too.
    price_N = 0.8 * _latent(log, Latent.PRICE, item_N) + 0.6 * generator.standard_normal(CHUNK_ROWS)
    probability_N = _click_probability(log, user_N, item_N, price_N, hour_N)
    label_N = generator.random(CHUNK_ROWS) < probability_N
    length_N = generator.integers(0, log.history_length + 1, CHUNK_ROWS)
    past_interest_MK = np.repeat(interest_NK, length_N, axis=0)
    past_M = _draw_items(log, generator, past_interest_MK, HISTORY_POPULARITY_SHARE)
    tag_NT, has_tag_NT = _tags(log, item_N)
    categories = pa.array([f"c{category:03d}" for category in range(log.num_categories)])
    tags = pa.array([f"t{tag:02d}" for tag in range(NUM_TAGS)])
    columns = [
        pa.array(label_N.astype(np.int8)),
        pa.array(_scatter(user_N, USER_SALT)),
        pa.array(_scatter(item_N, ITEM_SALT)),
        _named(item_N % log.num_categories, categories),
        pa.array(hour_N.astype(np.int8)),
        pa.array(price_N.astype(np.float32)),
        _lists(has_tag_NT.sum(axis=1), _named(tag_NT[has_tag_NT], tags)),
        _lists(length_N, pa.array(_scatter(past_M, ITEM_SALT))),
        _lists(length_N, _named(past_M % log.num_categories, categories)),
    ]
    return pa.table(columns, schema=SCHEMA), probability_N


def bayes_auc(probability_N: Floats) -> float:
    """Return the AUC of ranking rows by their true click probability, before labels are drawn.

    It is the ratio of two expectations over labels drawn independently with these probabilities:
    of the number of (positive, negative) pairs in the right order, ties counting one half, to the
    number of such pairs:

        sum_{i != j} p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2) / sum_{i != j} p_i (1 - p_j)

    Pairs i = j are left out of both sums, since no row is positive and negative at once. The AUC of
    drawn labels scatters around it by about ``1 / sqrt(N)``. Costs O(N log N).

    Rounding p to bins of width w first (as :func:`generate` does) makes ties of pairs that
    contribute at most w / 2 more when told apart. There are below N**2 / 2 of them, so for a mean
    probability q the result is too low by less than ``w / (4 q (1 - q))``.

    Args:
        probability_N: Shape (N,), at least 2 rows, each in 0 .. 1, not all 0 and not all 1.

    Raises:
        ValueError: If a probability is out of range, or no (positive, negative) pair can occur.

    Example:
        >>> bayes_auc(np.array([0.0, 1.0, 1.0]))
        1.0
        >>> bayes_auc(np.array([0.3, 0.3]))
        0.5
    """
    if not ((probability_N >= 0) & (probability_N <= 1)).all():
        worst = float(probability_N[np.argmax(np.abs(probability_N - 0.5))])
        raise ValueError(f"bayes_auc: a probability must be in 0..1, got {worst}")
    value_G, group_N = np.unique(probability_N, return_inverse=True)
    count_G = np.bincount(group_N, minlength=len(value_G))
    same_row_pairs = float((probability_N * (1 - probability_N)).sum())
    return _auc_of_groups(value_G * count_G, count_G, same_row_pairs)


def _auc_of_groups(positive_G: Floats, count_G: Integers, same_row_pairs: float) -> float:
    """Return the AUC of groups in rising order of probability; rows of one group are ties.

    Args:
        positive_G: Expected positives of each group.
        count_G: Rows of each group.
        same_row_pairs: Sum of p (1 - p) over rows: the pairs i = j, to be left out.
    """
    negative_G = count_G - positive_G
    below_G = np.cumsum(negative_G) - negative_G
    pairs = positive_G.sum() * negative_G.sum() - same_row_pairs
    if not pairs > 0:
        raise ValueError(
            "bayes_auc: a positive and a negative row must both be possible, "
            f"got {count_G.sum()} rows with {positive_G.sum()} expected positives"
        )
    return float((positive_G @ (below_G + negative_G / 2) - same_row_pairs / 2) / pairs)


def _write_split(log: SyntheticLog, split: str, path: Path) -> float:
    """Write one split chunk by chunk; return its Bayes AUC, over ``HISTOGRAM_BINS`` bins."""
    num_rows = log.split_rows(split)
    positive_G = np.zeros(HISTOGRAM_BINS)
    count_G = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    same_row_pairs = 0.0
    # Without the stored schema, readers see plain strings instead of arrow dictionaries.
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd", store_schema=False) as writer,
        tqdm(total=num_rows, desc=split, unit=" rows", disable=num_rows < PROGRESS_ROWS) as bar,
    ):
        for start in range(0, num_rows, CHUNK_ROWS):
            table, probability_N = draw_chunk(log, split, start // CHUNK_ROWS)
            table = table.slice(0, num_rows - start)
            probability_N = probability_N[: num_rows - start]
            writer.write_table(table, row_group_size=CHUNK_ROWS)
            bin_N = np.minimum(probability_N * HISTOGRAM_BINS, HISTOGRAM_BINS - 1).astype(np.int64)
            positive_G += np.bincount(bin_N, probability_N, HISTOGRAM_BINS)
            count_G += np.bincount(bin_N, minlength=HISTOGRAM_BINS)
            same_row_pairs += float((probability_N * (1 - probability_N)).sum())
            bar.update(len(probability_N))
    return _auc_of_groups(positive_G, count_G, same_row_pairs)


def _click_probability(
    log: SyntheticLog, user_N: Integers, item_N: Integers, price_N: Floats, hour_N: Integers
) -> Floats:
    """Return P(click) of each row, (N,), by the law in the module's header."""
    category_N = item_N % log.num_categories
    tag_NT, has_tag_NT = _tags(log, item_N)
    logit_N = BIAS + QUALITY_SCALE * _latent(log, Latent.QUALITY, item_N)
    logit_N += TAG_SCALE * (_latent(log, Latent.TAG_EFFECT, tag_NT) * has_tag_NT).sum(axis=1)
    logit_N += PRICE_SLOPE * price_N
    logit_N += HOUR_SCALE * np.cos((hour_N - HOUR_PEAK) * (2 * np.pi / 24))
    interest_NK, weight_K = _interests(log, user_N), np.array(INTEREST_WEIGHTS)
    logit_N += log.interest_strength * ((interest_NK == category_N[:, None]) @ weight_K)
    for element in range(NUM_FACTOR_ELEMENTS):
        centre_C = _latent(log, Latent.CATEGORY_FACTOR, np.arange(log.num_categories), element)
        own_user_N = 0.5 * _latent(log, Latent.USER_FACTOR, user_N, element)
        own_item_N = 0.5 * _latent(log, Latent.ITEM_FACTOR, item_N, element)
        user_factor_N = centre_C[interest_NK] @ weight_K + own_user_N
        logit_N += FACTOR_SCALE * user_factor_N * (centre_C[category_N] + own_item_N)
    return np.asarray(1 / (1 + np.exp(-logit_N)))


def _interests(log: SyntheticLog, user_N: Integers) -> Integers:
    """Return each user's interests, categories (N, K), heaviest first; equal ones add up."""
    parts = [_hash(log, Latent.INTEREST, user_N, part) for part in range(len(INTEREST_WEIGHTS))]
    return (np.stack(parts, axis=1) % np.uint64(log.num_categories)).astype(np.int64)


def _draw_items(
    log: SyntheticLog, generator: np.random.Generator, interest_MK: Integers, popular_share: float
) -> Integers:
    """Return one item index per row of interests, shape (M,).

    Every item is first drawn by popularity. A share of 1 - ``popular_share`` then moves to one of
    its user's interests: to the item of that category among the C neighbours in popularity, so
    that popular blocks stay popular in every category.
    """
    num_draws = len(interest_MK)
    item_M = _zipf_index(generator.random(num_draws), log.num_items, log.zipf_exponent)
    choice_M = (generator.random(num_draws) - popular_share) / (1 - popular_share)
    slot_M = np.searchsorted(np.cumsum(INTEREST_WEIGHTS)[:-1], choice_M, side="right")
    moved_M = item_M - item_M % log.num_categories + interest_MK[np.arange(num_draws), slot_M]
    # The last block may be cut short; what would fall beyond it goes to the block before.
    moved_M -= log.num_categories * (moved_M >= log.num_items)
    return np.where(choice_M < 0, item_M, moved_M)


def _tags(log: SyntheticLog, item_N: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Return tag numbers (N, T), and which of them the item has, (N, T); those are distinct."""
    hash_N = (_hash(log, Latent.TAG, item_N) >> np.uint64(1)).astype(np.int64)
    # Steps of 1 .. 15 around a circle of 32: two of them never come back to the start.
    step_NT = np.stack([hash_N % NUM_TAGS, 1 + (hash_N >> 16) % 15, 1 + (hash_N >> 32) % 15], 1)
    has_tag_NT = np.arange(MAX_TAGS) < (hash_N >> 56)[:, None] % (MAX_TAGS + 1)
    return np.asarray(np.cumsum(step_NT, axis=1) % NUM_TAGS), has_tag_NT


def _zipf_index(uniform_N: Floats, count: int, exponent: float) -> Integers:
    """Turn uniforms into indices whose popularity follows Zipf's law, without a table.

    The density ``x ** -exponent`` on 1 .. count + 1 is inverted and rounded down: index k (rank
    k + 1) has the mass of k + 1 .. k + 2.
    """
    # log(x) for the power p = 1 - exponent; p = 0 is the limit, and log1p keeps small p exact.
    power, log_end = 1 - exponent, np.log(count + 1.0)
    log_N: Floats = uniform_N * log_end
    if power:
        log_N = np.log1p(uniform_N * np.expm1(power * log_end)) / power
    # Clipped because rounding can reach count + 1 itself, or fall below 1.
    return np.clip(np.exp(log_N).astype(np.int64) - 1, 0, count - 1)


def _latent(log: SyntheticLog, latent: Latent, index_N: Integers, part: int = 0) -> Floats:
    """Return a latent of each index: uniform, of mean 0 and variance 1 (-sqrt 3 .. sqrt 3)."""
    unit_N = (_hash(log, latent, index_N, part) >> np.uint64(11)) * 2.0**-53
    return np.asarray((2 * unit_N - 1) * np.sqrt(3))


def _hash(log: SyntheticLog, latent: Latent, index_N: Integers, part: int = 0) -> Hashes:
    """Return 64 hashed bits per index, from the stream of this seed, latent and part (0 .. 15)."""
    stream = _mix(_mix(np.array([log.seed], dtype=np.uint64)) + np.uint64(16 * latent + part))
    return _mix(index_N.astype(np.uint64) + stream)


def _mix(state_N: Hashes) -> Hashes:
    """Return the splitmix64 output for each state (Steele et al., OOPSLA 2014)."""
    z_N = state_N + np.uint64(0x9E3779B97F4A7C15)
    z_N = (z_N ^ (z_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z_N = (z_N ^ (z_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z_N ^ (z_N >> np.uint64(31))


def _scatter(index_N: Integers, salt: int) -> Integers:
    """Map indices one to one onto ids spread over 0 .. 2**63 - 1; the salt names the mapping."""
    # Each step is invertible on 63 bits: an addition, an odd factor, a xor with a right shift.
    mask = np.uint64(2**63 - 1)
    z_N = (index_N.astype(np.uint64) + np.uint64(salt)) * np.uint64(0xBF58476D1CE4E5B9) & mask
    z_N = (z_N ^ (z_N >> np.uint64(32))) * np.uint64(0x94D049BB133111EB) & mask
    return (z_N ^ (z_N >> np.uint64(29))).astype(np.int64)


def _named(number_N: Integers, names: pa.Array) -> pa.DictionaryArray:
    """Return the name of each number."""
    return pa.DictionaryArray.from_arrays(number_N.astype(np.int32), names)


def _lists(length_N: Integers, values: pa.Array) -> pa.ListArray:
    """Cut ``values`` into consecutive lists of the given lengths."""
    offset_N = np.concatenate([[0], np.cumsum(length_N)]).astype(np.int32)
    return pa.ListArray.from_arrays(offset_N, values)
