"""The embeddings module: features of all kinds together, and the features' settings."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.features import FeatureConfig, ResolvedFeature, resolve_features
from recemb.jagged import Ids, Jagged, Vectors
from recemb.schema import Attribute, Column, Schema
from recemb.tables.compositional import Compositional
from recemb.tables.dpq import DPQ
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.tables.kind import TableConfig, TableContent
from recemb.tables.matryoshka import Matryoshka
from recemb.tables.mixed_dim import MixedDim
from recemb.tables.unified import Unified
from recemb.vocabulary import Vocabulary, VocabularyConfig
from tests.tables.contract import as_tensor, bags, embeddings, feature, ids

ROOT = Path(__file__).parents[1]

TABLES: dict[str, TableConfig] = {
    "own": Full(dim=6),
    "wide": Full(dim=8),
    "hashed": Hashed(dim=6, num_rows=23, num_hashes=2),
    "joined": Hashed(dim=12, num_rows=17, num_hashes=2, combine="concatenate"),
    "shared": Unified(dim=6, num_rows=31),
}
FEATURES = [
    feature("item", "own"),
    feature("history", "own", pooling="mean"),
    feature("sequence", "own", pooling="none"),
    feature("best", "wide", pooling="max"),
    feature("url", "hashed", space="url"),
    feature("urls", "joined", space="url", pooling="sum"),
    feature("user", "shared", space="user", lookups=3),
    feature("friends", "shared", space="user", pooling="mean", lookups=2),
    feature("also", "shared", lookups=2, pooling="mean"),
]
"""Three kinds, two dims, all poolings, single ids and lists, in one call."""
LISTS: list[list[int]] = [[3, 4, 3], [], [19]]
BATCH: dict[str, Ids] = {
    "item": ids([1, 49, 1]),
    "history": bags(LISTS),
    "sequence": bags([[5], [6, 7], []]),
    "best": bags(LISTS),
    "url": ids([-(2**63), 0, 2**63 - 1]),
    "urls": bags([[-5, 10**18], [], [7]]),
    "user": ids([0, 19, 7]),
    "friends": bags(LISTS),
    "also": bags([[], [49, 0], [2, 2, 2, 2]]),
}


@pytest.fixture
def mixed() -> Embeddings:
    return embeddings(TABLES, FEATURES)


def _alone(mixed: Embeddings, name: str, asked: Ids) -> Vectors:
    """Ask one feature of a module that has no other, with the rows of ``mixed``."""
    (own,) = [one for one in FEATURES if one.name == name]
    table = own.config.table
    module = embeddings({table: TABLES[table]}, [own], seed=9)
    module.rows.load_tables({table: mixed.rows.tables()[table]})
    return module({name: asked})[name]


def _assert_equal(got: Vectors, wanted: Vectors) -> None:
    if isinstance(wanted, Jagged):
        assert isinstance(got, Jagged)
        assert torch.equal(got.values, wanted.values)
        assert torch.equal(got.lengths, wanted.lengths)
    else:
        assert torch.equal(as_tensor(got), wanted)


@pytest.mark.parametrize("name", list(BATCH))
def test_features_together_equal_each_alone(mixed: Embeddings, name: str) -> None:
    _assert_equal(mixed(BATCH)[name], _alone(mixed, name, BATCH[name]))


def test_every_feature_is_answered(mixed: Embeddings) -> None:
    assert set(mixed(BATCH)) == set(BATCH)


def test_known_rows_come_out(mixed: Embeddings) -> None:
    """The one feature of each form whose answer needs no hash."""
    own, wide = mixed.rows.tables()["own"], mixed.rows.tables()["wide"]
    got = mixed(BATCH)
    assert torch.equal(as_tensor(got["item"]), own[[1, 49, 1]])
    history = torch.stack([(own[3] + own[4] + own[3]) / 3, torch.zeros(6), own[19]])
    torch.testing.assert_close(as_tensor(got["history"]), history, rtol=1e-6, atol=1e-8)
    best = torch.stack([torch.maximum(wide[3], wide[4]), torch.zeros(8), wide[19]])
    assert torch.equal(as_tensor(got["best"]), best)


def test_pooling_none_gives_the_sequence(mixed: Embeddings) -> None:
    got = mixed(BATCH)["sequence"]
    assert isinstance(got, Jagged)
    assert torch.equal(got.values, mixed.rows.tables()["own"][[5, 6, 7]])
    assert got.lengths.tolist() == [1, 2, 0]


def test_order_of_the_ids_does_not_matter(mixed: Embeddings) -> None:
    got, turned = mixed(BATCH), mixed(dict(reversed(BATCH.items())))
    for name, vectors in got.items():
        _assert_equal(turned[name], vectors)


def test_order_of_the_features_does_not_matter(mixed: Embeddings) -> None:
    turned = embeddings(TABLES, list(reversed(FEATURES)), seed=9)
    turned.rows.load_tables(mixed.rows.tables())
    got = mixed(BATCH)
    for name, vectors in turned(BATCH).items():
        _assert_equal(vectors, got[name])


def test_numbers_of_bags_may_differ(mixed: Embeddings) -> None:
    changed = {
        **BATCH,
        "item": ids([2] * 7),
        "history": bags([]),
        "best": bags([[], [1]]),
        "friends": bags([[3]] * 5),
        "also": bags([[4, 8]]),
    }
    got = mixed(changed)
    for name, asked in changed.items():
        _assert_equal(got[name], _alone(mixed, name, asked))


def test_an_empty_batch_gives_empty_vectors(mixed: Embeddings) -> None:
    nothing = {name: bags([]) if isinstance(v, Jagged) else ids([]) for name, v in BATCH.items()}
    got = mixed(nothing)
    for name, vectors in got.items():
        values = vectors.values if isinstance(vectors, Jagged) else vectors
        assert values.shape == (0, mixed.dims[name])


def test_dims_follow_the_kinds(mixed: Embeddings) -> None:
    assert mixed.dims == {
        "item": 6,
        "history": 6,
        "sequence": 6,
        "best": 8,
        "url": 6,
        "urls": 12,
        "user": 18,
        "friends": 12,
        "also": 12,
    }


def test_training_together_equals_training_each_table_alone(mixed: Embeddings) -> None:
    def loss(vectors: Mapping[str, Vectors]) -> torch.Tensor:
        parts = [one.values if isinstance(one, Jagged) else one for one in vectors.values()]
        return sum(((part - 1) ** 2).sum() for part in parts)  # type: ignore[return-value]

    before = {name: rows.clone() for name, rows in mixed.rows.tables().items()}
    loss(mixed(BATCH)).backward()
    mixed.step()
    for table, config in TABLES.items():
        own = [one for one in FEATURES if one.config.table == table]
        alone = embeddings({table: config}, own, seed=9)
        alone.rows.load_tables({table: before[table]})
        loss(alone({one.name: BATCH[one.name] for one in own})).backward()
        alone.step()
        assert not torch.equal(mixed.rows.tables()[table], before[table])
        # The order in which a row's gradients are added may differ.
        torch.testing.assert_close(
            alone.rows.tables()[table], mixed.rows.tables()[table], rtol=1e-6, atol=1e-6
        )


def test_the_state_dict_is_the_tables(mixed: Embeddings) -> None:
    assert set(mixed.state_dict()) == {f"rows.{table}" for table in TABLES}


# Names


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (Full(dim=4, precision="int8"), "a.step", "a.step"),
        (Full(dim=4, precision="int8", step="row"), "a.scale", "a.scale"),
        (Compositional(dim=4, num_remainders=8), "a.quotients", "a.quotients"),
    ],
)
def test_tables_that_would_store_under_one_name_are_refused(
    first: TableConfig, second: str, name: str
) -> None:
    """They would read and save each other's rows."""
    features = [feature("x", "a"), feature("y", second)]
    with pytest.raises(
        RecembError, match=rf"^table '{second}': table 'a' stores something under the name '{name}'"
    ):
        embeddings({"a": first, second: Full(dim=4)}, features)


