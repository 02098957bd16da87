"""One small data set for all models of features: every kind of feature, vectors by plain loops."""

import io

import polars as pl
import torch
from torch import Tensor, nn

from recemb.features import FeatureConfig
from recemb.jagged import Jagged, KeyedJagged
from recemb.models.feature_task import FeatureTask
from recemb.schema import Attribute, Column, DenseColumn, Schema
from recemb.tables.full import Full
from recemb.tables.kind import TableConfig
from recemb.tables.unified import Unified
from recemb.vocabulary import VocabularyConfig, build_vocabulary

NUM_IDS = {"user": 6, "item": 5, "tags": 4, "genres": 3, "year": 2}
"""With one for unknown values each."""
GENRES = [[0], [], [1, 2, 0], [2, 2], []]
YEAR = [1, 0, 0, 1, 1]
"""By item; the last item is the unknown one."""

USER = [0, 5, 2, 2, 4, 1, 3]
ITEM = [3, 0, 4, 2, 1, 2, 0]
TAGS = [[1], [], [3, 0, 0], [2, 1], [], [0], [3]]
DENSE = [[0.5, 3.0], [-1.0, 2.0], [0.0, 7.0], [2.5, 3.0], [1.0, 1.0], [-0.5, 4.0], [0.2, 0.1]]


def schema(dense: bool = True) -> Schema:
    """Return two columns with one id, a multi-hot one, two attributes of items and two numbers."""
    vocabularies = {
        name: build_vocabulary(
            name,
            pl.DataFrame({"value": [10 * i for i in range(n - 1)], "count": range(n, 1, -1)}),
            VocabularyConfig(),
        )
        for name, n in NUM_IDS.items()
    }
    values = torch.tensor([one for bag in GENRES for one in bag])
    offsets = torch.tensor([0, *(len(bag) for bag in GENRES)]).cumsum(0)
    return Schema(
        columns={
            "user": Column(is_list=False, vocabulary="user"),
            "item": Column(is_list=False, vocabulary="item"),
            "tags": Column(is_list=True, vocabulary="tags"),
        },
        vocabularies=vocabularies,
        dense={"price": DenseColumn(mean=0.5, scale=2.0), "age": DenseColumn()} if dense else {},
        attributes={
            "genres": Attribute("item", "genres", True, values, offsets),
            "year": Attribute("item", "year", False, torch.tensor(YEAR), torch.arange(6)),
        },
    )


def features(**lookups: int) -> dict[str, FeatureConfig]:
    """Return a configuration per feature: tables of their own name, or one table for those named.

    Args:
        lookups: In the shared table, by feature.
    """
    poolings = {"tags": "mean", "genres": "sum"}
    return {
        name: FeatureConfig(
            table="shared" if name in lookups else name,
            pooling=poolings.get(name, "mean"),
            lookups=lookups.get(name, 1),
        )
        for name in ("user", "tags", "genres", "item", "year")
    }


def tables(**dims: int) -> dict[str, TableConfig]:
    """Return a table per name; ``shared`` is a unified one. Values are far from 0."""
    return {
        name: Unified(num_rows=40, dim=dim, init_scale=1.0)
        if name == "shared"
        else Full(dim=dim, init_scale=1.0)
        for name, dim in dims.items()
    }


