"""What a collection takes from a KeyedJaggedTensor, against ``embedding_bag``."""

import pytest
import torch
from torch.nn.functional import embedding_bag
from torchrec import KeyedJaggedTensor

from recemb import EmbeddingCollection, Feature, Full, RecembError

VALUES = torch.tensor([1, 2, 3, 4, 0, 0])


def a_collection():
    return EmbeddingCollection(
        {"a": Full(dim=2), "b": Full(dim=2)},
        {name: Feature(table=name, num_ids=5, pooling="sum") for name in "ab"},
    )


def test_features_may_have_different_numbers_of_bags():
    embeddings = a_collection()
    # Six bags in all: read as a batch of three, they would have a shape that is accepted.
    keyed = KeyedJaggedTensor(
        keys=["a", "b"],
        values=VALUES,
        lengths=torch.tensor([1, 2, 0, 1, 2, 0]),
        stride_per_key_per_rank=[[2], [4]],
    )
    vectors = embeddings(keyed)
    tables = embeddings.rows.values("a"), embeddings.rows.values("b")
    of_a = embedding_bag(VALUES[:3], tables[0], torch.tensor([0, 1]), mode="sum")
    of_b = embedding_bag(VALUES[3:], tables[1], torch.tensor([0, 0, 1, 3]), mode="sum")
    torch.testing.assert_close(vectors["a"], of_a)
    torch.testing.assert_close(vectors["b"], of_b)


@pytest.mark.parametrize(
    ("settings", "weights", "message"),
    [
        ({"keys": ["a", "a"]}, None, "feature 'a': the KeyedJaggedTensor has it twice"),
        (
            {"inverse_indices": (["a", "b"], torch.tensor([[0, 1, 1], [0, 0, 1]]))},
            None,
            "has inverse indices",
        ),
        ({"weights": torch.ones(6)}, {"a": torch.ones(3)}, "weights: they are given, and"),
    ],
)
def test_what_would_be_read_wrongly_is_refused(settings, weights, message):
    given = {"keys": ["a", "b"], "values": VALUES, "lengths": torch.tensor([2, 1, 2, 1])}
    keyed = KeyedJaggedTensor(**{**given, **settings})
    with pytest.raises(RecembError, match=message):
        a_collection()(keyed, weights)
