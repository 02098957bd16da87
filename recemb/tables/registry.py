"""The table kinds, found by looking into this folder: a new kind is a new file and no edit here."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, Union

import recemb.tables
from recemb.errors import RecembError
from recemb.tables.kind import TableConfig


def _find_kinds() -> dict[str, type[TableConfig]]:
    kinds: dict[str, type[TableConfig]] = {}
    for module in pkgutil.iter_modules(recemb.tables.__path__):
        if module.name == "registry":
            continue
        for value in vars(importlib.import_module(f"recemb.tables.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, TableConfig):
                kinds |= {
                    str(field.default): value for field in fields(value) if field.name == "kind"
                }
    return dict(sorted(kinds.items()))


KINDS: dict[str, type[TableConfig]] = _find_kinds()
"""Kind name to configuration class."""

if TYPE_CHECKING:
    AnyTable = TableConfig
else:
    # jsonargparse reads the alternatives from the annotation; ``kind`` tells them apart.
    AnyTable = Union[tuple(KINDS.values())]  # noqa: UP007


def table_config(name: str, settings: Mapping[str, Any]) -> TableConfig:
    """Return the configuration of a table from plain settings, with errors that name the table.

    Args:
        name: The table's name.
        settings: ``kind`` and the fields of that kind.

    Raises:
        RecembError: If the kind or a setting is unknown, or one is missing or out of range.
    """
    where = f"table {name!r}"
    kind = settings.get("kind", "full")
    if kind not in KINDS:
        raise RecembError(f"{where}: kind must be one of {sorted(KINDS)}, got {kind!r}")
    known = {field.name: field for field in fields(KINDS[kind])}
    for setting in settings:
        if setting not in known:
            raise RecembError(
                f"{where}: kind {kind} has no setting {setting!r}; it has {sorted(known)}"
            )
    for field in known.values():
        if field.default is MISSING and field.name not in settings:
            raise RecembError(f"{where}: kind {kind} needs {field.name!r}; set it")
    for setting, value in settings.items():
        if known[setting].type in (int, float) and not isinstance(value, int | float):
            raise RecembError(f"{where}: {setting} must be a number, got {value!r}")
    config = KINDS[kind](**settings)
    config.check(where)
    return config
