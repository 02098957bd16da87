"""Compress the tables of a trained model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tqdm import tqdm

from recemb.compress.method import Method, TrainedTable
from recemb.compress.plan import smaller_sizes, solve
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.tables.kind import TableContent

PROGRESS_ELEMENTS = 10**6
"""Tables of together so many elements show a bar."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compressed:
    """What compression has made.

    Attributes:
        embeddings: With the smaller tables, in the place of those that were given.
        kept: Tables that are as they were, and why.
    """

    embeddings: Embeddings
    kept: dict[str, str]


@torch.no_grad()
def compress(
    embeddings: Embeddings,
    method: Method,
    budget: int | None = None,
    names: Sequence[str] | None = None,
) -> Compressed:
    """Return the embeddings of a trained model with smaller tables.

    Args:
        embeddings: On the CPU; they stay as they are.
        method: How.
        budget: Serving bytes of all tables together, compressed or not.
        names: The tables that may be changed (default: all).

    Raises:
        RecembError: If no table gets smaller, the budget cannot be met, or a table is unknown or
            holds values that are not finite.
    """
    for name in names or ():
        if name not in embeddings.tables:
            raise RecembError(
                f"table {name!r} is not among the model's {sorted(embeddings.tables)}; rename it"
            )
    contents, kept = convert(trained_tables(embeddings), method, budget, names)
    return Compressed(embeddings=embeddings.converted(contents), kept=kept)


@torch.no_grad()
def convert(
    tables: Mapping[str, TrainedTable],
    method: Method,
    budget: int | None = None,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, TableContent], dict[str, str]]:
    """Return the content of the tables that get smaller, and why the others do not.

    Args:
        tables: All of them.
        method: How.
        budget: Serving bytes of all tables together.
        names: The tables that may be changed (default: all).

    Raises:
        RecembError: As :func:`compress` does.
    """
    kept = {name: "it was not asked for" for name in tables if names and name not in names}
    reasons = {name: method.refusal(one) for name, one in tables.items() if name not in kept}
    kept |= {name: reason for name, reason in reasons.items() if reason}
    if budget is None:
        sizes = {name: method.unsized() for name in tables if name not in kept}
    else:
        smaller = {name: smaller_sizes(method, tables[name]) for name in tables if name not in kept}
        kept |= {name: _no_gain(method) for name, own in smaller.items() if not own}
        smaller = {name: own for name, own in smaller.items() if own}
        _check_any(method, smaller, kept)
        sizes = solve(method, smaller, tables, budget)
        kept |= {name: "its part of the budget is enough" for name in smaller if name not in sizes}
    contents = {}
    quick = sum(_num_elements(tables[name]) for name in sizes) < PROGRESS_ELEMENTS
    for name, size in tqdm(sizes.items(), method.name, leave=False, disable=quick):
        _check_finite(tables[name])
        # New modules draw what they start from, which is overwritten.
        with torch.random.fork_rng():
            content = method.convert(tables[name], size)
        if tables[name].bytes_of(content.config) < tables[name].num_bytes:
            contents[name] = content
        else:
            kept[name] = _no_gain(method)
    _check_any(method, contents, kept)
    return contents, {name: kept[name] for name in tables if name in kept}


def trained_tables(embeddings: Embeddings) -> dict[str, TrainedTable]:
    """Return the tables as methods see them."""
    served = embeddings.served()
    readers = {
        name: [one.config for one in embeddings.features if one.config.table == name]
        for name in embeddings.tables
    }
    return {
        name: TrainedTable(
            name=name,
            kind=config.kind_name,
            spaces=tuple(embeddings.spaces[name]),
            lookups=max(one.lookups for one in readers[name]),
            content=served.content(name),
        )
        for name, config in embeddings.tables.items()
    }


def _no_gain(method: Method) -> str:
    return f"{method.name} would not make it smaller"


def _num_elements(table: TrainedTable) -> int:
    return sum(values.numel() for values in table.content.values.values())


def _check_finite(table: TrainedTable) -> None:
    for values in table.content.values.values():
        if not bool(torch.isfinite(values).all()):
            raise RecembError(
                f"{table.where}: its rows must be finite, got NaN or infinity; the training went "
                "wrong, use another checkpoint"
            )


def _check_any(method: Method, changed: Mapping[str, object], kept: Mapping[str, str]) -> None:
    """Raise a :class:`RecembError` if no table is changed."""
    if not changed:
        said: dict[str, list[str]] = {}
        for name, reason in kept.items():
            said.setdefault(reason, []).append(repr(name))
        reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in said.items())
        raise RecembError(f"{method.name} changes no table: {reasons}")
