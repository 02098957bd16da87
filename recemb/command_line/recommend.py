"""The verb ``recommend``: the best items of users or sessions, or the complements of items."""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from recemb.checkpoint import checkpoint_config, checkpoint_schema, fingerprint, read_checkpoint
from recemb.command_line.asked import (
    QUERIES,
    SESSIONS,
    Asked,
    add_options,
    column_names,
    option_of,
    queries,
    unnamed,
)
from recemb.command_line.id_files import Key, index_of, is_known, read_table
from recemb.errors import RecembError
from recemb.files import one_line, whole_file, writing
from recemb.frames import Source
from recemb.jagged import Jagged, bag_of_each
from recemb.memory import peak_memory_bytes
from recemb.rebuild import rebuild_data, rebuild_model
from recemb.results import versions, write_results
from recemb.run_folder import RunFolder
from recemb.serving.item_index import ItemIndex
from recemb.serving.program import with_served_tables
from recemb.serving.recommend import Recommender
from recemb.vocabulary import Vocabulary

ITEM = "item"
RECOMMENDATIONS = "recommendations.parquet"
COLUMNS = ("known", "rank", "item", "score")
"""Of what is written, beside the query's."""
SHOWN = 10
"""Queries that are printed."""
PART = 1 << 16
"""Queries whose rows are written at a time."""
SCORES = 1 << 24
"""Scores of queries and items that are in memory at a time, about."""
PART_SESSIONS = 1024
"""Sessions that go through a network at a time."""


class NextItems(Protocol):
    """A model of sessions."""

    def best(self, history: Jagged, count: int) -> tuple[Tensor, Tensor]:
        """Return the best items (B, count) of sessions, as indices, and their scores."""


def run(arguments: list[str]) -> None:
    """Write the best items of users or sessions, or what goes with items or is like them."""
    parser = argparse.ArgumentParser(prog="python -m recemb recommend", description=run.__doc__)
    parser.add_argument("checkpoint", type=Path, help="written by fit, of a model that ranks items")
    add_options(parser)
    parser.add_argument("--count", type=int, default=10, help="items per query")
    parser.add_argument("--index", type=Path, help="folder that recemb index wrote of this model")
    parser.add_argument("--items", type=Path, help="parquet or CSV file of items, for --where")
    parser.add_argument("--key", help="column of item ids in that file (default as --query_key)")
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
    with RunFolder(options.run, "recommend", begin="any") as folder:
        _recommend(options, folder)


