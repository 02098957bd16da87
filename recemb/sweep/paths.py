"""Paths: settings of a nested configuration by dotted name, such as ``trainer.max_epochs``."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recemb.errors import RecembError

Section = dict[str, Any]


def simplified(node: Any) -> Any:
    """Return a configuration as a user writes it: a ``kind`` says the class, so no path does.

    Example:
        >>> simplified({"class_path": "recemb.Full", "init_args": {"kind": "full", "dim": 8}})
        {'kind': 'full', 'dim': 8}
    """
    if isinstance(node, Mapping):
        own = node.get("init_args")
        if set(node) == {"class_path", "init_args"} and isinstance(own, Mapping) and "kind" in own:
            return simplified(own)
        return {name: simplified(value) for name, value in node.items()}
    if isinstance(node, list):
        return [simplified(one) for one in node]
    return node


def settings(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every path of a configuration with its value, sections as well as what they hold."""
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(node, Mapping):
        items = list(node.items())
    elif isinstance(node, list):
        items = list(enumerate(node))
    for name, value in items:
        path = f"{above}.{name}" if above else str(name)
        yield path, value
        yield from settings(value, path)


def leaves(config: Mapping[str, Any]) -> Section:
    """Return the settings that hold no others; a list of plain values is one."""
    found: Section = {}
    for path, value in settings(config):
        nested = isinstance(value, Mapping) and value
        several = isinstance(value, list) and any(isinstance(one, Mapping) for one in value)
        above = path.rpartition(".")[0]
        if not nested and not several and above not in found:
            found[path] = value
    return found


def put(config: Section, path: str, value: Any) -> None:
    """Set a value in place; sections that the configuration leaves to defaults are made."""
    *above, last = path.split(".")
    node: Any = config
    for name in above:
        if isinstance(node, list):
            node = node[int(name)]
            continue
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
    if isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value


def require(where: str, path: str, known: Mapping[str, Any]) -> None:
    """Raise a :class:`RecembError` that names the nearest path if there is no such one.

    Args:
        where: Starts the message: the file.
        path: Asked for.
        known: All paths of the configuration.
    """
    if path not in known:
        nearest = difflib.get_close_matches(path, list(known), n=1, cutoff=0.0)
        raise RecembError(
            f"{where}: the configuration has no setting {path!r}; the nearest is {nearest[0]!r}"
        )
