"""The synthetic log against pair-by-pair AUCs, hand-computed laws and the contract of its files."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recemb.data import synthetic
from recemb.data.synthetic import SyntheticLog, bayes_auc, draw_chunk, generate
from recemb.errors import RecembError

SMALL = SyntheticLog(num_rows=10_000, num_users=500, num_items=300, num_categories=10)


@pytest.fixture(scope="module")
def drawn() -> tuple[pl.DataFrame, np.ndarray]:
    """Return the first train chunk of the default log, and its click probabilities."""
    table, probability_N = draw_chunk(SyntheticLog(), "train", 0)
    frame = pl.DataFrame(pl.from_arrow(table)).with_columns(pl.col("category").cast(pl.String))
    return frame.with_columns(pl.col("history_category").cast(pl.List(pl.String))), probability_N


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Write a log whose train split ends in its second chunk; return folder and AUCs."""
    folder = tmp_path_factory.mktemp("log")
    return folder, generate(_two_chunks(), folder)


def _two_chunks() -> SyntheticLog:
    return SyntheticLog(num_rows=70_000, num_validation_rows=1_000, num_test_rows=1_500)


def _auc_by_pairs(probability_N: np.ndarray) -> float:
    """Divide the expected right pairs by all, from the N x N matrix without its diagonal."""
    p_N = np.asarray(probability_N, dtype=float)
    pair_NN = p_N[:, None] * (1 - p_N[None, :])
    np.fill_diagonal(pair_NN, 0)
    right_NN = (p_N[:, None] > p_N[None, :]) + 0.5 * (p_N[:, None] == p_N[None, :])
    return float((pair_NN * right_NN).sum() / pair_NN.sum())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8, 1.0]), min_size=2, max_size=30))
def test_bayes_auc_equals_the_sum_over_pairs(values: list[float]) -> None:
    # The grid makes ties frequent; the two middle values make every list a legal one.
    probability_N = np.array([*values, 0.3, 0.6])
    assert bayes_auc(probability_N) == pytest.approx(_auc_by_pairs(probability_N), abs=1e-12)


