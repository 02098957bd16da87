"""Said: the schema of columns whose numbers of ids are said and not read from a file."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from recemb.data.columns import AttributeFile, Columns, IdColumn, ListColumn
from recemb.errors import RecembError
from recemb.schema import Attribute, Column, DenseColumn, Schema
from recemb.vocabulary import Vocabulary

EVERY = "*"
"""The name that stands for all that are not named."""


def said_schema(
    columns: Columns,
    attributes: AttributeFile | None,
    num_ids: Mapping[str, int],
    lengths: Mapping[str, float],
    read: Callable[[Columns, AttributeFile | None], Schema],
) -> Schema:
    """Return a schema of which files are read only for what is not said.

    Args:
        columns: Of the data.
        attributes: What is known of the ids of one column, or None.
        num_ids: Known ids by vocabulary (a column or an attribute); ``*`` for all others.
        lengths: Ids per row of lists whose ids are said or raw; by default their ``max_length``.
        read: Reads the schema of some of the columns and of the attributes.

    Raises:
        RecembError: If a name has no vocabulary, a number is below 1 or a list has no length.
    """
    columns.check()
    described = attributes.named if attributes else {}
    owners = [name for name, one in columns.ids.items() if not (one.raw or one.vocabulary)]
    for name, count in num_ids.items():
        if name not in (*owners, *described, EVERY):
            raise RecembError(
                f"--ids: {name!r} has no vocabulary of its own; those that have are "
                f"{[*owners, *described]}"
            )
        if count < 1:
            raise RecembError(f"--ids: {name!r} must have at least 1 id, got {count}")
    lists = [name for name, one in {**columns.ids, **described}.items() if _is_list(one)]
    for name, length in lengths.items():
        if name not in lists or not length >= 0:
            raise RecembError(
                f"--lengths: must be numbers from 0 of lists, of {lists}, got {name}={length}"
            )
    said = [name for name in owners if name in num_ids or EVERY in num_ids]
    own = {n: one for n, one in columns.ids.items() if one.raw or (one.vocabulary or n) in said}
    rest = replace(
        columns,
        categorical={n: one for n, one in columns.categorical.items() if n not in own},
        lists={n: one for n, one in columns.lists.items() if n not in own},
    )
    own_attributes = described if attributes and attributes.key in said else {}
    for name in described:
        if name in num_ids and name not in own_attributes:
            assert attributes is not None
            raise RecembError(
                f"--ids: {name!r} is read with the ids of {attributes.key!r}; say those too"
            )
    # Scales of numbers are all that a file would still tell, and nothing depends on them.
    found = Schema(columns={}, vocabularies={}, dense=dict.fromkeys(columns.dense, DenseColumn()))
    if rest.ids:
        found = read(rest, None if own_attributes else attributes)
    vocabularies = dict(found.vocabularies)
    for name in (*said, *own_attributes):
        if name not in num_ids and EVERY not in num_ids:
            raise RecembError(f"--ids: say how many ids attribute {name!r} has, as {name}=NUMBER")
        settings = {**columns.ids, **described}[name].vocabulary_config
        vocabularies[name] = Vocabulary.unread(
            name, num_ids.get(name, num_ids.get(EVERY, 0)), settings
        )
    made = {
        name: Column(
            is_list=_is_list(one),
            vocabulary=None if one.raw else one.vocabulary or name,
            mean_length=_length(name, one, lengths),
        )
        for name, one in own.items()
    }
    kept = dict(found.attributes)
    for name, one in own_attributes.items():
        assert attributes is not None
        owner = vocabularies[attributes.key]
        count = round(owner.num_ids * _length(name, one, lengths))
        values_M = torch.empty(count, dtype=torch.int64, device="meta")
        offsets_V = torch.empty(owner.num_ids + 1, dtype=torch.int64, device="meta")
        kept[name] = Attribute(owner.name, name, _is_list(one), values_M, offsets_V)
    return Schema(
        columns={**found.columns, **made},
        dense=found.dense,
        vocabularies=vocabularies,
        attributes=kept,
    )


def _is_list(column: IdColumn) -> bool:
    return isinstance(column, ListColumn)


def _length(name: str, column: IdColumn, lengths: Mapping[str, float]) -> float:
    if not isinstance(column, ListColumn):
        return 1.0
    if name in lengths:
        return lengths[name]
    if column.max_length is None:
        raise RecembError(
            f"list {name!r}: say how long it is on average, as --lengths {name}=NUMBER"
        )
    return float(column.max_length)
