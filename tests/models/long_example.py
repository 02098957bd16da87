"""A small data set for models of long histories, and what they say of it by plain loops."""

import math

import polars as pl
import torch
from torch import nn

from recemb.features import FeatureConfig
from recemb.jagged import KeyedJagged
from recemb.models.dare import DARE, TWIN
from recemb.models.long_din import LongDIN
from recemb.models.long_history import LongHistoryTask, Network
from recemb.schema import Attribute, Column, DenseColumn, Schema
from recemb.tables.full import Full
from recemb.vocabulary import VocabularyConfig, build_vocabulary

NUM_IDS = {"user": 4, "item": 9, "category": 4}
"""With one for unknown values each."""
CATEGORY = [0, 1, 2, 0, 1, 1, 0, 2, 3]
"""By item; the last item is the unknown one."""
USER = [1, 0, 2, 3]
ITEM = [4, 0, 8, 2]
HISTORY = [[1, 4, 0, 3, 7, 8, 2], [], [5], [6, 6, 2, 1]]
SECONDS = [[900, 300, 64, 63, 8, 1, 0], [], [5], [2**40, 1000, 3, 2]]
PRICE = [0.5, -1.0, 2.0, 0.0]
LABEL = [1.0, 0.0, 1.0, 0.0]
KEEP = 3


def schema(seconds: bool = False) -> Schema:
    """Return a user, an item with its category, a history of items, and a price."""
    vocabularies = {
        name: build_vocabulary(
            name,
            pl.DataFrame({"value": [10 * i for i in range(n - 1)], "count": range(n, 1, -1)}),
            VocabularyConfig(),
        )
        for name, n in NUM_IDS.items()
    }
    columns = {
        "user": Column(is_list=False, vocabulary="user"),
        "item": Column(is_list=False, vocabulary="item"),
        "seen": Column(is_list=True, vocabulary="item", mean_length=3.0),
    }
    if seconds:
        columns["ago"] = Column(is_list=True, vocabulary=None, mean_length=3.0)
    category = Attribute("item", "category", False, torch.tensor(CATEGORY), torch.arange(10))
    return Schema(
        columns=columns,
        vocabularies=vocabularies,
        dense={"price": DenseColumn(mean=0.5, scale=2.0)},
        attributes={"category": category},
    )


def build(
    kind: type[LongHistoryTask] = DARE, *, seconds: bool = False, **options
) -> LongHistoryTask:
    """Return a model with values far from 0, so that no part of it hides in rounding."""
    settings = {"hidden": [5], "activation": "relu", "keep": KEEP, "time_dim": 4, "num_times": 5}
    network = Network(**{**settings, **options.pop("network", {})})
    dims = {"user": 3, "item": 4, "category": 2}
    torch.manual_seed(0)
    model = kind(
        schema=schema(seconds),
        tables={name: Full(dim=dim, init_scale=1.0) for name, dim in dims.items()},
        features={name: FeatureConfig(table=name) for name in dims},
        history={"item": "seen"},
        seconds="ago" if seconds else None,
        network=network,
        **options,
    )
    rows = {id(one) for one in model.embeddings.rows.parameters()}
    for one in model.parameters():
        if id(one) not in rows:
            nn.init.uniform_(one, -1.0, 1.0)
    return model.eval()


def keyed(seconds: bool = False) -> KeyedJagged:
    """Return the ids of the four samples as a batch holds them."""
    flat = [one for bag in HISTORY for one in bag]
    ago = [one for bag in SECONDS for one in bag]
    ones, lengths = [1] * 4, [len(bag) for bag in HISTORY]
    names = ("user", "item", "seen", *(["ago"] if seconds else []))
    values = [*USER, *ITEM, *flat, *(ago if seconds else [])]
    sizes = [ones, ones, lengths, *([lengths] if seconds else [])]
    return KeyedJagged(names, torch.tensor(values), torch.tensor(sizes))