def test_bayes_auc_is_the_mean_auc_of_drawn_labels() -> None:
    generator = np.random.default_rng(5)
    probability_N = np.round(generator.beta(1, 2, 1_000), 1)
    scores = []
    for _ in range(200):
        clicked_N = generator.random(1_000) < probability_N
        difference = probability_N[clicked_N][:, None] - probability_N[~clicked_N][None, :]
        scores.append((difference > 0).mean() + 0.5 * (difference == 0).mean())
    # Four standard errors of the mean (near 0.004), and 1 / N for the mean of a ratio not being
    # the ratio of the means.
    tolerance = 4 * np.std(scores) / np.sqrt(200) + 1e-3
    assert tolerance < 0.006
    assert bayes_auc(probability_N) == pytest.approx(np.mean(scores), abs=tolerance)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.2, 1.5], r"bayes_auc: a probability must be in 0..1, got 1.5"),
        ([-0.25, 0.5], r"bayes_auc: a probability must be in 0..1, got -0.25"),
        ([0.5, float("nan")], r"bayes_auc: a probability must be in 0..1, got nan"),
        ([0.0, 0.0], r"both be possible, got 2 rows with 0.0 expected positives"),
        ([1.0, 1.0, 1.0], r"both be possible, got 3 rows with 3.0 expected positives"),
        ([0.5], r"both be possible, got 1 rows with 0.5 expected positives"),
        ([], r"both be possible, got 0 rows"),
    ],
)
def test_bayes_auc_refuses_what_has_none(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bayes_auc(np.array(values))


def test_written_auc_is_that_of_the_written_rows(
    written: tuple[Path, dict[str, float]],
) -> None:
    folder, auc = written
    for split, num_rows in (("validation", 1_000), ("test", 1_500)):
        expected = _auc_by_pairs(draw_chunk(_two_chunks(), split, 0)[1][:num_rows])
        assert auc[split] == pytest.approx(expected, abs=2.1e-5)  # the documented bound
    assert 0.80 < auc["train"] < 0.86
    assert json.loads((folder / "law.json").read_text())["bayes_auc"] == auc


def test_equal_seeds_give_equal_rows_and_others_do_not() -> None:
    table = draw_chunk(SMALL, "train", 0)[0]
    assert draw_chunk(SMALL, "train", 0)[0].equals(table)
    other_seed = SyntheticLog(
        num_rows=10_000, num_users=500, num_items=300, num_categories=10, seed=1
    )
    for log, split, chunk in ((other_seed, "train", 0), (SMALL, "test", 0), (SMALL, "train", 1)):
        other = draw_chunk(log, split, chunk)[0]
        # Equal users at random: the sum of squared Zipf shares, well below 0.1 here.
        assert np.mean(other["user"].to_numpy() == table["user"].to_numpy()) < 0.1


def test_a_longer_log_begins_with_the_shorter_one(
    written: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    generate(SyntheticLog(num_rows=10_000, num_test_rows=1_000), tmp_path)
    long = pl.read_parquet(written[0] / "train.parquet")
    assert pl.read_parquet(tmp_path / "train.parquet").equals(long.head(10_000))
    assert pl.read_parquet(tmp_path / "test.parquet").equals(
        pl.read_parquet(written[0] / "test.parquet").head(1_000)
    )


def test_file_is_its_chunks_in_row_groups(written: tuple[Path, dict[str, float]]) -> None:
    path = written[0] / "train.parquet"
    metadata = pq.read_metadata(path)
    assert [metadata.row_group(i).num_rows for i in range(2)] == [65_536, 4_464]
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    chunks = pa.concat_tables([draw_chunk(_two_chunks(), "train", i)[0] for i in range(2)])
    assert pq.read_table(path).equals(chunks.slice(0, 70_000).cast(pq.read_schema(path)))


def test_schema_is_plain_and_without_nulls(written: tuple[Path, dict[str, float]]) -> None:
    rows = pl.read_parquet(written[0] / "validation.parquet")
    assert dict(rows.schema) == {
        "label": pl.Int8,
        "user": pl.Int64,
        "item": pl.Int64,
        "category": pl.String,
        "hour": pl.Int8,
        "price": pl.Float32,
        "tags": pl.List(pl.String),
        "history_item": pl.List(pl.Int64),
        "history_category": pl.List(pl.String),
    }
    assert len(rows) == 1_000
    assert pq.read_schema(written[0] / "train.parquet").field("category").type == pa.string()
    for name in rows.columns:
        column = (
            rows[name].explode(empty_as_null=False) if rows[name].dtype.is_nested() else rows[name]
        )
        assert column.null_count() == 0, name


def test_values_are_in_range(drawn: tuple[pl.DataFrame, np.ndarray]) -> None:
    rows, _ = drawn
    assert set(rows["label"]) == {0, 1}
    assert set(rows["hour"]) == set(range(24))
    assert set(rows["category"]) == {f"c{number:03d}" for number in range(40)}
    assert rows["tags"].list.len().unique().sort().to_list() == [0, 1, 2, 3]
    assert rows["tags"].list.n_unique().equals(rows["tags"].list.len())
    assert set(rows["history_item"].list.len()) == set(range(21))
    # A mean over 65,536 rows, of which items repeat: the head item alone has a share of 0.02.
    assert rows["price"].mean() == pytest.approx(0, abs=0.1)
    assert rows["price"].std() == pytest.approx(1, abs=0.1)
    for name in ("user", "item"):
        # Scattered ids: none negative, and the ids fill the range, as no contiguous ids would.
        assert rows[name].min() >= 0
        assert rows[name].max() > 2**62
        assert rows[name].n_unique() > 4_000


def test_histories_are_parallel_and_category_and_tags_belong_to_the_item(
    drawn: tuple[pl.DataFrame, np.ndarray],
) -> None:
    rows, _ = drawn
    assert rows["history_item"].list.len().equals(rows["history_category"].list.len())
    past = rows.select("history_item", "history_category").explode(
        "history_item", "history_category", empty_as_null=False
    )
    pairs = pl.concat([rows.select("item", "category"), past.rename(lambda name: name[8:])])
    assert pairs.group_by("item").agg(pl.col("category").n_unique())["category"].max() == 1
    assert rows.group_by("item").agg(pl.col("tags").n_unique())["tags"].max() == 1


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.0, 1.3])
def test_popularity_follows_zipf(exponent: float) -> None:
    uniform_N = (np.arange(2_000_000) + 0.5) / 2_000_000
    count_R = np.bincount(synthetic._zipf_index(uniform_N, 5_000, exponent), minlength=5_000)
    share_R = np.arange(1, 5_001, dtype=float) ** -exponent
    # The density is read between r and r + 1 instead of at r, which is half a rank: 5% at rank 10.
    for start, stop in ((10, 100), (100, 1_000), (1_000, 5_000)):
        ratio = count_R[start:stop].sum() / count_R[100:1_000].sum()
        expected = share_R[start:stop].sum() / share_R[100:1_000].sum()
        assert ratio == pytest.approx(expected, rel=0.03)
    assert len(count_R) == 5_000


def test_head_users_have_their_zipf_share(drawn: tuple[pl.DataFrame, np.ndarray]) -> None:
    counts = drawn[0]["user"].value_counts(sort=True)["count"]
    share_R = np.arange(1, 20_001) ** -0.8
    # Half a rank lowers the share by 0.013 and sorting by the drawn counts raises it a little.
    expected = share_R[:100].sum() / share_R.sum()
    assert counts[:100].sum() / 65_536 == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("salt", [synthetic.USER_SALT, synthetic.ITEM_SALT])