def _recommend(options: argparse.Namespace, folder: Path) -> None:
    started = time.perf_counter()
    checkpoint = read_checkpoint(options.checkpoint)
    model = rebuild_model(options.checkpoint, checkpoint, options.allow)
    option = option_of(options)
    check_question(options.checkpoint, model, option)
    schema = checkpoint_schema(checkpoint)
    if option == SESSIONS:
        items = schema.vocabularies[ITEM]
        column, asked, found = of_sessions(options, checkpoint, model)
    else:
        query = QUERIES[option][0]
        items = schema.vocabularies[schema.id_space(cast(str, model.answer))]
        config = checkpoint_config(checkpoint)
        space = schema.vocabularies[schema.id_space(query)]
        asked = queries(options, option, space, column_names(config, query))
        key = Key(options.key, column_names(config, ITEM), "--key")
        found = of_queries(options, model, asked, items, key)
        column = "query" if query == ITEM else query  # beside the column of the items that come
    path = folder / RECOMMENDATIONS
    write_rows(path, column, asked, found, items)
    show_first(column, asked, found, items)
    results = {
        "verb": "recommend",
        "versions": versions(),
        "run": str(folder),
        "checkpoint": str(options.checkpoint),
        "recommendations": str(path),
        "asked": option,
        "queries": len(asked.names),
        "unknown_queries": int((~asked.is_known_B).sum()),
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_results(results, folder, options.json)


def check_question(path: Path, model: nn.Module, option: str) -> None:
    """Raise a :class:`RecembError` if a model cannot be asked for what an option says."""
    can = []
    if hasattr(model, "recommend"):
        can = [name for name, (query, _) in QUERIES.items() if query == model.query]
    elif hasattr(model, "best"):
        can = [SESSIONS]
    if option not in can:
        wanted = "session" if option == SESSIONS else QUERIES[option][0]
        raise RecembError(
            f"{path}: {type(model).__name__} cannot be asked for --{option}, but for "
            f"{[f'--{name}' for name in can] or 'nothing'}; use a model of {wanted}s"
        )


def of_sessions(
    options: argparse.Namespace, checkpoint: dict[str, Any], model: nn.Module
) -> tuple[str, Asked, tuple[Tensor, Tensor]]:
    """Return the column of sessions' keys, the sessions, and their best items with the scores.

    Raises:
        RecembError: If the checkpoint's data module has no sessions, or the file does not fit it.
    """
    for name in ("index", "where"):
        if getattr(options, name) is not None:
            raise RecembError(f"recommend: --{name} is not for --{SESSIONS}; drop it")
    return best_of_sessions(
        options.checkpoint, checkpoint, model, options.sessions, options.count, options.allow
    )


def best_of_sessions(
    path: Path,
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    events: Source,
    count: int,
    allow: Sequence[str],
) -> tuple[str, Asked, tuple[Tensor, Tensor]]:
    """Return the column of sessions' keys, the sessions, and their best items with the scores.

    Args:
        path: Of the checkpoint.
        checkpoint: Its settings and schema.
        model: Its model.
        events: Of the sessions, as a file or a frame.
        count: Items per session.
        allow: Further packages whose classes the checkpoint may name.
    """
    settings = checkpoint_config(checkpoint)["data"]
    data: Any = rebuild_data(path, checkpoint, settings, allow)
    if not hasattr(data, "sessions"):
        raise RecembError(f"{path}: its data, {type(data).__name__}, is of no events; use predict")
    column, keys, history = data.sessions(events)
    parts = []
    with torch.no_grad():
        for values, lengths_B in sessions_of(history):
            parts.append(cast(NextItems, model).best(Jagged(values, lengths_B), count))
    items_BK, scores_BK = (torch.cat(same) for same in zip(*parts, strict=True))
    every_B = torch.arange(len(keys))
    is_item_N = is_known(history.values, checkpoint_schema(checkpoint).vocabularies[ITEM])
    known_B = torch.zeros_like(every_B).index_add(0, bag_of_each(history.lengths), is_item_N.long())
    # A session of unknown items alone tells nothing.
    asked = Asked(keys, every_B, known_B > 0)
    return "session" if column in COLUMNS else column, asked, (items_BK, scores_BK)


def sessions_of(history: Jagged) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the items and lengths of some sessions at a time."""
    ends_B = history.lengths.cumsum(0)
    for first in range(0, len(ends_B), PART_SESSIONS):
        lengths_b = history.lengths[first : first + PART_SESSIONS]
        stop = int(ends_B[first + len(lengths_b) - 1])
        yield history.values[stop - int(lengths_b.sum()) : stop], lengths_b


def of_queries(
    options: argparse.Namespace, model: nn.Module, asked: Asked, items: Vocabulary, key: Key
) -> tuple[Tensor, Tensor]:
    """Return the best items of users or items, and their scores.

    Raises:
        RecembError: If the index is of another checkpoint, or the condition does not fit its file.
    """
    alike = option_of(options) == "substitutes_of"
    allowed_V = None
    if options.where is not None:
        allowed_V = allowed_items(options.items, key, options.where, items)
    index = None
    if options.index is not None:
        if alike:
            raise RecembError(
                "recommend: an index is of what goes with items, and --substitutes_of asks for "
                "what is like them; drop --index"
            )
        index = ItemIndex.load(options.index)
        if index.checkpoint != fingerprint(options.checkpoint):
            raise RecembError(
                f"{options.index}: the index is not of {options.checkpoint}, but of another "
                "checkpoint; write one of this with recemb index"
            )
    served = with_served_tables(model)
    return best(served, asked.index_B, options.count, allowed_V, index, alike)


def write_rows(
    path: Path, column: str, asked: Asked, found: tuple[Tensor, Tensor], items: Vocabulary
) -> None:
    """Write a row per query and item, best first; ids are named as in the user's files.

    Columns: the query, ``known`` (whether the checkpoint knows it), ``rank`` from 1, ``item`` and
    ``score``.
    """
    writer = None
    with writing(path), whole_file(path) as temporary:
        for first in range(0, len(asked.names), PART):
            rows = rows_of(column, asked, found, items, first, PART).to_arrow()
            if writer is None:
                writer = pq.ParquetWriter(temporary, rows.schema)
            writer.write_table(cast(pa.Table, rows))
        assert writer is not None  # there is a query at least
        writer.close()


def rows_of(
    column: str,
    asked: Asked,
    found: tuple[Tensor, Tensor],
    items: Vocabulary,
    first: int,
    count: int,
) -> pl.DataFrame:
    """Return the rows of some queries."""
    items_BK, scores_BK = (one[first : first + count] for one in found)
    is_item_BK = (items_BK >= 0) & (scores_BK > -torch.inf)
    query_N = is_item_BK.nonzero()[:, 0]
    rank_BK = torch.arange(1, items_BK.shape[1] + 1).expand_as(items_BK)
    return pl.DataFrame(
        {
            column: asked.names.slice(first, count).gather(query_N.numpy()),
            "known": asked.is_known_B[first : first + count][query_N].numpy(),
            "rank": rank_BK[is_item_BK].numpy(),
            "item": items.values(items_BK[is_item_BK]),
            "score": scores_BK[is_item_BK].cpu().numpy(),
        }
    )


def show_first(column: str, asked: Asked, found: tuple[Tensor, Tensor], items: Vocabulary) -> None:
    """Print what the first queries get."""
    rows = rows_of(column, asked, found, items, 0, SHOWN)
    shown = zip(asked.names.head(SHOWN), asked.is_known_B[:SHOWN].tolist(), strict=True)
    for name, is_known_one in shown:
        own = rows.filter(pl.col(column) == name)["item"]
        mark = "" if is_known_one else " (unknown)"
        print(f"{name}{mark}: {' '.join(map(str, own)) or 'no item is left'}")
    if len(asked.names) > SHOWN:
        print(f"... and {len(asked.names) - SHOWN:,} more")
    if not items.has_names:
        print(unnamed(items))


def allowed_items(path: Path, key: Key, where: str, vocabulary: Vocabulary) -> Tensor:
    """Return which items may be recommended: (V,).

    Raises:
        RecembError: If the file cannot be read, or the condition does not fit it.
    """
    table, column = read_table(path, key, vocabulary)
    try:
        # Conditions are SQL expressions of polars: they read columns and run nothing.
        chosen = table.filter(pl.sql_expr(where))[column].drop_nulls()
    except pl.exceptions.PolarsError as error:
        raise RecembError(
            f"{path}: --where {where!r} cannot be asked of it ({one_line(error)})"
        ) from error
    index_N = index_of(chosen, vocabulary)
    allowed_V = torch.zeros(vocabulary.num_known, dtype=torch.bool)
    allowed_V[index_N[is_known(index_N, vocabulary)]] = True
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

    Where there are fewer, the last items are -1 and their scores minus infinity.

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
    parts = []
    for user_b in user_B.split(max(1, SCORES // len(item_VD))):
        # What a user has may come first: so many more are asked for.
        had_b = offsets_U1[user_b + 1] - offsets_U1[user_b]
        asked = min(count + int(had_b.max()), len(item_VD))
        items_bK, scores_bK = index.search(user_UD[user_b], asked, allowed_V)
        row_E = torch.repeat_interleave(torch.arange(len(user_b)), had_b)
        place_E = torch.arange(len(row_E)) - (had_b.cumsum(0) - had_b)[row_E]
        had_E = row_E * len(item_VD) + seen_P[offsets_U1[user_b][row_E] + place_E]
        row_b1 = torch.arange(len(user_b)).unsqueeze(1)
        is_had_bK = torch.isin(row_b1 * len(item_VD) + items_bK, had_E) | (items_bK < 0)
        found = scores_bK.masked_fill(is_had_bK, -torch.inf).topk(min(count, asked), 1)
        items_bK = items_bK.gather(1, found.indices)
        parts.append((items_bK.masked_fill(found.values == -torch.inf, -1), found.values))
    items_BK, scores_BK = (torch.cat(same) for same in zip(*parts, strict=True))
    return items_BK, scores_BK
