"""Warm start: what a model takes over from a checkpoint of other data or another configuration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.features import FeatureConfig, resolve_features
from recemb.optim import dense_parameters
from recemb.physical import Precision
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, Adagrad, Adam, UpdateRule
from recemb.schema import Column, Schema
from recemb.tables.registry import KINDS, table_config
from recemb.vocabulary import Vocabulary, VocabularyConfig, build_vocabulary
from recemb.warm_start.dense import keep_dense
from recemb.warm_start.fitting import Student
from recemb.warm_start.ids import Space, pair
from recemb.warm_start.tables import Kept, Side, keep_tables

OLD = {"a": 50, "b": 40, "c": 30, "d": 20}
"""Counts by raw value: a has index 0, b 1, c 2, d 3, and unknown ones 4."""
NEW = {"d": 90, "x": 80, "a": 70, "y": 60, "c": 50}
"""d 0, x 1, a 2, y 3, c 4, unknown 5; b is gone."""


TWO = {"unknown": "hash", "num_unknown": 2}


def vocabulary(name: str, counts: Mapping[Any, int], **settings: Any) -> Vocabulary:
    frame = pl.DataFrame({"value": list(counts), "count": list(counts.values())})
    return build_vocabulary(name, frame, VocabularyConfig(**settings))


def schema(**spaces: Mapping[Any, int] | None) -> Schema:
    """Return a schema with a column per id space; None: raw integers."""
    return Schema(
        columns={
            name: Column(is_list=False, vocabulary=None if counts is None else name)
            for name, counts in spaces.items()
        },
        vocabularies={
            name: vocabulary(name, counts) for name, counts in spaces.items() if counts is not None
        },
    )


def side(
    tables: Mapping[str, Mapping[str, Any]],
    data: Schema,
    reads: Mapping[str, str],
    rule: UpdateRule | None = None,
    seed: int = 1,
    lookups: int = 1,
) -> Side:
    """Return embeddings with features that read tables, one per column."""
    configs = {name: table_config(name, settings) for name, settings in tables.items()}
    features = {name: FeatureConfig(table=table, lookups=lookups) for name, table in reads.items()}
    optimizer = rule or Adam(learning_rate=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        embeddings = Embeddings(
            configs,
            resolve_features(features, configs, data),
            lambda physical: LocalRowsStore(physical, optimizer),
        )
    return Side(embeddings=embeddings, schema=data, state=embeddings.rows.optimizer_state())


def trained(one: Side, steps: int = 5) -> Side:
    """Train a side a little, so that rows, learned modules and optimizer state are its own."""
    embeddings = one.embeddings.train()
    torch.manual_seed(3)
    for _ in range(steps):
        ids = {
            feature.name: torch.arange(feature.space.num_ids or 7)
            for feature in embeddings.features
        }
        found = embeddings(ids)
        loss = sum((found[name] - 0.3).square().sum() for name in found) + embeddings.loss()
        loss.backward()  # type: ignore[union-attr]
        with torch.no_grad():
            for parameter in dense_parameters(embeddings):
                if parameter.grad is not None and parameter.numel():
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
        embeddings.rows.step()
    return Side(
        embeddings=embeddings.eval(), schema=one.schema, state=embeddings.rows.optimizer_state()
    )


def vectors(one: Side, feature: str, ids: Sequence[int]) -> Tensor:
    asked = {other.name: torch.tensor([0]) for other in one.embeddings.features}
    asked[feature] = torch.tensor(ids)
    with torch.no_grad():
        found = one.embeddings.eval()(asked)[feature]
    assert isinstance(found, Tensor)
    return found


def relative(own: Tensor, wanted: Tensor, weights: Sequence[float]) -> float:
    """The weighted root mean square of a difference, by plain loops."""
    wrong = size = 0.0
    for own_row, wanted_row, weight in zip(own, wanted, weights, strict=True):
        wrong += weight * sum(
            (a - b) ** 2 for a, b in zip(own_row.tolist(), wanted_row.tolist(), strict=True)
        )
        size += weight * sum(b**2 for b in wanted_row.tolist())
    return math.sqrt(wrong / size)


# Which ids are the same


def test_ids_are_paired_by_raw_value_and_unknown_by_unknown():
    old, new = (Space(vocabulary("item", counts), True) for counts in (OLD, NEW))
    pairs = pair(old, new, "item", None)
    found = set(
        zip(pairs.old_K.tolist(), pairs.new_K.tolist(), pairs.weight_K.tolist(), strict=True)
    )
    assert found == {(0, 2, 70.0), (2, 4, 50.0), (3, 0, 90.0), (4, 5, 1.0)}
    assert (pairs.num_known, pairs.num_ids, pairs.num_dropped) == (3, 5, 1)


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        (TWO, TWO, {(4, 5), (5, 6)}),
        ({}, TWO, {(4, 5), (4, 6)}),
        ({"unknown": "hash", "num_unknown": 3}, TWO, set()),
        ({"unknown": "error"}, {}, set()),
        ({}, {"unknown": "error"}, set()),
    ],
)  # fmt: skip
def test_indices_of_unknown_values(before, now, wanted):
    old = Space(vocabulary("item", OLD, **before), True)
    new = Space(vocabulary("item", NEW, **now), True)
    pairs = pair(old, new, "item", None)
    found = set(zip(pairs.old_K.tolist(), pairs.new_K.tolist(), strict=True))
    assert found == {(0, 2), (2, 4), (3, 0)} | wanted


def test_raw_ids_are_paired_with_a_vocabularys():
    numbered, raw = Space(vocabulary("item", {7: 3, 5: 2}), False), Space(None, False)
    pairs = pair(raw, numbered, "item", None)
    assert set(zip(pairs.old_K.tolist(), pairs.new_K.tolist(), strict=True)) == {(7, 0), (5, 1)}
    pairs = pair(numbered, raw, "item", None)
    assert set(zip(pairs.old_K.tolist(), pairs.new_K.tolist(), strict=True)) == {(0, 7), (1, 5)}


# Level a


SETTINGS: dict[str, dict[str, Any]] = {
    "adaptive": {"num_rows": 20},
    "candidate_dims": {"candidates": [8]},
    "codes": {"num_parts": 4, "num_bits": 4},
    "compositional": {"num_remainders": 6},
    "deduplicated": {"num_blocks": 20},
    "deep_hash": {"num_hashes": 16, "width": 16},
    "dpq": {"num_parts": 4, "num_keys": 16},
    "dynamic": {"num_rows": 30, "every": 2},
    "full": {},
    "gated": {"ends": [5, 20]},
    "hashed": {"num_rows": 20},
    "matryoshka": {"serve": 8},
    "mgqe": {"num_parts": 4, "num_keys": 16, "rest_keys": 8},
    "mixed_dim": {"exponent": 0.5},
    "pruned": {"num_values": 160},
    "robe": {"num_values": 160, "chunk": 4},
    "selected": {"ends": [5, 20], "keep": [[0, 1, 2, 3, 4, 5, 6, 7], [1, 2, 4, 5], [0, 7]]},
    "soft_thresholded": {},
    "tensor_train": {"rank": 4},
    "thresholded": {},
    "unified": {"num_rows": 20},
    "weighted_hash": {"num_rows": 20},
}


def test_every_kind_has_settings_here():
    assert SETTINGS.keys() == KINDS.keys()


def many(count: int, first: int = 0) -> dict[int, int]:
    """Return counts of integers that fall."""
    return {first + number: 1000 // (number + 1) + 1 for number in range(count)}


def everything(one: Side) -> dict[str, Tensor]:
    """Return copies of tables, learned modules and optimizer state."""
    state = {
        f"state {name}": tensor for name, tensor in one.embeddings.rows.optimizer_state().items()
    }
    return {
        name: tensor.clone() for name, tensor in {**one.embeddings.state_dict(), **state}.items()
    }


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_table_of_any_kind_that_is_unchanged_is_copied_bit_for_bit(kind):
    tables = {"t": {"kind": kind, "dim": 8, **SETTINGS[kind]}}
    data, reads = schema(item=many(40), user=many(10)), {"item": "t", "user": "t"}
    old, new = trained(side(tables, data, reads)), side(tables, data, reads, seed=2)
    wanted, before = everything(old), everything(new)
    assert any(not torch.equal(wanted[name], before[name]) for name in wanted)
    kept = keep_tables(old, new, None)
    assert kept["t"].level == "unchanged"
    assert (kept["t"].known, kept["t"].num_ids) == (50, 50)
    found = everything(new)
    assert found.keys() == wanted.keys()
    has_state = any(name.startswith("state t") for name in wanted)
    assert kept["t"].optimizer_state == has_state
    for name, tensor in wanted.items():
        if has_state or name != "state step":
            assert torch.equal(found[name], tensor), name


def test_raw_ids_of_an_unchanged_table_need_no_list():
    tables = {"t": {"kind": "hashed", "dim": 4, "num_rows": 9}}
    data, reads = schema(item=None), {"item": "t"}
    old, new = trained(side(tables, data, reads)), side(tables, data, reads, seed=2)
    assert keep_tables(old, new, None)["t"].level == "unchanged"
    assert torch.equal(vectors(new, "item", [3, 12345]), vectors(old, "item", [3, 12345]))


def test_other_counts_alone_leave_a_table_unchanged():
    other = {"a": 9, "b": 8, "c": 7, "d": 6}
    for kind in ("full", "hashed", "deep_hash"):
        tables = {"t": {"kind": kind, "dim": 8, **SETTINGS[kind]}}
        old = trained(side(tables, schema(item=OLD), {"item": "t"}))
        new = side(tables, schema(item=other), {"item": "t"}, seed=2)
        assert keep_tables(old, new, None)["t"].level == "unchanged"
        assert torch.equal(vectors(new, "item", range(5)), vectors(old, "item", range(5)))


def test_counts_that_make_other_ids_frequent_are_not_overlooked():
    """Adaptive rows of two spaces: which ids have rows of their own is a matter of both counts."""
    tables = {"t": {"kind": "adaptive", "dim": 4, "num_rows": 8, "shared": 0.25}}
    reads = {"item": "t", "user": "t"}
    item, user = {1: 90, 2: 80, 3: 70, 4: 60}, {1: 50, 2: 40, 3: 30, 4: 20}
    old = trained(side(tables, schema(item=item, user=user), reads))
    now = {key: 10 * count for key, count in user.items()}
    new = side(tables, schema(item=item, user=now), reads, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "fitted"
    got = torch.cat([vectors(new, name, range(5)) for name in reads])
    wanted = torch.cat([vectors(old, name, range(5)) for name in reads])
    weights = [90, 80, 70, 60, 1, 500, 400, 300, 200, 1]
    assert kept.error == pytest.approx(relative(got, wanted, weights), rel=1e-3)


def test_rows_whose_places_depend_on_counts_move_although_ids_are_the_same():
    """Adaptive: seven of eight ids have rows of their own, and the eighth the shared one alone."""
    tables = {"t": {"kind": "adaptive", "dim": 4, "num_rows": 8, "shared": 0.125}}
    reads = {"item": "t", "user": "t"}

    def data(last_item: int) -> Schema:
        counts = {"item": {1: 90, 2: 80, 3: 70, 4: last_item}, "user": {1: 50, 2: 40, 3: 30, 4: 20}}
        return Schema(
            columns={name: Column(is_list=False, vocabulary=name) for name in counts},
            vocabularies={
                name: vocabulary(name, one, unknown="error") for name, one in counts.items()
            },
        )

    old = trained(side(tables, data(10), reads))
    new = side(tables, data(60), reads, seed=2)
    assert keep_tables(old, new, None)["t"].level == "moved"
    for name in reads:
        assert torch.equal(vectors(new, name, range(4)), vectors(old, name, range(4)))


def test_rows_that_mean_something_else_where_they_go_are_fitted():
    """MGQE: what was frequent may no longer use the keys that its vector is made of."""
    tables = {"t": {"kind": "mgqe", "dim": 8, **SETTINGS["mgqe"]}}
    old = trained(
        side(tables, schema(item={number: 100 - number for number in range(40)}), {"item": "t"})
    )
    counts = {39 - number: 100 - number for number in range(40)}
    new = side(tables, schema(item=counts), {"item": "t"}, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "fitted"
    got, wanted = vectors(new, "item", range(41)), vectors(old, "item", [*range(39, -1, -1), 40])
    weights = [100 - number for number in range(40)] + [1]
    assert kept.error == pytest.approx(relative(got, wanted, weights), rel=1e-3)
    assert 0 < kept.error < 0.5


# Level b


MOVED = {0: 3, 2: 0, 4: 2, 5: 4}
"""New index to old index, by hand."""


@pytest.mark.parametrize(
    ("precision", "step"),
    [("fp32", "table"), ("fp16", "table"), ("bf16", "table"), ("int16", "table"), ("int8", "table"),
     ("int4", "table"), ("int8", "row"), ("int4", "row"), ("int8", "learned")],
)  # fmt: skip
def test_rows_move_with_their_optimizer_state_bit_for_bit(precision: Precision, step):
    tables = {"t": {"kind": "full", "dim": 3, "precision": precision, "step": step}}
    old = trained(side(tables, schema(item=OLD), {"item": "t"}))
    new = side(tables, schema(item=NEW), {"item": "t"}, seed=2)
    fresh = new.embeddings.rows.values("t").clone()
    kept = keep_tables(old, new, None)
    assert kept["t"] == Kept(
        level="moved", known=3, num_ids=5, dropped=1, error=0.0, optimizer_state=True, notes=[]
    )
    before, now = old.embeddings.rows, new.embeddings.rows
    state_before, state_now = before.optimizer_state(), now.optimizer_state()
    assert int(state_now["step"]) == 5
    for here, there in MOVED.items():
        assert torch.equal(now.values("t")[here], before.values("t")[there])
        for key in ("mean", "square"):
            assert torch.equal(state_now[f"t/{key}"][here], state_before[f"t/{key}"][there])
            assert state_before[f"t/{key}"][there].abs().sum() > 0
    stored_before, stored_now = before.tables(), now.tables()
    for here, there in MOVED.items():
        for end in ("", ".step", ".scale"):
            if f"t{end}" in stored_now and len(stored_now[f"t{end}"]) == 6:
                assert torch.equal(stored_now[f"t{end}"][here], stored_before[f"t{end}"][there])
    # x and y are new: as they were drawn, up to a step of the integers that hold them.
    unit = {"int8": 1 / 127, "int4": 1 / 7}.get(precision, 1e-4) * float(
        before.values("t").abs().max()
    )
    for here in (1, 3):
        assert (now.values("t")[here] - fresh[here]).abs().max() <= unit
        assert not state_now["t/mean"][here].any()


def test_a_fp32_row_that_is_new_keeps_its_bits():
    tables = {"t": {"kind": "full", "dim": 3}}
    old = trained(side(tables, schema(item=OLD), {"item": "t"}))
    new = side(tables, schema(item=NEW), {"item": "t"}, seed=2)
    fresh = new.embeddings.rows.values("t").clone()
    keep_tables(old, new, None)
    assert torch.equal(new.embeddings.rows.values("t")[[1, 3]], fresh[[1, 3]])


def test_another_precision_rounds_what_moves():
    old = trained(side({"t": {"kind": "full", "dim": 3}}, schema(item=OLD), {"item": "t"}))
    tables = {"t": {"kind": "full", "dim": 3, "precision": "int8", "step": "row"}}
    new = side(tables, schema(item=NEW), {"item": "t"}, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert (kept.level, kept.optimizer_state) == ("moved", True)
    assert kept.notes == ["rows are rounded to int8 anew"]
    for here, there in MOVED.items():
        row = old.embeddings.rows.values("t")[there]
        # Half a step, and what fp16 rounds off the row's bias.
        unit = float(row.max() - row.min()) / 255 + 2**-10 * float(row.abs().max())
        assert (new.embeddings.rows.values("t")[here] - row).abs().max() <= unit


@pytest.mark.parametrize("kind", ["dpq", "matryoshka", "codes", "full"])
def test_other_kinds_with_a_row_per_id_move_too(kind):
    tables = {"t": {"kind": kind, "dim": 8, **SETTINGS[kind]}}
    old = trained(side(tables, schema(item=OLD), {"item": "t"}))
    new = side(tables, schema(item=NEW), {"item": "t"}, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "moved"
    assert torch.equal(
        vectors(new, "item", list(MOVED)), vectors(old, "item", list(MOVED.values()))
    )


def test_tables_are_joined_and_divided_by_what_their_features_read():
    data, apart = schema(item=OLD, user=OLD), {"item": "item", "user": "user"}
    two = {name: {"kind": "full", "dim": 3} for name in ("item", "user")}
    one = {"both": {"kind": "full", "dim": 3}}
    grown = schema(item=NEW, user=OLD)
    for tables_old, reads_old, tables_new, reads_new in (
        (two, apart, one, {"item": "both", "user": "both"}),
        (one, {"item": "both", "user": "both"}, two, apart),
    ):
        old = trained(side(tables_old, data, reads_old))
        new = side(tables_new, grown, reads_new, seed=2)
        kept = keep_tables(old, new, None)
        assert {own.level for own in kept.values()} == {"moved"}
        assert torch.equal(vectors(new, "user", range(5)), vectors(old, "user", range(5)))
        assert torch.equal(
            vectors(new, "item", list(MOVED)), vectors(old, "item", list(MOVED.values()))
        )
        assert all(own.optimizer_state for own in kept.values())


@pytest.mark.parametrize("rule", [SGD(), Adagrad()])
def test_the_state_of_another_optimizer_is_fresh(rule):
    tables = {"t": {"kind": "full", "dim": 3}}
    old = trained(side(tables, schema(item=OLD), {"item": "t"}))
    new = side(tables, schema(item=NEW), {"item": "t"}, rule, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert (kept.level, kept.optimizer_state) == ("moved", False)
    assert all(not one.any() for one in new.embeddings.rows.optimizer_state().values())


# Level c


FREE = {
    "adaptive": 20 * 8,
    "codes": 4 * 16 * 2,
    "compositional": (6 + 11) * 8,
    "dynamic": 3 * 8,  # the shared rows; ids get their own while training
    "hashed": 20 * 8,
    "pruned": 160 * 41 / 61,
    "robe": 160,
    "selected": 5 * 8 + 15 * 4 + 21 * 2,
    "tensor_train": 4 * 2 * 4 + 4 * 4 * 2 * 4 + 4 * 4 * 2,
    "unified": 20 * 8,
    "weighted_hash": 20 * 8 + 41 * 2,
}
"""Numbers that a kind may choose for 41 vectors of 8: of pruned ones, what falls to these ids."""
BOUNDS = {
    # Random vectors have no pattern: P free numbers of 328 fit P of them, which leaves an error of
    # sqrt(1 - P / 328). A tenth more is for what descent does not find.
    **{kind: 1.1 * math.sqrt(1 - free / (41 * 8)) for kind, free in FREE.items()},
    # More numbers than there are to fit, but not every vector among them: 2 bits per element, at
    # which no code of normal numbers leaves less than 2^-2; MGQE has 8 keys for most ids, 2^-1.5.
    "dpq": 2 * 2**-2,
    "mgqe": 1.5 * 2**-1.5,
    # A network of 16 x 16 with 61 inputs to tell apart.
    "deep_hash": 0.25,
    # A row per id.
    "deduplicated": 1e-5,
    "gated": 1e-5,
    "thresholded": 1e-5,
    "soft_thresholded": 2e-3,
    # Fitted through a batch norm, by descent.
    "candidate_dims": 0.15,
    "matryoshka": 1e-5,
    "mixed_dim": 1e-5,
}


def peer(kind: str, first: int = 0) -> tuple[Side, Side]:
    """Return a plain trained side and one of a kind with other, overlapping ids."""
    old = side({"t": {"kind": "full", "dim": 8}}, schema(item=many(60)), {"item": "t"})
    generator = torch.Generator().manual_seed(4)
    old.embeddings.rows.assign("t", torch.randn(61, 8, generator=generator))
    tables = {"t": {"kind": kind, "dim": 8, **SETTINGS[kind]}}
    return old, side(tables, schema(item=many(60, first)), {"item": "t"}, seed=2)


@pytest.mark.parametrize("kind", [kind for kind in SETTINGS if kind != "full"])
def test_a_table_of_any_kind_is_fitted_to_what_another_knew(kind):
    old, new = peer(kind, first=20)
    kept = keep_tables(old, new, None)["t"]
    # Ids 20 to 59 are known; raw value v has index v there and v - 20 here.
    assert (kept.known, kept.num_ids, kept.dropped) == (40, 60, 20)
    wanted = vectors(old, "item", [*range(20, 60), 60])
    got = vectors(new, "item", [*range(40), 60])
    weights = [1000 // (number + 1) + 1 for number in range(40)] + [1]
    error = relative(got, wanted, weights)
    assert error <= BOUNDS[kind]
    assert kept.error == pytest.approx(error, rel=1e-3, abs=1e-5)
    # A plain table's rows are those of a matryoshka table that shows all of their elements.
    assert kept.level == ("moved" if kind == "matryoshka" else "fitted")
    assert kept.optimizer_state == (kind == "matryoshka")


def salted_row(new: Side, index: int) -> int:
    """Return the row that an id reads."""
    (rows,) = new.embeddings.rows_read("item", torch.tensor([index])).values()
    return int(rows)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("descends", [True, False])
def test_rows_of_one_hash_are_the_weighted_means_of_the_ids_that_share_them(
    precision, descends, monkeypatch
):
    if not descends:
        monkeypatch.setattr(Student, "descend", lambda self, progress: None)
    old, _ = peer("hashed")
    tables = {"t": {"kind": "hashed", "dim": 8, "num_rows": 20, "precision": precision}}
    new = side(tables, schema(item=many(60, 20)), {"item": "t"}, seed=2)
    fresh = new.embeddings.rows.values("t").clone()
    assert keep_tables(old, new, None)["t"].level == "fitted"
    known = [(number + 20, number, 1000 // (number + 1) + 1) for number in range(40)]
    known.append((60, 60, 1))
    sums: dict[int, tuple[Tensor, float]] = {}
    for there, here, weight in known:
        row = salted_row(new, here)
        sum_D, total = sums.get(row, (torch.zeros(8, dtype=torch.float64), 0.0))
        sums[row] = sum_D + weight * old.embeddings.rows.values("t")[there].double(), total + weight
    values = new.embeddings.rows.values("t")
    unit = 2e-3 if descends else 1e-5
    if precision == "int8":
        unit = float(values.abs().max()) / 127
    assert max(len(sums), 1) < 41  # ids do share rows
    for row in range(20):
        if row in sums:
            sum_D, total = sums[row]
            assert (values[row] - sum_D / total).abs().max() <= unit
        else:
            assert (values[row] - fresh[row]).abs().max() <= unit


def test_parts_side_by_side_are_fitted_part_by_part():
    old = side({"t": {"kind": "full", "dim": 8}}, schema(item=many(30)), {"item": "t"})
    tables = {"t": {"kind": "unified", "dim": 4, "num_rows": 5000}}
    new = side(tables, schema(item=many(30)), {"item": "t"}, seed=2, lookups=2)
    kept = keep_tables(old, new, None)["t"]
    # 62 reads of 5,000 rows: hardly two meet.
    assert kept.error < 0.2
    assert (
        relative(vectors(new, "item", range(31)), vectors(old, "item", range(31)), [1.0] * 31) < 0.3
    )


def test_hashed_raw_ids_of_another_size_need_the_ids_of_training():
    data, reads = schema(item=None), {"item": "t"}
    old = trained(side({"t": {"kind": "hashed", "dim": 4, "num_rows": 10}}, data, reads))
    tables = {"t": {"kind": "hashed", "dim": 4, "num_rows": 5000}}
    new = side(tables, data, reads, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "fresh"
    assert kept.notes[0].startswith("ids of 'item' are raw, and the data module does not list")
    raw, asked = [5, 8, 10**12, 77], []

    def training_ids(column: str) -> tuple[Tensor, Tensor]:
        asked.append(column)
        return torch.tensor(raw), torch.ones(4, dtype=torch.int64)

    kept = keep_tables(old, new, training_ids)["t"]
    assert asked == ["item"]
    assert (kept.level, kept.known, kept.num_ids) == ("moved", 4, 4)  # each has a row of its own
    assert torch.equal(vectors(new, "item", raw), vectors(old, "item", raw))


# Level d, and projections


def test_another_dim_keeps_nothing_and_says_so():
    old = trained(side({"t": {"kind": "full", "dim": 3}}, schema(item=OLD), {"item": "t"}))
    new = side({"t": {"kind": "full", "dim": 5}}, schema(item=NEW), {"item": "t"}, seed=2)
    before = everything(new)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "fresh"
    assert kept.notes == ["the model saw 3 elements of it and sees 5"]
    for name, tensor in everything(new).items():
        assert torch.equal(tensor, before[name])


def test_behind_the_same_projection_rows_move_and_the_projection_is_copied():
    tables = {"t": {"kind": "full", "dim": 3, "project": 6}}
    old = trained(side(tables, schema(item=OLD), {"item": "t"}))
    new = side(tables, schema(item=NEW), {"item": "t"}, seed=2)
    assert keep_tables(old, new, None)["t"].level == "moved"
    assert torch.equal(
        vectors(new, "item", list(MOVED)), vectors(old, "item", list(MOVED.values()))
    )


def test_a_projection_of_another_width_is_fresh_and_rows_are_kept():
    old = trained(
        side({"t": {"kind": "full", "dim": 3, "project": 6}}, schema(item=OLD), {"item": "t"})
    )
    tables = {"t": {"kind": "full", "dim": 3, "project": 7}}
    new = side(tables, schema(item=NEW), {"item": "t"}, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "moved"
    assert kept.notes == ["the model saw 6 elements of it and sees 7", "its projection is fresh"]
    for here, there in MOVED.items():
        assert torch.equal(
            new.embeddings.rows.values("t")[here], old.embeddings.rows.values("t")[there]
        )


def test_what_the_model_sees_is_fitted_through_a_new_projection():
    """The old vectors have two directions, so rows of two elements behind a matrix hold them."""
    old = side({"t": {"kind": "full", "dim": 6}}, schema(item=many(40)), {"item": "t"})
    generator = torch.Generator().manual_seed(4)
    low = torch.randn(41, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    old.embeddings.rows.assign("t", low)
    tables = {"t": {"kind": "full", "dim": 2, "project": 6}}
    new = side(tables, schema(item=many(40)), {"item": "t"}, seed=2)
    kept = keep_tables(old, new, None)["t"]
    assert kept.level == "fitted"
    assert kept.error < 0.02
    assert relative(vectors(new, "item", range(41)), low, [1.0] * 41) < 0.1


def test_what_cannot_be_paired_is_named():
    old = trained(side({"t": {"kind": "full", "dim": 3}}, schema(item=OLD), {"item": "t"}))
    words = side({"t": {"kind": "full", "dim": 3}}, schema(item=many(5)), {"item": "t"})
    assert keep_tables(old, words, None)["t"].notes == [
        "ids were strings there and are integers here", "none of its ids is known",
    ]  # fmt: skip
    other = side({"t": {"kind": "full", "dim": 3}}, schema(word=OLD), {"word": "t"})
    assert keep_tables(old, other, None)["t"].notes == ["feature 'word' is not in the checkpoint"]
    strange = side({"t": {"kind": "full", "dim": 3}}, schema(item={"z": 2}), {"item": "t"})
    kept = keep_tables(old, strange, None)["t"]
    assert (kept.level, kept.notes) == ("fresh", ["none of its ids is known"])


def test_the_random_numbers_of_the_training_are_those_of_a_cold_start():
    old, new = peer("dpq", first=20)
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    keep_tables(old, new, None)
    assert torch.equal(torch.rand(3), wanted)


# Dense


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embeddings = nn.Linear(2, 2)
        self.first = nn.Linear(width, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.rand(2))
        self.register_buffer("constant", torch.rand(2), persistent=False)


def test_dense_tensors_of_the_same_name_and_shape_are_copied():
    old, new = Net(3), Net(5)
    nn.init.normal_(old.norm.running_mean)
    own, constant = new.embeddings.weight.clone(), new.get_buffer("constant").clone()
    kept = keep_dense(old, new, {"a": 3}, {"a": 5})
    assert kept.fresh == {"first.weight": "4 x 3 there, 4 x 5 here"}
    assert set(kept.kept) == {
        "scale", "first.bias", "norm.weight", "norm.bias", "norm.running_mean",
        "norm.running_var", "norm.num_batches_tracked",
    }  # fmt: skip
    for name in kept.kept:
        assert torch.equal(new.state_dict()[name], old.state_dict()[name])
    assert torch.equal(new.embeddings.weight, own)
    assert torch.equal(new.get_buffer("constant"), constant)


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"b": 2, "a": 1}, "the features are in another order"),
        ({"a": 1, "c": 2}, "other features of the same total width"),
        ({"a": 2, "b": 1}, "other features of the same total width"),
    ],
)
def test_layers_that_would_read_other_inputs_are_fresh(now, why):
    old, new = Net(3), Net(3)
    before = {name: one.clone() for name, one in new.state_dict().items()}
    kept = keep_dense(old, new, {"a": 1, "b": 2}, now)
    assert kept.kept == []
    assert set(kept.fresh.values()) == {why}
    for name, tensor in new.state_dict().items():
        assert torch.equal(tensor, before[name])