def equal_dims(dim: int) -> dict[str, object]:
    """Return tables and features of one width, some of them by two lookups in a shared table."""
    return {
        "tables": tables(user=dim, genres=dim, year=dim, shared=dim // 2),
        "features": features(item=2, tags=2),
    }


def different_dims() -> dict[str, object]:
    """Return tables and features of widths 3, 5, 2, 4 and 1."""
    return {
        "tables": tables(user=3, tags=5, genres=2, item=4, year=1),
        "features": features(),
    }


def keyed() -> KeyedJagged:
    """Return the ids of the seven samples as a batch holds them."""
    ones = [1] * len(USER)
    return KeyedJagged(
        ("user", "item", "tags"),
        torch.tensor([*USER, *ITEM, *(one for bag in TAGS for one in bag)]),
        torch.tensor([ones, ones, [len(bag) for bag in TAGS]]),
    )


def enlarged(model: FeatureTask) -> FeatureTask:
    """Return the model with layers that start larger, so that no part of it hides in rounding."""
    rows = {id(one) for one in model.embeddings.rows.parameters()}
    for one in model.parameters():
        if id(one) not in rows:
            torch.nn.init.uniform_(one, -0.7, 0.7)
    return model


def logits(model: FeatureTask) -> Tensor:
    """Return what a model says of the seven samples."""
    return model(keyed(), torch.tensor(DENSE)[:, : len(model.schema.dense)])


def vectors(model: FeatureTask) -> list[list[Tensor]]:
    """Return, per sample, the vector of each feature, pooled by plain loops over ids."""
    single = torch.arange(max(NUM_IDS.values()))
    ids = {
        name: Jagged(single[:n], torch.ones(n, dtype=torch.int64))
        if name in ("tags", "genres")
        else single[:n]
        for name, n in NUM_IDS.items()
    }
    rows = {name: found.detach() for name, found in model.embeddings(ids).items()}
    samples = []
    for user, item, tags in zip(USER, ITEM, TAGS, strict=True):
        zero = {name: torch.zeros(rows[name].shape[1]) for name in ("tags", "genres")}
        one = {
            "user": rows["user"][user],
            "tags": sum((rows["tags"][tag] for tag in tags), zero["tags"]) / max(len(tags), 1),
            "genres": sum((rows["genres"][genre] for genre in GENRES[item]), zero["genres"]),
            "item": rows["item"][item],
            "year": rows["year"][YEAR[item]],
        }
        samples.append([one[name] for name in ("user", "tags", "genres", "item", "year")])
    return samples


def numbers(sample: int) -> list[float]:
    """Return the standardised numbers of a sample, by hand."""
    price, age = DENSE[sample]
    return [(price - 0.5) / 2.0, age]


def perceptron(layers: nn.Sequential, inputs: list[float]) -> list[float]:
    """Return the output of linear layers and ReLUs, one multiplication at a time."""
    values = inputs
    for layer in layers:
        if isinstance(layer, nn.Linear):
            values = affine(layer, values)
        else:
            assert isinstance(layer, nn.ReLU)
            values = [max(0.0, one) for one in values]
    return values


def affine(layer: nn.Linear, inputs: list[float]) -> list[float]:
    """Return W x + b (b if it has one) by loops."""
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [
        sum(w * x for w, x in zip(row, inputs, strict=True)) + b
        for row, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def served(program: bytes) -> Tensor:
    """Return what an exported program says of the seven samples, asked by raw ids."""

    def raw(name: str, index: list[int]) -> Tensor:
        """Index i is value 10 i; the last index of a feature is any value that is not known."""
        return torch.tensor([10 * i if i < NUM_IDS[name] - 1 else 999 for i in index])

    inputs = {
        "user": raw("user", USER),
        "item": raw("item", ITEM),
        "tags": raw("tags", [one for bag in TAGS for one in bag]),
        "tags.size": torch.tensor([len(bag) for bag in TAGS]),
        "price": torch.tensor(DENSE)[:, 0],
        "age": torch.tensor(DENSE)[:, 1],
    }
    return torch.jit.load(io.BytesIO(program))(inputs)


def fit_parity(model: FeatureTask, steps: int = 150) -> float:
    """Train on "is user + item even?", which no sum over features tells; return the last loss."""
    generator = torch.Generator().manual_seed(0)
    optimizer = model.configure_optimizers()
    for _ in range(steps):
        user, item = (torch.randint(n, (64,), generator=generator) for n in (5, 4))
        ones = torch.ones(64, dtype=torch.int64)
        tags = torch.zeros(64, dtype=torch.int64)
        batch = KeyedJagged(
            ("user", "item", "tags"), torch.cat([user, item]), torch.stack([ones, ones, tags])
        )
        found = model(batch, torch.zeros(64, len(model.schema.dense)))
        label = ((user + item) % 2).float()
        loss = nn.functional.binary_cross_entropy_with_logits(found, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.embeddings.step()
    return loss.item()


def without_gradient(model: FeatureTask) -> list[str]:
    """Return the dense parameters that the loss of the seven samples does not reach."""
    logits(model).square().sum().backward()
    rows = {id(one) for one in model.embeddings.rows.parameters()}
    return [
        name
        for name, one in model.named_parameters()
        if id(one) not in rows and (one.grad is None or not one.grad.any())
    ]
