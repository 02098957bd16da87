"""The verb ``recommend``: the best items of users, or the complements of items."""

import argparse
import time
from pathlib import Path
from typing import cast

import polars as pl
import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.hashing import hash_strings
from recemb.memory import peak_memory_bytes
from recemb.rebuild import rebuild
from recemb.results import new_run, versions, write_results
from recemb.serving.item_index import ItemIndex
from recemb.serving.next_item import NOTHING, raw_items
from recemb.serving.program import with_served_tables
from recemb.serving.recommend import Recommender
from recemb.vocabulary import Vocabulary

ITEM = "item"
SHOWN = 10
"""Queries that are printed."""
QUERIES = {
    "users": ("user", "the best items of users"),
    "complements_of": ("item", "what goes with items"),
    "substitutes_of": ("item", "what is like items"),
}
"""By option, what the model must be asked for, and what comes out."""


def run(arguments: list[str]) -> None:
    """Write the best items of users, or what goes with items or is like them; print some."""
    parser = argparse.ArgumentParser(prog="python -m recemb recommend", description=run.__doc__)
    parser.add_argument("checkpoint", type=Path, help="written by fit, of a model that ranks items")
    asked = parser.add_mutually_exclusive_group(required=True)
    for name, (_, meaning) in QUERIES.items():
        asked.add_argument(f"--{name}", nargs="+", help=f"{meaning}; raw ids, as in the data")
    parser.add_argument("--count", type=int, default=10, help="items per query")
    parser.add_argument("--index", type=Path, help="folder that recemb index wrote of this model")
    parser.add_argument("--items", type=Path, help="parquet file of items, for --where")
    parser.add_argument("--key", default=ITEM, help="column of raw item ids in that file")
    parser.add_argument(
        "--where", help='which items may come, in SQL over that file: "stock > 0 AND age < 30"'
    )
    parser.add_argument("--run", type=Path, help="run folder")
    parser.add_argument("--json", type=Path, help="where a copy of results.json goes")
    parser.add_argument("--allow", action="append", default=[], metavar="PACKAGE", help="as export")
    options = parser.parse_args(arguments)
    if options.count < 1:
        raise RecembError(f"recommend: count must be at least 1, got {options.count}")
    if (options.where is None) != (options.items is None):
        raise RecembError("recommend: --where and --items go together; give both or neither")
    started = time.perf_counter()
    model, schema = rebuild(options.checkpoint, options.allow)
    option = next(name for name in QUERIES if getattr(options, name))
    query, given = QUERIES[option][0], getattr(options, option)
    if not hasattr(model, "recommend") or model.query != query:
        can = [name for name, (one, _) in QUERIES.items() if one == getattr(model, "query", None)]
        raise RecembError(
            f"{options.checkpoint}: {type(model).__name__} cannot be asked for --{option}, but for "
            f"{[f'--{name}' for name in can] or 'nothing'}; use a model of {query}s"
        )
    queries = schema.vocabularies[schema.id_space(query)]
    items = schema.vocabularies[schema.id_space(cast(str, model.answer))]
    user_B = queries.lookup(raw_queries(given, queries))
    allowed_V = None
    if options.where is not None:
        allowed_V = allowed_items(options.items, options.key, options.where, items)
    index = ItemIndex.load(options.index) if options.index else None
    served = with_served_tables(model.eval())
    alike = option == "substitutes_of"
    items_BK, scores_BK = best(served, user_B, options.count, allowed_V, index, alike)
    raw_BK = raw_items(items.raw_of_index(), items_BK)
    column = "query" if query == ITEM else query  # beside the column of the items that come
    rows = pl.DataFrame(
        {
            column: [name for name in given for _ in range(raw_BK.shape[1])],
            "rank": list(range(1, raw_BK.shape[1] + 1)) * len(given),
            "item": raw_BK.flatten().numpy(),
            "score": scores_BK.flatten().numpy(),
        }
    ).filter(pl.col("score") > -float("inf"))
    folder = options.run or new_run("recommend", "recommend")
    path = folder / "recommendations.parquet"
    with whole_file(path) as temporary:
        rows.write_parquet(temporary)
    for name in given[:SHOWN]:
        print(f"{name}: {' '.join(map(str, rows.filter(pl.col(column) == name)['item']))}")
    results = {
        "verb": "recommend",
        "versions": versions(),
        "run": str(folder),
        "checkpoint": str(options.checkpoint),
        "recommendations": str(path),
        "asked": option,
        "queries": len(given),
        "unknown_queries": int((user_B >= queries.num_known).sum()),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_results(results, folder, options.json)


def raw_queries(given: list[str], vocabulary: Vocabulary) -> Tensor:
    """Return users or items of the command line as raw ids.

    Raises:
        RecembError: If ids are integers and one is none.
    """
    if vocabulary.is_text:
        return torch.from_numpy(hash_strings(pl.Series(given)).to_numpy().copy())
    for name in given:
        if not name.lstrip("-").isdigit():
            raise RecembError(
                f"recommend: {vocabulary.name}s are integers in this model, got {name!r}"
            )
    return torch.tensor([int(name) for name in given])


def allowed_items(path: Path, key: str, where: str, vocabulary: Vocabulary) -> Tensor:
    """Return which items may be recommended: (V,).

    Raises:
        RecembError: If the file cannot be read, or the condition does not fit it.
    """
    try:
        # Conditions are SQL expressions of polars: they read columns and run nothing.
        chosen = pl.read_parquet(path).filter(pl.sql_expr(where))[key]
    except (pl.exceptions.PolarsError, OSError) as error:
        line = " ".join(str(error).split())[:160]
        raise RecembError(f"{path}: --where {where!r} cannot be asked of it ({line})") from error
    raw_N = hash_strings(chosen) if vocabulary.is_text else chosen.cast(pl.Int64)
    index_N = vocabulary.lookup(torch.from_numpy(raw_N.to_numpy().copy()))
    is_known_N = (index_N >= 0) & (index_N < vocabulary.num_known)
    allowed_V = torch.zeros(vocabulary.num_known, dtype=torch.bool)
    allowed_V[index_N[is_known_N]] = True
    return allowed_V


@torch.no_grad()
def best(
    model: nn.Module,
    user_B: Tensor,
    count: int,
    allowed_V: Tensor | None = None,
    index: ItemIndex | None = None,
    alike: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the best items of queries that are allowed and that they do not have: (B, K) each.

    Where there are fewer, the last are -1 and their scores minus infinity.

    Args:
        model: That ranks items.
        user_B: Indices of queries.
        count: K, or all items where they are fewer.
        allowed_V: Which items may be found; None: all.
        index: Of the model's item vectors; None: all items are scored.
        alike: Whether items are ranked by their vectors as queries: what is like them.

    Raises:
        RecembError: If the index is of another model.
    """
    recommender = cast(Recommender, model)
    user_UD, item_VD = recommender.all_vectors()
    if alike:
        item_VD = user_UD[: recommender.num_items]
    if index is None:
        index = ItemIndex.exactly(item_VD)
    elif index.vectors_VD.shape != item_VD.shape:
        raise RecembError(
            f"recommend: the index has vectors {tuple(index.vectors_VD.shape)} and the model "
            f"{tuple(item_VD.shape)}; index this checkpoint"
        )
    offsets_U1, seen_P = cast(Tensor, model.seen_offsets_U1), cast(Tensor, model.seen_items_P)
    # What a user has may come first: so many more are asked for.
    had_B = offsets_U1[user_B + 1] - offsets_U1[user_B]
    asked = min(count + int(had_B.max()), len(item_VD))
    items_BK, scores_BK = index.search(user_UD[user_B], asked, allowed_V)
    row_B1 = torch.arange(len(user_B)).unsqueeze(1)
    row_E = torch.repeat_interleave(torch.arange(len(user_B)), had_B)
    place_E = torch.arange(len(row_E)) - (had_B.cumsum(0) - had_B)[row_E]
    had_E = row_E * len(item_VD) + seen_P[offsets_U1[user_B][row_E] + place_E]
    is_had_BK = torch.isin(row_B1 * len(item_VD) + items_BK, had_E) | (items_BK < 0)
    found = scores_BK.masked_fill(is_had_BK, -torch.inf).topk(min(count, asked), 1)
    is_none_BK = found.values == -torch.inf
    return items_BK.gather(1, found.indices).masked_fill(is_none_BK, NOTHING), found.values
