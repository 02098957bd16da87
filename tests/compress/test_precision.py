"""Rows of fewer bits, of every kind that has rows."""

from typing import Any

import numpy as np
import pytest
import torch

from recemb.accounting import table_report
from recemb.compress.methods import METHODS, PRECISIONS
from recemb.compress.tables import compress
from recemb.errors import RecembError
from recemb.tables.full import Full
from recemb.tables.kind import TableConfig
from recemb.tables.registry import KINDS, table_config
from tests.compress.small import one_table, plain, random_rows, vectors

ROWS = random_rows(200, 16) * torch.logspace(-2, 1, 200).unsqueeze(1) + 0.3


def made(precision: str) -> np.ndarray:
    return vectors(compress(plain({"t": ROWS}), METHODS[precision]))


@pytest.mark.parametrize(("precision", "bits"), [("int8", 8), ("int4", 4)])
def test_integers_are_within_half_a_step_of_their_row(precision, bits):
    exact = ROWS.numpy().astype(np.float64)
    low, high = exact.min(1, keepdims=True), exact.max(1, keepdims=True)
    half = (high - low) / (2**bits - 1) / 2
    # Scale and bias are fp16: a part in 2^11 of each, the scale's times 2^bits / 2 steps.
    bias = low + 2 ** (bits - 1) * 2 * half
    rounding = (np.abs(bias) + (high - low) / 2) * 2.0**-11
    error = np.abs(made(precision) - exact)
    assert (error <= half + 2 * rounding).all()
    assert (error.max(1) > half[:, 0] / 2).mean() > 0.9


def test_fp16_and_bf16_are_the_nearest_numbers():
    np.testing.assert_array_equal(made("fp16"), ROWS.numpy().astype(np.float16))
    bits = ROWS.numpy().view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
    np.testing.assert_array_equal(made("bf16"), nearest.view(np.float32))


@pytest.mark.parametrize(
    ("precision", "row"), [("fp16", 32), ("bf16", 32), ("int8", 20), ("int4", 12)]
)
def test_bytes_are_those_of_the_codes_and_scales(precision, row):
    found = compress(plain({"t": ROWS}), METHODS[precision])
    assert table_report(found.embeddings)["t"]["bytes"] == 200 * row
    stored = found.embeddings.rows.tables()
    assert sum(one.numel() * one.element_size() for one in stored.values()) == 200 * row


SETTINGS: dict[str, dict[str, Any]] = {
    "adaptive": {"num_rows": 40},
    "candidate_dims": {},
    "codes": {"num_parts": 4},
    "compositional": {"num_remainders": 8},
    "deduplicated": {},
    "deep_hash": {"width": 4, "num_hashes": 8},
    "dpq": {"num_parts": 4, "num_keys": 8},
    "dynamic": {"num_rows": 40},
    "full": {},
    "gated": {"ends": [30]},
    "hashed": {"num_rows": 40, "num_hashes": 2},
    "matryoshka": {},
    "mgqe": {"num_parts": 4, "num_keys": 8, "rest_keys": 4},
    "mixed_dim": {"exponent": 0.0},
    "pruned": {"num_values": 100},
    "robe": {"num_values": 160, "chunk": 16, "aligned": True},
    "selected": {"ends": [30], "keep": [list(range(16)), list(range(8, 16))]},
    "soft_thresholded": {},
    "tensor_train": {"rank": 16},
    "thresholded": {},
    "unified": {"num_rows": 40},
    "weighted_hash": {"num_rows": 40},
}
STAY = {
    "codes": "int8 would not make it smaller",
    "deep_hash": "it is of kind deep_hash, which stores no rows",
    "dpq": "int8 would not make it smaller",
    "mgqe": "int8 would not make it smaller",
    "pruned": "it is of kind pruned, which stores no rows",
}
"""Kinds whose served form has no rows of numbers, and what is said of them."""


def table_of(kind: str) -> TableConfig:
    return table_config("t", {"kind": kind, "dim": 16, **SETTINGS[kind]})


def test_every_kind_is_tried():
    assert set(SETTINGS) == set(KINDS)


@pytest.mark.parametrize("kind", sorted(set(SETTINGS) - set(STAY)))
def test_every_kind_with_rows_gets_smaller_and_says_nearly_the_same(kind):
    before = one_table(table_of(kind), 100)
    # In training a kind may say more than it serves.
    exact = vectors(before.served())
    small = compress(before, METHODS["int8"])
    assert not small.kept
    assert table_report(small.embeddings)["t"]["bytes"] < table_report(before)["t"]["bytes"]
    error = np.abs(vectors(small) - exact).max()
    assert 0 < error < np.abs(exact).max() * 0.05


@pytest.mark.parametrize(("kind", "reason"), STAY.items())
def test_kinds_without_rows_stay_and_say_why(kind, reason):
    with pytest.raises(RecembError, match=f"int8 changes no table: 't': {reason}$"):
        compress(one_table(table_of(kind), 100), METHODS["int8"])


def test_several_lookups_through_a_projection_are_counted():
    config = table_config("t", {"kind": "unified", "num_rows": 40, "dim": 16, "project": 6})
    before = one_table(config, 100, lookups=3)
    total = table_report(before)["t"]["bytes"]
    assert total == 40 * 16 * 4 + 3 * 16 * 6 * 4
    smallest = 40 * 20 + 3 * 16 * 6 * 4
    assert (
        table_report(compress(before, METHODS["int8"], smallest).embeddings)["t"]["bytes"]
        == smallest
    )
    with pytest.raises(RecembError, match=f"needs {smallest:,}"):
        compress(before, METHODS["int8"], smallest - 1)


def test_narrow_rows_would_grow_and_stay():
    # A row of one element: a code of a byte, and four bytes of scale.
    with pytest.raises(
        RecembError, match="int8 changes no table: 't': int8 would not make it smaller"
    ):
        compress(one_table(Full(dim=1), 100), METHODS["int8"])


def test_rows_of_integers_do_not_become_wider():
    before = one_table(Full(dim=16, precision="int8"), 100)
    for precision in ("fp16", "bf16", "int8"):
        with pytest.raises(RecembError, match="would not make it smaller"):
            compress(before, METHODS[precision])
    assert not compress(before, METHODS["int4"]).kept


@pytest.mark.parametrize(
    ("precision", "budget", "said"),
    [("fp16", 5_000, "needs 6,400; give it that, or choose int8, the most precise that fits"),
     ("int8", 3_000, "needs 4,000; give it that, or choose int4, the most precise that fits"),
     ("int4", 2_000, "needs 2,400; give it that, or choose pq, svd, prune or dedup: no precision")],
)  # fmt: skip
def test_a_budget_that_a_precision_cannot_meet_names_one_that_can(precision, budget, said):
    with pytest.raises(RecembError, match=said):
        compress(plain({"t": ROWS}), METHODS[precision], budget)


def test_a_precision_changes_every_table_whatever_the_budget_leaves():
    found = compress(plain({"t": ROWS}), METHODS["int8"], 10**9)
    assert not found.kept
    assert set(PRECISIONS) == {"fp16", "bf16", "int8", "int4"}
