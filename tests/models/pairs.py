"""A small graph of users and items, whose pairs are known in every form."""

import polars as pl
import torch
from torch import Tensor

from recemb.data.batch import Batch
from recemb.features import FeatureConfig
from recemb.jagged import KeyedJagged
from recemb.models.lightgcn import LightGCN
from recemb.models.mf_bpr import MatrixFactorizationBPR
from recemb.models.ngcf import NGCF
from recemb.rows.optimizers import Adam
from recemb.schema import Attribute, Column, Schema
from recemb.tables.full import Full
from recemb.vocabulary import Unknown, VocabularyConfig, build_vocabulary

NUM_USERS, NUM_ITEMS = 6, 8
# The items of each user by index; user 5 has none, and nobody has items 6 and 7.
SEEN = [[0, 1, 2, 3, 4, 5], [0, 1, 2], [0, 3], [1, 0], [2], []]
MODELS = {"mf": MatrixFactorizationBPR, "lightgcn": LightGCN, "ngcf": NGCF}


def schema(unknown: Unknown = "own") -> Schema:
    """Raw ids are ten times the indices; counts fall, so the indices are as given."""
    vocabularies = {}
    for name, size in (("user", NUM_USERS), ("item", NUM_ITEMS)):
        values = [10 * index for index in range(size)]
        counts = pl.DataFrame({"value": values, "count": list(range(size, 0, -1))})
        vocabularies[name] = build_vocabulary(name, counts, VocabularyConfig(unknown=unknown))
    lengths = [len(items) for items in SEEN] + [0] * (unknown == "own")  # unknown users too
    seen = Attribute(
        "user",
        "item",
        True,
        torch.tensor([item for items in SEEN for item in items]),
        torch.tensor([0, *lengths]).cumsum(0),
    )
    columns = {name: Column(is_list=False, vocabulary=name) for name in vocabularies}
    return Schema(columns=columns, vocabularies=vocabularies, attributes={"seen": seen})


def build(kind: str, dim: int = 4, unknown: Unknown = "own", **settings: object) -> object:
    """A model with vectors that are not small."""
    torch.manual_seed(3)
    tables = {name: Full(dim=dim, init_scale=1.0) for name in ("user", "item")}
    features = {name: FeatureConfig(table=name) for name in ("user", "item")}
    settings = {"rows_optimizer": Adam(learning_rate=0.05), **settings}
    return MODELS[kind](schema(unknown), tables, features, **settings)


def rows(model: object) -> tuple[Tensor, Tensor]:
    """What the tables hold of users and items, unknown ones last."""
    return tuple(model.embeddings.content(name).values["rows"].clone() for name in ("user", "item"))


def adjacency() -> Tensor:
    """The normalised matrix over users (7 with the unknown) and items (9), dense."""
    num_users, size = NUM_USERS + 1, NUM_USERS + NUM_ITEMS + 2
    edges = torch.zeros(size, size)
    for user, items in enumerate(SEEN):
        for item in items:
            edges[user, num_users + item] = edges[num_users + item, user] = 1
    root = edges.sum(1).sqrt()
    return edges / (root[:, None] * root[None, :]).clamp(min=1e-9)


def batch(pairs: list[tuple[int, int]]) -> Batch:
    """Pairs of indices as a data module gives them."""
    user_B, item_B = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T
    ones_2B = torch.ones(2, len(pairs), dtype=torch.int64)
    ids = KeyedJagged(("user", "item"), torch.cat([user_B, item_B]), ones_2B)
    return Batch(ids, torch.empty(len(pairs), 0), torch.ones(len(pairs)), max(1, len(pairs)))
