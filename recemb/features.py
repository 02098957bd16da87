"""Features: which column of ids reads which table, and how its bags are pooled."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from recemb.errors import RecembError
from recemb.pooling import Pooling
from recemb.schema import Schema
from recemb.settings import check_types, is_whole
from recemb.tables.kind import IdSpace, TableConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureConfig:
    """What a user says of one feature."""

    table: str
    """The table it reads; naming one table twice shares it."""
    pooling: Pooling = "mean"
    """How a bag becomes a vector; columns with one id per sample have nothing to pool."""
    lookups: int = 1
    """Lookups per id in a unified table, each adding the table's ``dim`` to the vector."""


@dataclass(frozen=True, slots=True)
class ResolvedFeature:
    """One feature, resolved against the data: what :class:`recemb.embeddings.Embeddings` needs."""

    name: str
    config: FeatureConfig
    space: IdSpace
    is_list: bool
    ids_per_sample: float = 1.0
    """How many ids a sample has on average."""


def check_reading(
    features: Sequence[tuple[str, FeatureConfig]], tables: Mapping[str, TableConfig]
) -> None:
    """Raise a :class:`RecembError` if features and the tables that they read do not fit.

    Args:
        features: Names and what is said of each.
        tables: By name.
    """
    if not features:
        raise RecembError("features: there must be at least one, got none")
    for name, table in tables.items():
        if not isinstance(table, TableConfig):
            raise RecembError(
                f"table {name!r}: it must be a table configuration such as Full(dim=16), got "
                f"{table!r}"
            )
    for name, config in features:
        _check_config(f"feature {name!r}", config, tables)
    used = {config.table for _, config in features}
    for name in tables:
        if name not in used:
            raise RecembError(
                f"table {name!r} is read by no feature; remove it, or name it in a feature"
            )


def _check_config(where: str, config: FeatureConfig, tables: Mapping[str, TableConfig]) -> None:
    if not isinstance(config, FeatureConfig):
        raise RecembError(f"{where}: it must have a FeatureConfig, got {config!r}")
    if config.table not in tables:
        raise RecembError(
            f"{where} reads table {config.table!r}, which is not in tables {sorted(tables)}; "
            "rename it or add the table"
        )
    check_types(where, config)
    if config.lookups < 1:
        raise RecembError(f"{where}: lookups must be at least 1, got {config.lookups}")
    if config.pooling not in get_args(Pooling):
        raise RecembError(
            f"{where}: pooling must be 'sum', 'mean', 'max' or 'none', got {config.pooling!r}"
        )
    kind = tables[config.table].kind_name
    if config.lookups > 1 and kind != "unified":
        raise RecembError(
            f"{where}: lookups={config.lookups} needs a table of kind unified, got table "
            f"{config.table!r} of kind {kind}"
        )


def check_features(features: Sequence[ResolvedFeature], tables: Mapping[str, TableConfig]) -> None:
    """Raise a :class:`RecembError` if features do not fit the tables or one another.

    Checked are names, settings and id spaces: features of one space number the same ids, so they
    must agree in how many there are, or ids of one table would read rows of another.

    Args:
        features: Resolved.
        tables: By name.
    """
    names: set[str] = set()
    spaces: dict[str, tuple[str, IdSpace]] = {}
    for feature in features:
        if not isinstance(feature, ResolvedFeature):
            raise RecembError(f"features: each must be a ResolvedFeature, got {feature!r}")
        where = f"feature {feature.name!r}"
        if not isinstance(feature.name, str) or not feature.name:
            raise RecembError(f"{where}: a name must be a string of at least one letter")
        if feature.name in names:
            raise RecembError(f"{where} is given twice; rename or remove one")
        names.add(feature.name)
        check_types(where, feature)
        if not 0 <= feature.ids_per_sample < math.inf:
            raise RecembError(
                f"{where}: ids_per_sample must be at least 0, got {feature.ids_per_sample}"
            )
        _check_space(where, feature.space)
        other, space = spaces.setdefault(feature.space.name, (feature.name, feature.space))
        if not feature.space.is_same(space):
            raise RecembError(
                f"{where}: id space {space.name!r} has {feature.space} here and {space} in feature "
                f"{other!r}; give both the same, or name two spaces"
            )
    check_reading([(feature.name, feature.config) for feature in features], tables)


def _check_space(where: str, space: IdSpace) -> None:
    if not isinstance(space, IdSpace):
        raise RecembError(f"{where}: it must have an IdSpace, got {space!r}")
    count, counts_V = space.num_ids, space.counts_V
    if not isinstance(space.name, str) or not space.name:
        raise RecembError(f"{where}: the name of an id space must be a string, got {space.name!r}")
    if count is not None and (not is_whole(count) or count < 1):
        raise RecembError(
            f"{where}: id space {space.name!r} must have at least 1 id (or None, where ids are "
            f"raw), got {count!r}"
        )
    if counts_V is not None and len(counts_V) > (count or 0):
        raise RecembError(
            f"{where}: id space {space.name!r} has counts of {len(counts_V)} ids, but "
            f"{count or 'raw'} ids; give at most one for each"
        )


def resolve_features(
    features: Mapping[str, FeatureConfig],
    tables: Mapping[str, TableConfig],
    schema: Schema,
    histories: Mapping[str, str] | None = None,
) -> list[ResolvedFeature]:
    """Return the features with their id spaces, checked against the tables and the data.

    Args:
        features: By name.
        tables: By name.
        schema: What the data holds.
        histories: By feature, a list column whose ids the model reads as that feature's too.

    Raises:
        RecembError: If a feature reads an unknown table or is not in the data, if a table is read
            by no feature, or if a setting does not fit the kind.
    """
    check_reading(list(features.items()), tables)
    ids: dict[str, float] = {}
    for name in features:
        if name not in schema.attributes:
            column = (histories or {}).get(name)
            extra = (
                schema.columns[column].mean_length if column and column in schema.columns else 0.0
            )
            schema.id_space(name)  # refuses a feature that is not in the data
            ids[name] = schema.columns[name].mean_length + extra
    owners = {
        schema.id_space(name): count for name, count in ids.items() if not schema.is_list(name)
    }
    for name in features:
        if name in schema.attributes:
            attribute = schema.attributes[name]
            ids[name] = attribute.mean_length * owners.get(attribute.owner, 0.0)
    return [
        ResolvedFeature(name, config, _id_space(name, schema), schema.is_list(name), ids[name])
        for name, config in features.items()
    ]


def _id_space(feature: str, schema: Schema) -> IdSpace:
    space, num_ids = schema.id_space(feature), schema.num_ids(feature)
    if num_ids is None:
        return IdSpace(space, None)
    counts_V = schema.vocabularies[space].counts_V
    # On the meta device where the ids are said and not read: nobody counted them.
    return IdSpace(space, num_ids, None if counts_V.is_meta else counts_V)
