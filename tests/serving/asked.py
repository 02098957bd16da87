"""A small program of each kind, with a request that it answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from torch import Tensor, nn

from recemb.features import FeatureConfig
from recemb.models.din import DIN
from recemb.models.din import Network as DINNetwork
from recemb.models.dlrm import DLRM
from recemb.models.two_stages import export_stages
from recemb.schema import Column, DenseColumn, Schema
from recemb.serving.archive import load_program
from recemb.serving.export import export
from recemb.tables.full import Full
from recemb.vocabulary import VocabularyConfig, build_vocabulary
from tests.models import example, long_example, pairs, test_dual, test_session

Request = dict[str, Tensor]


@dataclass(frozen=True)
class Asked:
    """A program as it is loaded, and a request."""

    program: nn.Module
    request: Request


def vocabulary(name: str, size: int):
    """Return raw ids 0, 10, 20, ..."""
    counts = pl.DataFrame({"value": [10 * i for i in range(size)], "count": range(size, 0, -1)})
    return build_vocabulary(name, counts, VocabularyConfig())


def din() -> DIN:
    """Return DIN over an item and its shop, with a history of each; of shops 70 is padding."""
    columns = {
        "item": Column(is_list=False, vocabulary="item"),
        "shop": Column(is_list=False, vocabulary="shop"),
        "seen": Column(is_list=True, vocabulary="item", mean_length=2.0),
        "seen_shop": Column(is_list=True, vocabulary="shop", mean_length=2.0, padding=70),
    }
    schema = Schema(
        columns=columns,
        vocabularies={"item": vocabulary("item", 9), "shop": vocabulary("shop", 4)},
        dense={"price": DenseColumn(mean=1.0, scale=2.0)},
    )
    torch.manual_seed(0)
    return DIN(
        schema=schema,
        tables={name: Full(dim=3, init_scale=1.0) for name in ("item", "shop")},
        features={name: FeatureConfig(table=name) for name in ("item", "shop")},
        history={"item": "seen", "shop": "seen_shop"},
        network=DINNetwork(hidden=[5], attention_hidden=[4]),
    )


def ids(*values: int) -> Tensor:
    """Return ids or sizes."""
    return torch.tensor(values, dtype=torch.int64)


SIZES = ids(2, 0, 3)
ITEMS, SHOPS = ids(10, 20, 30, 80, 10), ids(0, 10, 30, 30, 0)
SEEN = {"seen": ITEMS, "seen.size": SIZES}
SINGLE = {"user": ids(0, 10, 20), "item": ids(30, 0, 70), "price": torch.tensor([0.5, -1.0, 2.0])}
DESCRIBED = {
    f"{start}{name}": values
    for start, number in (("", 5), ("candidate.", 2))
    for name, values in {
        "tags": ids(*[10 * (i % 4) for i in range(2 * number)]),
        "tags.size": ids(*[2] * number),
        "shop": ids(*[10 * (i % 3) for i in range(number)]),
    }.items()
}
REQUESTS: dict[str, Request] = {
    "dlrm": {
        **{name: SINGLE[name] for name in ("user", "item", "price")},
        "age": torch.tensor([1.0, 2.0, 3.0]),
        "tags": ids(0, 10, 20, 0, 10),
        "tags.size": SIZES,
    },
    "din": {
        **{name: SINGLE[name] for name in ("item", "price")},
        **SEEN,
        "shop": ids(0, 10, 20),
        "seen_shop": SHOPS,
        "seen_shop.size": SIZES,
    },
    "long": {**SINGLE, **SEEN},
    "seconds": {**SINGLE, **SEEN, "ago": ids(9, 2, 2**40, 5, 0), "ago.size": SIZES},
    "search": {"item": ids(30, 0), "seen": ITEMS},
    "search by seconds": {"item": ids(30, 0), "seen": ITEMS, "ago": ids(9, 8, 7, 6, 5)},
    "rank": {**SINGLE, **SEEN, "ages": ids(1, 0, 9, 4, 0)},
    "session": {"history": ITEMS, "history.size": SIZES},
    "described": {"history.size": SIZES, **DESCRIBED},
    "users": {"user": ids(0, 20, 999)},
    "graph": {"user": ids(0, 20, 999)},
    "dual": {"item": ids(0, 20, 999)},
}


def _dlrm() -> nn.Module:
    names = ("user", "item", "tags")
    torch.manual_seed(0)
    tables = {name: Full(dim=4, init_scale=1.0) for name in names}
    return DLRM(example.schema(), tables, {name: FeatureConfig(table=name) for name in names})


MODELS: dict[str, Callable[[], nn.Module]] = {
    "dlrm": _dlrm,
    "din": din,
    "long": long_example.build,
    "seconds": lambda: long_example.build(seconds=True),
    "session": test_session.model,
    "described": lambda: test_session.model("metadata"),
    "users": lambda: pairs.build("mf"),
    "graph": lambda: pairs.build("lightgcn"),
    "dual": test_dual.build,
}
STAGES = {"search": ("long", "search"), "search by seconds": ("seconds", "search"),
          "rank": ("long", "rank")}  # fmt: skip


def exported(folder: Path) -> dict[str, Asked]:
    """Return every program, written into a folder and loaded."""
    programs = {}
    for name, make in MODELS.items():
        model = make().eval()
        export(model, model.schema, folder / f"{name}.pt")
        programs[name] = load_program(folder / f"{name}.pt")
        if hasattr(model, "export_stages"):
            export_stages(model, folder / f"{name}.pt")
    for name, (model_name, stage) in STAGES.items():
        programs[name] = load_program(folder / f"{model_name}.{stage}.pt")
    return {name: Asked(program, REQUESTS[name]) for name, program in programs.items()}