def test_names_may_have_dots_and_be_those_of_methods() -> None:
    tables: dict[str, TableConfig] = {
        "a": DPQ(dim=4, num_parts=2, num_keys=4),
        "a.b": DPQ(dim=4, num_parts=2, num_keys=4),
        "forward": DPQ(dim=4, num_parts=2, num_keys=4, project=3),
    }
    features = [feature(f"f.{name}", name) for name in tables]
    module = embeddings(tables, features)
    other = embeddings(tables, features, seed=2)
    other.load_state_dict(module.state_dict())
    batch: dict[str, Ids] = {one.name: ids([3, 49]) for one in features}
    for one in (module, module.served()):
        got, wanted = one.eval()(batch), other.eval()(batch)
        for name in batch:
            assert torch.equal(as_tensor(got[name]), as_tensor(wanted[name]))


# Converted and served


def test_served_converts_what_changes_and_carries_the_rest() -> None:
    tables: dict[str, TableConfig] = {
        "plain": Full(dim=6),
        "coded": DPQ(dim=6, num_parts=3, num_keys=4),
        "small": Full(dim=6, precision="int4", step="row"),
        "cut": Matryoshka(dim=6, serve=2),
        "learned": MixedDim(dim=6, exponent=0.5, project=5),
    }
    features = [feature(name, name) for name in tables]
    features += [feature("users", "learned", space="user"), feature("more", "coded", space="user")]
    module = embeddings(tables, features).eval()
    keys = {one.name: ids(range(20)) for one in features}
    served = module.served()
    assert {name: one.kind_name for name, one in served.tables.items()} == {
        "plain": "full",
        "coded": "codes",
        "small": "full",
        "cut": "matryoshka",
        "learned": "mixed_dim",
    }
    assert not served.training
    wanted, got = module(keys), served(keys)
    for name in keys:
        assert torch.equal(as_tensor(got[name]), as_tensor(wanted[name])), name
    # A module of its own: training on does not change what is served.
    module.train()
    sum(as_tensor(one).sum() for one in module(keys).values()).backward()  # type: ignore[union-attr]
    module.step()
    for name, vectors in served(keys).items():
        assert torch.equal(as_tensor(vectors), as_tensor(got[name])), name