def logits(model: LongHistoryTask, seconds: bool = False) -> torch.Tensor:
    """Return what a model says of the four samples."""
    return model(keyed(seconds), torch.tensor(PRICE).unsqueeze(1))


def table(model: LongHistoryTask, name: str) -> list[list[float]]:
    """Return a table's rows."""
    return model.embeddings.content(name).values["rows"].tolist()


def time_of(sample: int, position: int, seconds: bool) -> int:
    """Return the time of a behaviour: 1 .. 5."""
    if seconds:
        gap = SECONDS[sample][position]
        return min(1 + (math.floor(math.log2(gap)) + 1 if gap else 0), 5)
    return min(len(HISTORY[sample]) - position, 5)


def described(model: LongHistoryTask, item: int, prefix: str = "") -> list[float]:
    """Return an item's vector beside its category's."""
    own = table(model, f"{prefix}item")[item]
    return own + table(model, f"{prefix}category")[CATEGORY[item]]


def attention(model: LongHistoryTask, item: int, is_query: bool) -> list[float]:
    """Return what an item asks or answers with."""
    if isinstance(model, DARE):
        return described(model, item, "attention_")
    if model.projections:
        matrix = model.projections["query_0" if is_query else "key_0"].weight.tolist()
        own = described(model, item)
        return [dot(row, own) for row in matrix]
    return described(model, item)


def time_vector(model: LongHistoryTask, time: int, is_query: bool) -> list[float]:
    """Return what a time asks or answers with."""
    if isinstance(model, DARE):
        return model.attention_time.weight[time].tolist()
    own = model.time.weight[time].tolist()
    if model.projections:
        matrix = model.projections["query_1" if is_query else "key_1"].weight.tolist()
        return [dot(row, own) for row in matrix]
    return own


def dot(one: list[float], other: list[float]) -> float:
    """Return the product of two vectors."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def attended(model: LongHistoryTask, sample: int, seconds: bool = False) -> list[float]:
    """Return the attention logit of each behaviour of a sample, by loops."""
    query = attention(model, ITEM[sample], True)
    time_query = time_vector(model, 0, True)
    found = []
    for position, item in enumerate(HISTORY[sample]):
        key = attention(model, item, False)
        time_key = time_vector(model, time_of(sample, position, seconds), False)
        found.append(
            dot(query, key) / math.sqrt(len(key))
            + dot(time_query, time_key) / math.sqrt(len(time_key))
        )
    return found


def wanted(
    model: LongHistoryTask, sample: int, *, keep: int | None = KEEP, seconds: bool = False
) -> float:
    """Return the logit of a sample by loops.

    Args:
        model: DARE or TWIN.
        sample: Which of the four.
        keep: Behaviours that are summed; None for all.
        seconds: Whether times are powers of two.
    """
    scores = attended(model, sample, seconds)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])[:keep]
    total = sum(math.exp(scores[place]) for place in order)
    target = described(model, ITEM[sample]) + model.time.weight[0].tolist()
    history = [0.0] * len(target)
    for place in order:
        time = time_of(sample, place, seconds)
        vector = described(model, HISTORY[sample][place]) + model.time.weight[time].tolist()
        weight = math.exp(scores[place]) / total
        history = [h + weight * v for h, v in zip(history, vector, strict=True)]
    crossed = [t * h for t, h in zip(target, history, strict=True)]
    values = [*table(model, "user")[USER[sample]], (PRICE[sample] - 0.5) / 2.0]
    values += [*target, *history, *crossed]
    for layer in model.mlp:
        if isinstance(layer, nn.Linear):
            rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
            values = [dot(row, values) + bias for row, bias in rows]
        else:
            values = [max(0.0, one) for one in values]
    return values[0]


KINDS = {
    "dare": lambda **options: build(DARE, **options),
    "twin": lambda **options: build(TWIN, **options),
    "projected": lambda **options: build(TWIN, projected=True, **options),
    "din": lambda **options: build(LongDIN, attention_activation="relu", **options),
}