def test_scatter_can_be_undone_and_spreads(salt: int) -> None:
    index_N = np.concatenate([np.arange(100_000), 2**62 + np.arange(100_000)])
    id_N = synthetic._scatter(index_N, salt)
    for index, scattered in zip(index_N[::997].tolist(), id_N[::997].tolist(), strict=True):
        # The steps in reverse, each undone in exact integers; twice 32 shifts all 63 bits out.
        z = scattered ^ (scattered >> 29) ^ (scattered >> 58)
        z = z * pow(0x94D049BB133111EB, -1, 2**63) % 2**63
        z = (z ^ (z >> 32)) * pow(0xBF58476D1CE4E5B9, -1, 2**63) % 2**63
        assert (z - salt) % 2**63 == index
    # Uniform over 0 .. 2**63 - 1: a tenth in each tenth, to five standard deviations (0.0034).
    share = np.histogram(id_N.astype(float), bins=10, range=(0, 2.0**63))[0] / 200_000
    np.testing.assert_allclose(share, 0.1, atol=0.0035)


def test_labels_are_calibrated(drawn: tuple[pl.DataFrame, np.ndarray]) -> None:
    rows, probability_N = drawn
    label_N = rows["label"].to_numpy()
    assert 0.2 < label_N.mean() < 0.35
    for part in np.array_split(np.argsort(probability_N), 20):
        p_N = probability_N[part]
        deviation = (label_N[part].sum() - p_N.sum()) / np.sqrt((p_N * (1 - p_N)).sum())
        assert abs(deviation) < 4.5  # standard deviations


def _logits(log: SyntheticLog, price: float = 0.0, hour: int = 20) -> np.ndarray:
    """Logits of 4,000 fixed (user, item) pairs at one price and hour."""
    user_N, item_N = np.arange(4_000), np.arange(4_000) * 7 % log.num_items
    p_N = synthetic._click_probability(
        log, user_N, item_N, np.full(4_000, price), np.full(4_000, hour)
    )
    return np.log(p_N / (1 - p_N))


def test_law_adds_price_hour_and_interest() -> None:
    log = SyntheticLog()
    base_N = _logits(log)
    np.testing.assert_allclose(_logits(log, price=2.0) - base_N, -0.6, atol=1e-9)
    np.testing.assert_allclose(_logits(log, hour=8) - base_N, -0.6, atol=1e-9)
    stronger_N = _logits(SyntheticLog(interest_strength=6.5)) - base_N
    # The interest itself: sums of some of the weights 0.5, 0.3 and 0.2.
    interests = {0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 1.0}
    assert set(np.round(stronger_N, 9)) <= interests | {-0.0}
    # Three chances in 40 of a match: 300 of 4,000 pairs, with a standard deviation of 17.
    assert abs((stronger_N > 0.1).sum() - 300) < 85


def test_latents_are_standardised_and_unrelated() -> None:
    log, index_N = SyntheticLog(), np.arange(50_000)
    quality_N = synthetic._latent(log, synthetic.Latent.QUALITY, index_N)
    others = [
        synthetic._latent(log, synthetic.Latent.PRICE, index_N),
        synthetic._latent(log, synthetic.Latent.QUALITY, index_N, part=1),
        synthetic._latent(SyntheticLog(seed=1), synthetic.Latent.QUALITY, index_N),
        synthetic._latent(log, synthetic.Latent.QUALITY, index_N + 1),
    ]
    # Standard errors at 50,000 draws: 0.0045 for the mean and correlation, 0.004 for the variance.
    assert quality_N.mean() == pytest.approx(0, abs=0.02)
    assert quality_N.var() == pytest.approx(1, abs=0.02)
    for other_N in others:
        assert abs(np.corrcoef(quality_N, other_N)[0, 1]) < 0.02


def test_history_reveals_what_is_clicked(drawn: tuple[pl.DataFrame, np.ndarray]) -> None:
    rows = drawn[0].filter(pl.col("history_item").list.len() >= 8)
    matches_N = [
        list(past).count(category)
        for past, category in zip(
            rows["history_category"].to_list(), rows["category"].to_list(), strict=True
        )
    ]
    label_N = rows["label"].to_numpy()
    matches_N = np.minimum(matches_N, 4)
    rate = [label_N[matches_N == matches].mean() for matches in range(5)]
    assert all(low < high for low, high in pairwise(rate))
    assert rate[4] > 3 * rate[0]