def test_embeddings_without_another_form_are_served_as_they_are() -> None:
    module = embeddings({"plain": Full(dim=6)}, [feature("one", "plain")])
    assert module.served() is module


def test_serving_draws_no_random_number() -> None:
    module = embeddings({"a": DPQ(dim=6, num_parts=3, num_keys=4)}, [feature("one", "a")])
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    module.served()
    assert torch.equal(torch.rand(3), wanted)


def test_one_content_may_be_replaced() -> None:
    tables: dict[str, TableConfig] = {"a": Full(dim=3), "b": Full(dim=3)}
    module = embeddings(tables, [feature("one", "a"), feature("two", "b")])
    values = torch.arange(150.0).reshape(50, 3)
    content = TableContent(config=Full(dim=3), values={"rows": values}, learned=None)
    new = module.converted({"b": content})
    assert torch.equal(new.rows.tables()["b"], values)
    assert torch.equal(new.rows.tables()["a"], module.rows.tables()["a"])
    assert not torch.equal(module.rows.tables()["b"], values)


def test_projection_needs_equal_lookups() -> None:
    features = [feature("one", "a", lookups=2), feature("two", "a")]
    with pytest.raises(
        RecembError, match=r"^table 'a': project needs features with equal lookups, got \[1, 2\]"
    ):
        embeddings({"a": Unified(dim=3, num_rows=9, project=5)}, features)


# Features resolved against the data


@pytest.fixture
def schema() -> Schema:
    keys = torch.tensor([10, 20, 30])
    vocabularies = {
        name: Vocabulary(name, keys, torch.arange(3), keys, VocabularyConfig(), False)
        for name in ("item", "user", "genre")
    }
    return Schema(
        columns={
            "item": Column(is_list=False, vocabulary="item"),
            "history": Column(is_list=True, vocabulary="item"),
            "user": Column(is_list=False, vocabulary="user"),
            "url": Column(is_list=False, vocabulary=None),
        },
        vocabularies=vocabularies,
        attributes={"genres": Attribute("item", "genre", True, keys, torch.tensor([0, 1, 2, 3]))},
    )


