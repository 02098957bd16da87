"""The verb ``index``: the item vectors of a checkpoint's model as an index to search."""

import argparse
import time
from pathlib import Path
from typing import Protocol, cast, get_args

import torch
from torch import nn

from recemb.checkpoint import fingerprint
from recemb.command_line.asked import unnamed
from recemb.command_line.show import summary
from recemb.errors import RecembError
from recemb.memory import peak_memory_bytes
from recemb.rebuild import rebuild
from recemb.results import versions, write_results
from recemb.run_folder import RunFolder
from recemb.serving.item_index import IndexSettings, ItemIndex, Kind
from recemb.serving.program import with_served_tables
from recemb.serving.recommend import Recommender

ITEM = "item"
QUERIES = 1000
"""Of which recall is measured."""


class Catalogue(Protocol):
    """A model of items."""

    def item_vectors(self) -> torch.Tensor:
        """Return the vectors of all items: (V, D)."""


def run(arguments: list[str]) -> None:
    """Index the item vectors of a checkpoint's model, and measure what the index finds."""
    parser = argparse.ArgumentParser(prog="python -m recemb index", description=run.__doc__)
    parser.add_argument("checkpoint", type=Path, help="written by fit")
    parser.add_argument("--kind", choices=get_args(Kind), default="flat")
    for name in ("num_lists", "num_parts", "num_probes", "num_links", "search_width"):
        default = getattr(IndexSettings(), name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument(
        "--exact_below",
        type=float,
        default=IndexSettings().exact_below,
        help="share of items below which a filter has them scored one by one",
    )
    parser.add_argument("--output", type=Path, help="folder (default: index in the run folder)")
    parser.add_argument("--count", type=int, default=100, help="items per query of the recall")
    parser.add_argument(
        "--selectivities",
        type=float,
        nargs="+",
        default=[1.0, 0.3, 0.1, 0.03, 0.01],
        help="shares of items that filters leave, at which recall is measured",
    )
    parser.add_argument("--run", type=Path, help="run folder (default: runs/index/<time>-index)")
    parser.add_argument("--json", type=Path, help="where a copy of results.json goes")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as export")
    options = parser.parse_args(arguments)
    if any(not 0 < share <= 1 for share in options.selectivities) or options.count < 1:
        raise RecembError("index: selectivities must be above 0 and at most 1, count at least 1")
    with RunFolder(options.run, "index", begin="any") as folder:
        _index(options, folder)


def _index(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    source = fingerprint(options.checkpoint)
    model, schema = rebuild(options.checkpoint, options.allow)
    output = options.output or folder / "index"
    if output.exists():
        raise RecembError(f"{output}: is there already; name another folder")
    names = ("kind", "num_lists", "num_parts", "num_probes", "num_links", "search_width")
    settings = IndexSettings(
        **{name: getattr(options, name) for name in names}, exact_below=options.exact_below
    )
    vectors_VD, query_BD = vectors_and_queries(with_served_tables(model.eval()))
    index = ItemIndex.build(vectors_VD, settings, source)
    count = min(options.count, len(vectors_VD))
    recall = index.recall(query_BD, count, options.selectivities)
    items = schema.vocabularies[schema.id_space(getattr(model, "answer", ITEM))]
    index.save(output, items.values(torch.arange(len(vectors_VD))).alias(ITEM))
    if not items.has_names:
        print(unnamed(items))
    for one in recall:
        print(
            f"{100 * one['selectivity']:g}% of items: recall@{count} {one['recall']:.4f}, by the "
            f"index alone {one['index_recall']:.4f}"
        )
    results = {
        "verb": "index",
        "versions": versions(),
        "run": str(folder),
        "checkpoint": str(options.checkpoint),
        "index": str(output),
        "recall": recall,
        "bytes": {"index": index.num_bytes, "vectors": index.vectors_VD.nbytes},
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_results(results, folder, options.json)
    print(summary(results))


@torch.no_grad()
def vectors_and_queries(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a model's item vectors, and queries: what it is asked by, else items.

    Raises:
        RecembError: If the model has no vectors of items.
    """
    if hasattr(model, "recommend"):
        user_UD, item_VD = cast(Recommender, model).all_vectors()
        order_U = torch.randperm(len(user_UD), generator=torch.Generator().manual_seed(1))
        return item_VD, user_UD[order_U[:QUERIES]]
    if not hasattr(model, "item_vectors"):
        raise RecembError(
            f"index: {type(model).__name__} has no vectors of items; use a model that ranks items"
        )
    item_VD = cast(Catalogue, model).item_vectors()
    order_V = torch.randperm(len(item_VD), generator=torch.Generator().manual_seed(1))
    return item_VD, item_VD[order_V[:QUERIES]]
