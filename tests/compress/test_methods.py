"""What each method makes of a table, against NumPy and brute force."""

import numpy as np
import pytest
import torch

from recemb.accounting import table_report
from recemb.compress.methods import METHODS
from recemb.compress.tables import Compressed, compress, trained_tables
from recemb.embeddings import Embeddings
from recemb.tables.full import Full
from tests.compress.small import one_table, plain, random_rows, vectors, with_size


def to_size(made: Embeddings, method: str, budget: int) -> Compressed:
    """Compress a single table, and check that it fits."""
    found = compress(made, METHODS[method], budget)
    assert table_report(found.embeddings)["t"]["bytes"] <= budget
    return found


# Product quantisation


def test_pq_gives_each_part_of_a_row_its_nearest_centre():
    rows = random_rows(300, 8)
    found = with_size(plain({"t": rows}), "pq", (2, 4))
    # 300 ids of 2 codes of 4 bits, and 16 centres of 8 elements.
    assert table_report(found)["t"]["bytes"] == 300 * 1 + 16 * 8 * 4
    codebook = found.learned_of("t").state_dict()["values_PKd"].numpy()
    made = vectors(found)
    for number, row in enumerate(rows.numpy()):
        for part in range(2):
            mine = slice(4 * part, 4 * part + 4)
            away = ((codebook[part] - row[mine]) ** 2).sum(1)
            np.testing.assert_array_equal(made[number, mine], codebook[part, away.argmin()])


def test_pq_loses_nothing_where_parts_repeat():
    distinct = random_rows(16, 4)
    rows = torch.cat([distinct[torch.arange(400) % 16], distinct[torch.arange(400) // 25]], 1)
    found = with_size(plain({"t": rows}), "pq", (2, 4))
    np.testing.assert_allclose(vectors(found), rows.numpy(), atol=1e-6)


def test_pq_comes_nearer_with_more_bytes():
    rows = random_rows(2000, 8)
    errors = [
        float(np.square(vectors(to_size(plain({"t": rows}), "pq", budget)) - rows.numpy()).mean())
        for budget in (3_000, 6_000, 12_000, 24_000)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 1 < 10 * errors[-1] + 1


def test_pq_offers_the_sizes_that_no_smaller_one_beats():
    table = trained_tables(plain({"t": random_rows(100, 4)}))["t"]
    sizes = METHODS["pq"].sizes(table)
    # By hand: bytes = 100 * ceil(parts * bits / 8) + 2^bits * 4 * 4; 2^7 centres are too many.
    known = {
        (parts, bits): 100 * -(-parts * bits // 8) + 16 * 2**bits
        for parts in (1, 2, 4)
        for bits in range(1, 7)
    }
    quality = {(parts, bits): (parts * bits, -parts) for parts, bits in known}
    best = [
        pair
        for pair in known
        if not any(known[one] <= known[pair] and quality[one] > quality[pair] for one in known)
    ]
    assert sizes == sorted(best, key=known.__getitem__)
    assert [table.bytes_of(METHODS["pq"].config(table, one)) for one in sizes] == [
        known[one] for one in sizes
    ]


# Low rank


def low_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, singular, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (left[:, :rank] * singular[:rank]) @ right[:rank]


def test_svd_is_the_nearest_table_of_its_rank():
    rows = random_rows(200, 8) * torch.arange(1, 9)
    found = to_size(plain({"t": rows}), "svd", (200 * 3 + 3 * 8) * 4)
    config = found.embeddings.tables["t"]
    assert (config.kind_name, config.dim, config.project) == ("full", 3, 8)
    np.testing.assert_allclose(vectors(found), low_rank(rows.numpy(), 3), atol=1e-4)


@pytest.mark.parametrize("project", [4, 12])
def test_svd_of_a_table_with_a_projection_approximates_their_product(project):
    made = plain({"t": random_rows(200, 8)}, project=project)
    before = vectors(made)
    assert before.shape == (200, project)
    found = to_size(made, "svd", (200 * 3 + 3 * project) * 4)
    assert found.embeddings.tables["t"].dim == 3
    np.testing.assert_allclose(vectors(found), low_rank(before, 3), atol=1e-5)


def test_svd_loses_nothing_of_a_table_of_low_rank():
    rows = random_rows(100, 2) @ random_rows(2, 8, seed=2)
    found = to_size(plain({"t": rows}), "svd", (100 * 2 + 2 * 8) * 4)
    np.testing.assert_allclose(vectors(found), rows.numpy(), atol=1e-5)


# Pruning


def test_prune_keeps_the_elements_that_are_largest_for_their_rank_in_their_row():
    rows = random_rows(50, 8) * torch.linspace(0.1, 3, 50).unsqueeze(1)
    # A value and its column: 5 bytes; 51 offsets of 4.
    found = to_size(plain({"t": rows}), "prune", 70 * 5 + 51 * 4 + 4)
    kept = rows.numpy().copy()
    score = np.abs(kept)
    for row in score:
        row[np.argsort(-row)] /= np.arange(1, 9)
    kept[score < np.sort(score.ravel())[-70]] = 0
    assert np.count_nonzero(kept) == 70
    np.testing.assert_array_equal(vectors(found), kept)


# Deduplication


def test_dedup_makes_equal_rows_one():
    groups = random_rows(3, 8)
    number = torch.arange(30) % 3
    rows = groups[number] + 1e-4 * random_rows(30, 8, seed=2)
    found = compress(plain({"t": rows}), METHODS["dedup"])
    assert found.embeddings.content("t").values["rows"].shape == (3, 8)
    # The first of a group, the most frequent id, stands for it.
    np.testing.assert_array_equal(vectors(found), rows[:3].numpy()[number.numpy()])


def test_dedup_under_a_budget_merges_the_nearest_rows():
    rows = random_rows(40, 8)
    rows[20:] = rows[:20] + 0.01 * random_rows(20, 8, seed=2)
    # 20 rows, 2 bytes of map per id, and a flag.
    found = to_size(plain({"t": rows}), "dedup", 20 * 8 * 4 + 40 * 2 + 1)
    np.testing.assert_array_equal(vectors(found), rows[:20].repeat(2, 1).numpy())


# All of them


@pytest.mark.parametrize("method", ["pq", "svd", "prune", "dedup"])
def test_a_projection_stays_behind_the_smaller_table(method):
    # Rows that all methods reproduce: two distinct ones, of few elements.
    rows = torch.zeros(200, 8)
    rows[::2, 0], rows[1::2, 1] = 1.0, 2.0
    made = plain({"t": rows}, project=6)
    found = to_size(made, method, 2_500)
    np.testing.assert_allclose(vectors(found), vectors(made), atol=1e-6)


def test_rows_in_integers_stay_so_where_the_method_leaves_rows():
    made = one_table(Full(dim=8, precision="int8", step="learned"), 400)
    made.rows.assign("t", random_rows(20, 8).repeat(20, 1))
    before = vectors(made)
    narrow = with_size(made, "svd", 3).tables["t"]
    # A step that was learned for other rows would not fit these.
    assert (narrow.precision, narrow.step) == ("int8", "row")
    fewer = with_size(made, "dedup", 20)
    assert (fewer.tables["t"].precision, fewer.tables["t"].step) == ("int8", "learned")
    np.testing.assert_array_equal(vectors(fewer), before)