def _resolve(
    schema: Schema, features: Mapping[str, FeatureConfig], tables: Mapping[str, TableConfig]
) -> list[ResolvedFeature]:
    return resolve_features(features, tables, schema)


def test_features_learn_their_id_spaces_from_the_data(schema: Schema) -> None:
    features = {name: FeatureConfig(table="ads") for name in ("item", "history", "url", "genres")}
    resolved = _resolve(schema, features, {"ads": Unified(dim=4, num_rows=9)})
    # Three known values and one index for the others.
    assert [(f.name, f.space.name, f.space.num_ids, f.is_list) for f in resolved] == [
        ("item", "item", 4, False),
        ("history", "item", 4, True),
        ("url", "url", None, False),
        ("genres", "genre", 4, True),
    ]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            {"item": FeatureConfig(table="adz")},
            r"^feature 'item' reads table 'adz', which is not in tables \['ads'\]; rename it or",
        ),
        (
            {"shop": FeatureConfig(table="ads")},
            r"^feature 'shop' is not in the data, which has \['genres', 'history', 'item', 'url', ",
        ),
        (
            {"item": FeatureConfig(table="ads", lookups=2)},
            r"^feature 'item': lookups=2 needs a table of kind unified, got table 'ads' of kind f",
        ),
        (
            {"item": FeatureConfig(table="ads", lookups=0)},
            r"^feature 'item': lookups must be at least 1, got 0$",
        ),
        (
            {"item": FeatureConfig(table="ads", pooling="avg")},  # type: ignore[arg-type]
            r"^feature 'item': pooling must be 'sum', 'mean', 'max' or 'none', got 'avg'$",
        ),
        ({}, r"^features: there must be at least one, got none$"),
    ],
)
def test_bad_features_are_refused(
    schema: Schema, features: dict[str, FeatureConfig], message: str
) -> None:
    with pytest.raises(RecembError, match=message):
        _resolve(schema, features, {"ads": Full(dim=4)})


def test_a_table_without_features_is_refused(schema: Schema) -> None:
    tables = {"ads": Full(dim=4), "idle": Full(dim=4)}
    with pytest.raises(RecembError, match=r"^table 'idle' is read by no feature; remove it, or na"):
        _resolve(schema, {"item": FeatureConfig(table="ads")}, tables)


def test_dim_zero_is_refused_where_the_name_is_known() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': dim must be at least 1, got 0$"):
        embeddings({"ads": Full(dim=0)}, [feature("item", "ads")])


def test_full_table_of_two_vocabularies_has_the_rows_of_both(schema: Schema) -> None:
    features = {name: FeatureConfig(table="ads") for name in ("item", "user")}
    tables = {"ads": Full(dim=4)}
    module = embeddings(tables, _resolve(schema, features, tables))
    rows = module.rows.tables()["ads"]
    # Three known values and an unknown one, twice.
    assert rows.shape == (8, 4)
    got = module({"item": ids([3]), "user": ids([0, 3])})
    assert torch.equal(as_tensor(got["item"]), rows[[3]])
    assert torch.equal(as_tensor(got["user"]), rows[[4, 7]])


WITHOUT_TORCHREC = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchrec", "fbgemm_gpu"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
import torch
import recemb.embeddings, recemb.rows.local, recemb.rows.optimizers, recemb.tables.full
from recemb.features import ResolvedFeature, FeatureConfig
from recemb.tables.kind import IdSpace

module = recemb.embeddings.Embeddings(
    {"ads": recemb.tables.full.Full(dim=2)},
    [ResolvedFeature("item", FeatureConfig(table="ads"), IdSpace("item", 3), False)],
    lambda physical: recemb.rows.local.LocalRowsStore(
        physical, recemb.rows.optimizers.SGD(learning_rate=1.0)
    ),
)
module.rows.load_tables({"ads": torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])})
module({"item": torch.tensor([2])})["item"].sum().backward()
module.step()
print(module({"item": torch.tensor([2, 1])})["item"].tolist())
"""


def test_the_engine_trains_where_torchrec_is_not_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCHREC],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "[[3.0, 4.0], [2.0, 3.0]]\n"), done.stderr