def test_history_has_the_interests_of_the_user_in_every_split(
    drawn: tuple[pl.DataFrame, np.ndarray],
) -> None:
    test = pl.DataFrame(pl.from_arrow(draw_chunk(SyntheticLog(), "test", 0)[0])).with_columns(
        pl.col("history_category").cast(pl.List(pl.String))
    )
    for user in drawn[0]["user"].value_counts(sort=True)["user"][:5]:
        favourites = []
        for rows in (drawn[0], test):
            past = rows.filter(user=user)["history_category"].explode(empty_as_null=False)
            top = past.value_counts(sort=True).head(3)
            # 0.8 from at most three interests, and a little of the popular fifth.
            if past.n_unique() >= 3:
                assert 0.78 < top["count"].sum() / len(past) < 0.93
            favourites.append(top[0, 0])
        assert favourites[0] == favourites[1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_rows": 5}, "num_rows must be at least 10000, got 5"),
        ({"num_validation_rows": 0}, "num_validation_rows must be at least 1000, got 0"),
        ({"num_test_rows": 999}, "num_test_rows must be at least 1000, got 999"),
        ({"num_users": 0}, "num_users must be at least 1, got 0"),
        ({"num_categories": 1}, "num_categories must be at least 2, got 1"),
        ({"num_items": 39}, "num_items must be at least num_categories, got 39"),
        ({"history_length": 0}, "history_length must be in 1..1000, got 0"),
        ({"history_length": 1_001}, "history_length must be in 1..1000, got 1001"),
        ({"zipf_exponent": -0.1}, "zipf_exponent must be in 0..3, got -0.1"),
        ({"zipf_exponent": float("nan")}, "zipf_exponent must be in 0..3, got nan"),
        ({"interest_strength": -1.0}, "interest_strength must be in 0..100, got -1.0"),
        ({"seed": -1}, r"seed must be in 0..2\*\*64 - 1, got -1"),
        ({"seed": 2**64}, r"seed must be in 0..2\*\*64 - 1, got 18446744073709551616"),
    ],
)
def test_config_names_the_field_and_the_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^synthetic log: {message}$"):
        SyntheticLog(**fields)


def test_other_splits_have_a_tenth_of_the_rows_unless_told() -> None:
    log = SyntheticLog(num_rows=30_009, num_test_rows=1_234)
    assert [log.split_rows(split) for split in synthetic.SPLITS] == [30_009, 3_000, 1_234]


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**64 - 1, "zipf_exponent": 3.0},
        {"num_users": 1, "num_items": 2, "num_categories": 2, "history_length": 1},
        {"num_items": 1_001, "num_categories": 1_000, "zipf_exponent": 0.0},
    ],
)
def test_extreme_configs_draw_whole_chunks(fields: dict[str, Any]) -> None:
    log = SyntheticLog(**fields)
    table, probability_N = draw_chunk(log, "train", 0)
    table.validate(full=True)
    assert table.num_rows == len(probability_N) == 65_536
    assert len(table["item"].unique()) <= log.num_items
    assert ((probability_N > 0) & (probability_N < 1)).all()


def test_failure_midway_leaves_no_part_and_no_law(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(SMALL, tmp_path)
    before = (tmp_path / "train.parquet").read_bytes()

    def draw_one_chunk_only(log: SyntheticLog, split: str, chunk: int) -> Any:
        if chunk == 1:
            raise OSError("disk is full")
        return draw_chunk(log, split, chunk)

    monkeypatch.setattr(synthetic, "draw_chunk", draw_one_chunk_only)
    with pytest.raises(RecembError, match="disk is full"):
        generate(_two_chunks(), tmp_path)
    # The old rows are still whole, but nothing claims that they are a complete log.
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["test.parquet", "train.parquet", "validation.parquet"]
    assert (tmp_path / "train.parquet").read_bytes() == before
    with pytest.raises(RecembError, match="disk is full"):
        generate(_two_chunks(), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_complete_log_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auc = generate(SMALL, tmp_path)
    drawn_splits = []

    def note(log: SyntheticLog, split: str, chunk: int) -> Any:
        drawn_splits.append(split)
        return draw_chunk(log, split, chunk)

    monkeypatch.setattr(synthetic, "draw_chunk", note)
    assert generate(SMALL, tmp_path) == auc
    assert drawn_splits == []
    (tmp_path / "validation.parquet").unlink()
    assert generate(SMALL, tmp_path) == auc
    assert drawn_splits == ["train", "validation", "test"]
    monkeypatch.setattr(synthetic, "LAW_VERSION", synthetic.LAW_VERSION + 1)
    assert generate(SMALL, tmp_path) == auc
    assert len(drawn_splits) == 6
    longer = SyntheticLog(num_rows=11_000, num_users=500, num_items=300, num_categories=10)
    generate(longer, tmp_path)
    assert len(drawn_splits) == 9
    assert pq.read_metadata(tmp_path / "train.parquet").num_rows == 11_000
