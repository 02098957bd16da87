"""The embedding collection: what it takes, what it gives, and what it refuses."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn

from recemb import (
    EmbeddingCollection,
    Feature,
    Full,
    Hashed,
    Jagged,
    KeyedJagged,
    RecembError,
    Unified,
    VocabularyConfig,
    count_vocabulary,
    raw_ids,
)
from recemb.optim import SGD, Adagrad, RowsOptimizer, dense_parameters

USERS, WORDS = 5, 7


def collection(pooling="sum", **options):
    """Return a user with one id and a title with a bag of words."""
    torch.manual_seed(1)
    return EmbeddingCollection(
        {"user": Full(dim=3), "word": Full(dim=4)},
        {
            "user": Feature(table="user", num_ids=USERS),
            "title": Feature(table="word", num_ids=WORDS, pooling=pooling),
        },
        SGD(learning_rate=0.5),
        **options,
    )


USER = torch.tensor([4, 0, 4])
BAGS = [[1, 6, 1], [], [3]]
VALUES, LENGTHS = torch.tensor([1, 6, 1, 3]), torch.tensor([3, 0, 1])
WEIGHTS = torch.tensor([0.5, -2.0, 3.0, 0.25])


def forms():
    """Return the same ids in every form."""
    torchrec = pytest.importorskip("torchrec")
    keyed = {
        "keys": ["title", "user"],
        "values": torch.cat([VALUES, USER]),
        "lengths": torch.cat([LENGTHS, torch.ones(3, dtype=torch.int64)]),
    }
    nested = torch.nested.nested_tensor(
        [torch.tensor(bag, dtype=torch.int64) for bag in BAGS], layout=torch.jagged
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises the jagged layout
        strided = torch.nested.nested_tensor([torch.tensor(bag, dtype=torch.int64) for bag in BAGS])
    return {
        "jagged": {"user": USER, "title": Jagged(VALUES, LENGTHS)},
        "int32": {"user": USER.int(), "title": Jagged(VALUES.int(), LENGTHS.int())},
        "nested": {"user": USER, "title": nested},
        "strided": {"user": USER, "title": strided},
        "torchrec": torchrec.KeyedJaggedTensor(**keyed),
        "keyed": KeyedJagged(("title", "user"), keyed["values"], keyed["lengths"]),
    }


@pytest.mark.parametrize("form", ["jagged", "int32", "nested", "strided", "torchrec", "keyed"])
def test_every_form_of_ids_gives_torchs_own_vectors(form):
    own = collection()
    user, word = own.rows.values("user"), own.rows.values("word")
    vectors = own(forms()[form])
    assert torch.equal(vectors["user"], user[USER])
    wanted = torch.stack([word[bag].sum(0) for bag in BAGS])
    # A bag of three is added in another order.
    torch.testing.assert_close(vectors["title"], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("by_keyed", [False, True])
def test_weighted_sums_are_those_of_torchs_embedding_bag(by_keyed):
    own, weights = collection(), WEIGHTS.clone().requires_grad_()
    table = own.rows.values("word").clone().requires_grad_()
    bag = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum")
    theirs = WEIGHTS.clone().requires_grad_()
    offsets = torch.tensor([0, 3, 3])
    wanted = bag(VALUES, offsets, per_sample_weights=theirs)
    if by_keyed:
        torchrec = pytest.importorskip("torchrec")
        ids = torchrec.KeyedJaggedTensor(
            keys=["title", "user"],
            values=torch.cat([VALUES, USER]),
            lengths=torch.cat([LENGTHS, torch.ones(3, dtype=torch.int64)]),
            weights=torch.cat([weights, torch.ones(3)]),
        )
        vectors = own(ids)
    else:
        vectors = own(forms()["jagged"], {"title": weights})
    torch.testing.assert_close(vectors["title"], wanted, rtol=0, atol=1e-6)
    assert torch.equal(vectors["user"], own.rows.values("user")[USER])
    vectors["title"].square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(weights.grad, theirs.grad, rtol=0, atol=1e-5)
    own.step()
    changed = table.detach() - 0.5 * bag.weight.grad
    torch.testing.assert_close(own.rows.values("word"), changed, rtol=0, atol=1e-5)


def test_a_weighted_mean_is_divided_by_the_weights():
    own = collection("mean")
    word = own.rows.values("word")
    weights = torch.tensor([1.0, 2.0, 1.0, 0.0])
    found = own(forms()["jagged"], {"title": weights})["title"]
    wanted = (2 * word[1] + 2 * word[6]) / 4
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-6)
    # No ids, and ids that weigh nothing.
    assert torch.equal(found[1:], torch.zeros(2, 4))


def test_weights_of_sequences_and_of_single_ids():
    own = collection("none")
    ids = forms()["jagged"]
    found = own(ids, {"title": WEIGHTS, "user": torch.tensor([1.0, 2.0, 0.0])})
    assert torch.equal(found["title"].values, own.rows.values("word")[VALUES] * WEIGHTS[:, None])
    user = own.rows.values("user")
    assert torch.equal(found["user"], torch.stack([user[4], 2 * user[0], 0 * user[4]]))


def test_features_of_one_table_read_the_same_rows():
    own = EmbeddingCollection(
        {"item": Full(dim=2)},
        {
            "item": Feature(table="item", num_ids=9),
            "history": Feature(table="item", num_ids=9, pooling="none"),
        },
    )
    history = Jagged(torch.tensor([8, 2]), torch.tensor([0, 2]))
    found = own({"item": torch.tensor([2, 8]), "history": history})
    assert torch.equal(found["item"], found["history"].values.flip(0))
    assert own.rows.values("item").shape == (9, 2)


def test_features_of_one_table_that_have_ids_of_their_own():
    own = EmbeddingCollection(
        {"both": Full(dim=2)},
        {
            "user": Feature(table="both", num_ids=4, ids="user"),
            "item": Feature(table="both", num_ids=5, ids="item"),
        },
    )
    assert own.rows.values("both").shape == (9, 2)
    found = own({"user": torch.tensor([3]), "item": torch.tensor([3])})
    assert not torch.equal(found["user"], found["item"])


def test_values_of_a_vocabulary_are_ids():
    seen = ["tea", "rum", "tea", "ale", "rum", "tea"]
    known = count_vocabulary(seen)
    own = EmbeddingCollection(
        {"drink": Full(dim=2)}, {"drink": Feature(table="drink", vocabulary=known)}
    )
    rows = own.rows.values("drink")
    assert rows.shape == (4, 2)  # three that are known, one for all others
    found = own({"drink": raw_ids(["ale", "tea", "gin", "rum"])})["drink"]
    assert torch.equal(found, rows[[2, 0, 3, 1]])


def test_features_that_read_the_same_rows_have_one_vocabulary():
    tables, drinks = {"drink": Full(dim=2)}, count_vocabulary(["tea", "rum"])
    for other in (count_vocabulary(["tea", "gin"]), None):
        features = {
            "drink": Feature(table="drink", vocabulary=drinks),
            "last": Feature(table="drink", vocabulary=other, num_ids=None if other else 3),
        }
        with pytest.raises(RecembError, match=r"^feature 'last': it reads the same rows as feat"):
            EmbeddingCollection(tables, features)
    same = Feature(table="drink", vocabulary=count_vocabulary(["tea", "rum"]))
    own = EmbeddingCollection(
        tables, {"drink": Feature(table="drink", vocabulary=drinks), "last": same}
    )
    found = own({name: raw_ids(["rum"]) for name in ("drink", "last")})
    assert torch.equal(found["drink"], found["last"])


def test_an_unknown_value_is_refused_where_the_vocabulary_says_so():
    known = count_vocabulary([30, 10, 30], VocabularyConfig(unknown="error"))
    own = EmbeddingCollection({"a": Full(dim=2)}, {"a": Feature(table="a", vocabulary=known)})
    assert torch.equal(own({"a": torch.tensor([10])})["a"], own.rows.values("a")[1:])
    with pytest.raises(RecembError, match=r"^feature 'a': value 20 is not in its vocabulary"):
        own({"a": torch.tensor([10, 20])})


@pytest.mark.parametrize(
    "values", [[1.5], [None, 1], [True], [2**63]], ids=["float", "null", "bool", "large"]
)
def test_what_is_no_id(values):
    with pytest.raises(RecembError, match=r"^ids: "):
        raw_ids(values)


F = Feature


@pytest.mark.parametrize(
    ("tables", "features", "message"),
    [
        ({"a": Full(dim=2)}, {}, "features: there must be at least one, got none"),
        ({"a": Full(dim=2)}, [F(table="a")], "features: they must be a mapping of names to F"),
        ({"a": Full(dim=2)}, {"x": "a"}, "feature 'x': it must be a Feature, got 'a'"),
        ({"a": Full(dim=2)}, {"x": F(table="b", num_ids=3)}, "feature 'x' reads table 'b', which"),
        (
            {"a": Full(dim=2), "b": Full(dim=2)},
            {"x": F(table="a", num_ids=3)},
            "table 'b' is read by no feature",
        ),
        (
            {"a": Full(dim=2)},
            {"x": F(table="a", num_ids=3, pooling="avg")},
            "feature 'x': pooling must be",
        ),
        (
            {"a": Full(dim=2)},
            {"x": F(table="a", num_ids=3, lookups=3)},
            "feature 'x': lookups=3 needs a table of kind unified",
        ),
        ({"a": Full(dim=2)}, {"x": F(table="a", num_ids=0)}, "feature 'x': id space 'a' must have"),
        (
            {"a": Full(dim=2)},
            {"x": F(table="a", num_ids=20), "y": F(table="a", num_ids=10)},
            "feature 'y': id space 'a' has",
        ),
        (
            {"a": Full(dim=2)},
            {"x": F(table="a", num_ids=2, vocabulary=count_vocabulary([1]))},
            "feature 'x': it has num_ids and a vocabulary",
        ),
        (
            {"a": Full(dim=2)},
            {"x": F(table="a", vocabulary=["tea"])},
            "feature 'x': vocabulary must be a Vocabulary, got list",
        ),
        ({"a": Full(dim=2)}, {"x": F(table="a")}, "table 'a': "),
        ({"a": "full"}, {"x": F(table="a", num_ids=2)}, "table 'a': it must be a table config"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tables, features, message):
    with pytest.raises(RecembError) as caught:
        EmbeddingCollection(tables, features)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (SGD(learning_rate=-1.0), "rows optimizer: learning_rate must be above 0, got -1.0"),
        (SGD(weight_decay=-1.0), "rows optimizer: weight_decay must be at least 0, got -1.0"),
        (torch.optim.SGD([torch.zeros(1)], lr=1), "rows optimizer: rows need an optimizer of"),
        ({}, "optimizer: table 'a' has none"),
        ({"a": SGD(), "b": SGD()}, "optimizer: there is no table 'b'"),
        ({"a": SGD(learning_rate=-1.0)}, "rows optimizer of table 'a': learning_rate must be"),
    ],
)
def test_an_optimizer_that_is_none_is_refused(optimizer, message):
    with pytest.raises(RecembError) as caught:
        EmbeddingCollection({"a": Full(dim=2)}, {"a": F(table="a", num_ids=3)}, optimizer)
    assert str(caught.value).startswith(message)


BAG = Jagged(VALUES, LENGTHS)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        ({"user": USER}, None, "feature 'title': its ids are missing"),
        ({"user": USER, "title": BAG, "x": USER}, None, "feature 'x': there is none, but ids"),
        ({"user": BAG, "title": BAG}, None, "feature 'user': ids must be a tensor of whole"),
        ({"user": USER, "title": USER}, None, "feature 'title': it has a bag of ids per sample"),
        ({"user": USER.float(), "title": BAG}, None, "feature 'user': ids must be a tensor of w"),
        ({"user": [1, 2, 3], "title": BAG}, None, "feature 'user': ids must be a tensor of whole"),
        ({"user": USER + 1, "title": BAG}, None, "feature 'user': "),
        ([USER, BAG], None, "ids: they must be a mapping of features to tensors, or a Keyed"),
        (
            KeyedJagged(
                ("title", "user"), torch.cat([VALUES, USER]), torch.tensor([3, 0, 1, 2, 0, 1])
            ),
            None,
            "feature 'user': each sample must have one id",
        ),
        ({"user": USER, "title": BAG}, {"x": WEIGHTS}, "feature 'x': weights are given, but"),
        ({"user": USER, "title": BAG}, {"title": WEIGHTS[:2]}, "feature 'title': weights must be"),
        ({"user": USER, "title": BAG}, {"title": VALUES}, "feature 'title': weights must be"),
    ],
)
def test_ids_and_weights_of_another_form_are_refused(ids, weights, message):
    with pytest.raises(RecembError) as caught:
        collection()(ids, weights)
    assert str(caught.value).startswith(message)


def test_a_maximum_has_no_weights():
    with pytest.raises(RecembError, match=r"^feature 'title': weights have no meaning where the"):
        collection("max")({"user": USER, "title": BAG}, {"title": WEIGHTS})


# What torch users do with a module


def trained(own, steps=3):
    """Return the word rows after some steps."""
    for step in range(steps):
        ids = {"user": (USER + step) % USERS, "title": BAG}
        sum(one.square().sum() for one in own(ids).values()).backward()
        own.step()
    return own.rows.values("word").clone()


@pytest.mark.parametrize("by", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_learns_by_itself(by):
    own = collection()
    trained(own, 1)
    if by == "deepcopy":
        other = copy.deepcopy(own)
    elif by == "pickle":
        other = pickle.loads(pickle.dumps(own))
    else:
        content = io.BytesIO()
        torch.save(own, content)
        other = torch.load(io.BytesIO(content.getvalue()), weights_only=False)
    before = own.rows.values("word").clone()
    changed = trained(other)
    assert torch.equal(own.rows.values("word"), before)
    assert torch.equal(trained(own), changed)


def test_a_compiled_collection_gives_and_learns_the_same():
    own, other = collection(), collection()
    compiled = torch.compile(other, backend="eager")
    ids = {"user": USER, "title": BAG}
    for name, vectors in compiled(ids).items():
        assert torch.equal(vectors, own(ids)[name])
    sum(one.square().sum() for one in compiled(ids).values()).backward()
    other.step()
    assert torch.equal(other.rows.values("word"), trained(own, 1))


def test_a_state_dict_may_lack_and_have_more():
    own, other = collection(), collection()
    trained(own, 1)
    state = own.state_dict()
    assert set(state) == {"rows.user", "rows.word"}
    more = {"rows.word": state["rows.word"], "rows.other": torch.zeros(2)}
    missing, unexpected = other.load_state_dict(more, strict=False)
    assert (missing, unexpected) == (["rows.user"], ["rows.other"])
    assert torch.equal(other.rows.values("word"), own.rows.values("word"))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(more)


@pytest.mark.parametrize("mode", [True, False])
def test_rows_train_in_every_mode_unless_gradients_are_off(mode):
    own = collection().train(mode)
    before = own.rows.values("word").clone()
    with torch.no_grad():
        assert not own({"user": USER, "title": BAG})["title"].requires_grad
    changed = trained(own, 1)
    assert not torch.equal(changed[1], before[1])
    assert torch.equal(changed[0], before[0])


def test_a_frozen_table_stays_and_the_others_learn():
    own = EmbeddingCollection(
        {"user": Full(dim=4), "word": Full(dim=4), "shared": Unified(dim=4, num_rows=50)},
        {
            "user": F(table="user", num_ids=USERS),
            "title": F(table="word", num_ids=WORDS, pooling="sum"),
            "site": F(table="shared"),
        },
        Adagrad(learning_rate=0.5),
    )
    ids = {"user": USER, "title": BAG, "site": torch.tensor([10**12, 7, -5])}
    before = {name: own.rows.values(name).clone() for name in own.tables}

    def learn():
        sum(one.square().sum() for one in own(ids).values()).backward()
        own.step()
        return {name for name in own.tables if not torch.equal(own.rows.values(name), before[name])}

    own.freeze("word", "shared")
    assert learn() == {"user"}
    own.unfreeze("word")
    assert learn() == {"user", "word"}
    with pytest.raises(RecembError, match=r"^table 'words': there is none to freeze or unfreeze"):
        own.freeze("words")


def test_hashing_takes_any_number():
    own = EmbeddingCollection(
        {"site": Hashed(dim=2, num_rows=5)}, {"site": F(table="site")}, SGD(learning_rate=0.1)
    )
    found = own({"site": torch.tensor([2**62, -1, 2**62])})["site"]
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weighted_means_of_converted_tables(dtype):
    embeddings = EmbeddingCollection(
        {"a": Full(dim=2)}, {"a": Feature(table="a", num_ids=4, pooling="mean")}
    ).to(dtype)
    bags = Jagged(torch.tensor([1, 3, 2]), torch.tensor([2, 1]))
    found = embeddings({"a": bags}, {"a": torch.tensor([1.0, 3.0, 5.0])})["a"]
    rows = embeddings.rows.values("a")
    expected = torch.stack([rows[1] * 0.25 + rows[3] * 0.75, rows[2]])
    torch.testing.assert_close(found, expected)
    assert found.dtype == dtype


def test_weights_must_come_by_feature():
    embeddings = EmbeddingCollection({"a": Full(dim=2)}, {"a": Feature(table="a", num_ids=4)})
    with pytest.raises(RecembError, match="weights must be given by feature, got a tensor"):
        embeddings({"a": torch.tensor([1])}, torch.ones(1))


def test_nested_tensors_may_have_holes():
    embeddings = EmbeddingCollection(
        {"a": Full(dim=2)}, {"a": Feature(table="a", num_ids=8, pooling="sum")}
    )
    starts, lengths = torch.tensor([1, 0]), torch.tensor([2, 3])
    nested = torch.nested.narrow(
        torch.arange(8).view(2, 4), 1, starts, lengths, layout=torch.jagged
    )
    rows = embeddings.rows.values("a")
    expected = torch.stack([rows[[1, 2]].sum(0), rows[[4, 5, 6]].sum(0)])
    torch.testing.assert_close(embeddings({"a": nested})["a"], expected)


def test_freezing_drops_gradients_that_wait():
    embeddings = EmbeddingCollection(
        {"a": Full(dim=2, project=3)}, {"a": Feature(table="a", num_ids=4)}
    )
    before = {name: one.clone() for name, one in embeddings.state_dict().items()}
    parameters = dense_parameters(embeddings)
    optimizer = RowsOptimizer(embeddings, dense=torch.optim.SGD(parameters, lr=0.1))
    embeddings({"a": torch.tensor([1])})["a"].sum().backward()
    embeddings.freeze("a")
    optimizer.step()
    for name, one in embeddings.state_dict().items():
        assert torch.equal(one, before[name])
