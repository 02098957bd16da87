"""Features: which column of ids reads which table, and how its bags are pooled."""

from collections.abc import Mapping
from dataclasses import dataclass

from recemb.errors import RecembError
from recemb.pooling import Pooling
from recemb.schema import Schema
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
class Feature:
    """One feature, resolved against the data: what :class:`recemb.embeddings.Embeddings` needs."""

    name: str
    config: FeatureConfig
    space: IdSpace
    is_list: bool
    ids_per_sample: float = 1.0
    """How many ids a sample has on average."""


def resolve_features(
    features: Mapping[str, FeatureConfig],
    tables: Mapping[str, TableConfig],
    schema: Schema,
    histories: Mapping[str, str] | None = None,
) -> list[Feature]:
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
    if not features:
        raise RecembError("features: there must be at least one, got none")
    for name, config in features.items():
        where = f"feature {name!r}"
        if config.table not in tables:
            raise RecembError(
                f"{where} reads table {config.table!r}, which is not in tables {sorted(tables)}; "
                "rename it or add the table"
            )
        if config.lookups < 1:
            raise RecembError(f"{where}: lookups must be at least 1, got {config.lookups}")
        if config.pooling not in ("sum", "mean", "max", "none"):
            raise RecembError(
                f"{where}: pooling must be 'sum', 'mean', 'max' or 'none', got {config.pooling!r}"
            )
        kind = getattr(tables[config.table], "kind", "")
        if config.lookups > 1 and kind != "unified":
            raise RecembError(
                f"{where}: lookups={config.lookups} needs a table of kind unified, got table "
                f"{config.table!r} of kind {kind}"
            )
    used = {config.table for config in features.values()}
    for table in tables:
        if table not in used:
            raise RecembError(
                f"table {table!r} is read by no feature; remove it, or name it in a feature"
            )
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
        Feature(name, config, _id_space(name, schema), schema.is_list(name), ids[name])
        for name, config in features.items()
    ]


def _id_space(feature: str, schema: Schema) -> IdSpace:
    space, num_ids = schema.id_space(feature), schema.num_ids(feature)
    if num_ids is None:
        return IdSpace(space, None)
    counts_V = schema.vocabularies[space].counts_V
    # On the meta device where the ids are said and not read: nobody counted them.
    return IdSpace(space, num_ids, None if counts_V.is_meta else counts_V)
