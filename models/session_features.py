"""Which columns a session transformer reads, and what an item is made of."""

from collections.abc import Mapping
from dataclasses import replace

from recemb.errors import RecembError
from recemb.features import FeatureConfig, ResolvedFeature, resolve_features
from recemb.schema import Schema
from recemb.tables.registry import AnyTable

ITEM, HISTORY = "item", "history"
"""The columns of a row: what came next, and what came before it."""
OUTPUT = "output"
"""The feature that reads an output table of its own; no column of sequences has that name."""


def resolve_item(
    schema: Schema,
    tables: Mapping[str, AnyTable],
    features: Mapping[str, FeatureConfig],
    output: str | None,
) -> list[ResolvedFeature]:
    """Return the features of items, and that of the output table.

    Args:
        schema: What the data holds.
        tables: Tables by name.
        features: What an item is, by ``item`` (its id) or the name of an attribute.
        output: Table of the output's own vectors.

    Raises:
        RecembError: If a name does not fit the data.
    """
    for name in (ITEM, HISTORY):
        if name not in schema.columns:
            raise RecembError(
                f"session transformer: the data must have columns {ITEM!r} and {HISTORY!r}, got "
                f"{sorted(schema.columns)}; use a data module of sequences"
            )
    for name, config in features.items():
        if name != ITEM and name not in schema.attributes:
            raise RecembError(
                f"feature {name!r}: must be {ITEM!r} or an attribute of it, of "
                f"{sorted(schema.attributes)}"
            )
        if config.pooling == "none":
            raise RecembError(
                f"feature {name!r}: its bags must be pooled into one vector, got pooling 'none'; "
                "use sum, mean or max"
            )
    if output is None:
        return resolve_features(features, tables, schema, {ITEM: HISTORY})
    if output not in tables:
        raise RecembError(
            f"output: must be one of the tables {sorted(tables)}, got {output!r}; add it to tables"
        )
    read = {config.table for config in features.values()}
    inner = {name: table for name, table in tables.items() if name != output or name in read}
    resolved = resolve_features(features, inner, schema, {ITEM: HISTORY})
    as_item = resolve_features(
        {ITEM: FeatureConfig(table=output)}, {output: tables[output]}, schema
    )
    return [*resolved, replace(as_item[0], name=OUTPUT)]
