"""Spaces: which settings of a configuration a sweep draws, and from what.

A space file maps dotted paths to *nodes*. A node is a value, or one of

    {int: [2, 64], step: 2}                 whole numbers, both ends included; log: true for a scale
    {float: [0.001, 0.1], log: true}        numbers
    {choice: [fp32, int8]}                  one of several values
    {choice: {plain: {kind: full, dim: {int: [2, 30]}}, codes: {...}}}
                                            one of several sections, whose settings are nodes again
    {same: dim}                             what the setting beside it (or of that path) has drawn

What is drawn has a name: its path, with the label of the choice in it that it depends on
(``model.init_args.tables.user.codes.dim``). ``first`` is a list of points that are tried first.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from recemb.errors import RecembError
from recemb.files import read_yaml
from recemb.sweep import paths
from recemb.tables.registry import table_config

Section = dict[str, Any]
FIRST = "first"
TABLES = "model.init_args.tables."


class Draws(Protocol):
    """What draws values by name: a trial of Optuna."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Return a whole number."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Return a number."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of several values."""


@dataclass(frozen=True, slots=True)
class Number:
    """A range of numbers, both ends included."""

    low: float
    high: float
    step: float | None
    log: bool
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives by label."""

    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Same:
    """The value of another setting."""

    name: str


@dataclass(frozen=True, slots=True)
class Space:
    """What a sweep draws.

    Attributes:
        where: The file.
        nodes: By path.
        first: Points that are tried first, by the names of what is drawn.
    """

    where: str
    nodes: Section
    first: list[Section] = field(default_factory=list)

    def draw(self, trial: Draws) -> Section:
        """Return the settings of a trial by path."""
        found = {
            path: _draw(path, node, trial)
            for path, node in self.nodes.items()
            if not _is_same(node)
        }
        for path, node in self.nodes.items():
            if isinstance(node, Same):
                found[path] = found[node.name]
        return found

    def names(self) -> dict[str, Number | Choice]:
        """Return everything that can be drawn, by name."""
        return {
            name: node
            for path, top in self.nodes.items()
            for name, node in _distributions(path, top)
        }

    def check(self, config: Mapping[str, Any]) -> None:
        """Check paths and tables against a configuration that has all its settings.

        Raises:
            RecembError: At a path that it does not have, or a table whose kind has no such setting.
        """
        known = dict(paths.settings(config))
        for path, node in self.nodes.items():
            paths.require(self.where, path, known)
            name = path.removeprefix(TABLES)
            if path.startswith(TABLES) and "." not in name:
                for example in _examples(node):
                    try:
                        table_config(name, example)
                    except RecembError as error:
                        raise RecembError(f"{self.where}: {error}") from None


def read_space(path: Path) -> Space:
    """Return the space of a file.

    Raises:
        RecembError: If it is none; with the file and the path.
    """
    content = read_yaml(path, "space")
    if not isinstance(content, dict) or not set(content) - {FIRST}:
        raise RecembError(f"{path}: a space maps paths of the configuration to what is drawn")
    first = content.pop(FIRST, [])
    nodes = {name: _node(f"{path}: {name}", value) for name, value in content.items()}
    for name, node in nodes.items():
        if isinstance(node, Same) and (node.name not in nodes or _is_same(nodes[node.name])):
            raise RecembError(f"{path}: {name}: 'same' must name a path that is drawn here")
    space = Space(str(path), nodes)
    names = space.names()
    if not isinstance(first, list) or not all(isinstance(point, dict) for point in first):
        raise RecembError(f"{path}: first: must be a list of points, {{NAME: VALUE}}, got {first}")
    for point in first:
        for name in point:
            paths.require(f"{path}: first", name, names)
        drawn = {
            name: _given(f"{path}: first: {name}", names[name], value)
            for name, value in point.items()
        }
        space.first.append(drawn)
    return space


def applied(config: Mapping[str, Any], drawn: Mapping[str, Any]) -> Section:
    """Return a copy of a configuration with settings by path."""
    new: Section = json.loads(json.dumps(config))
    for path, value in drawn.items():
        paths.put(new, path, value)
    return new


def _is_same(node: Any) -> bool:
    return isinstance(node, Same)


def _node(where: str, value: Any) -> Any:
    """Return what a part of a space file says."""
    if isinstance(value, list):
        return [_node(where, one) for one in value]
    if not isinstance(value, dict):
        return value
    keys = set(value)
    for name in ("int", "float"):
        if name in keys:
            return _number(where, name, value)
    if "choice" in keys:
        if keys != {"choice"}:
            raise RecembError(f"{where}: a choice has nothing beside it, got {sorted(keys)}")
        return _choice(where, value["choice"])
    if "same" in keys:
        if keys != {"same"} or not isinstance(value["same"], str):
            raise RecembError(f"{where}: must be {{same: SETTING}}, got {value}")
        return Same(value["same"])
    section = {name: _node(f"{where}.{name}", one) for name, one in value.items()}
    for name, one in section.items():
        if isinstance(one, Same) and (one.name not in section or _is_same(section[one.name])):
            raise RecembError(
                f"{where}.{name}: 'same' must name a setting beside it that is drawn or given, got "
                f"{one.name!r}"
            )
    return section


def _number(where: str, kind: str, value: Section) -> Number:
    example = "{int: [2, 64], step: 2}" if kind == "int" else "{float: [0.001, 0.1], log: true}"
    rule = RecembError(f"{where}: must be such as {example}, got {value}")
    unknown = set(value) - {kind, "step", "log"}
    try:
        # YAML takes 1e-4 for a string.
        low, high = (float(one) for one in value[kind])
        step = None if value.get("step") is None else float(value["step"])
    except (TypeError, ValueError):
        raise rule from None
    log = value.get("log", False)
    is_whole = kind == "int"
    parts = [one for one in (low, high, step) if one is not None]
    if unknown or not isinstance(log, bool) or (is_whole and any(one % 1 for one in parts)):
        raise rule
    if low > high or (log and (low <= 0 or step is not None)) or (step is not None and step <= 0):
        raise RecembError(
            f"{where}: the low end must be at most the high one, above 0 for log, and log has no "
            f"step, got {value}"
        )
    return Number(low, high, step, log, is_whole)


def _choice(where: str, given: Any) -> Choice:
    if isinstance(given, dict):
        options = {str(label): one for label, one in given.items()}
    elif isinstance(given, list):
        options = _labelled(given)
    else:
        options = {}
    if not options or len(options) != len(given):
        raise RecembError(
            f"{where}: a choice is a list of different values, or sections by label, got {given}"
        )
    return Choice({label: _node(f"{where}.{label}", one) for label, one in options.items()})


def _labelled(given: Sequence[Any]) -> Section:
    """Return alternatives by name: their kind, numbered where it is one of several, or themselves.

    Equal ones have one name.
    """
    texts = {json.dumps(one): one for one in given}
    kinds = [one["kind"] for one in texts.values() if isinstance(one, dict) and "kind" in one]
    named: Section = {}
    for text, one in texts.items():
        label = one if isinstance(one, str) else text
        if isinstance(one, dict) and "kind" in one:
            before = sum(name.partition("-")[0] == one["kind"] for name in named)
            several = kinds.count(one["kind"]) > 1
            label = f"{one['kind']}-{before + 1}" if several else one["kind"]
        named[label] = one
    return named


def _given(where: str, node: Number | Choice, value: Any) -> Any:
    """Return a value of a point as it is drawn: a number in its range, or a label."""
    if isinstance(node, Choice):
        label = value if isinstance(value, str) else json.dumps(value, default=str)
        if label not in node.options:
            raise RecembError(f"{where}: must be one of {', '.join(node.options)}; got {value}")
        return label
    kind = "a whole number" if node.is_whole else "a number"
    rule = f"{where}: must be {kind} from {node.low:g} to {node.high:g}"
    rule += f" in steps of {node.step:g}" if node.step is not None else ""
    try:
        # YAML takes 1e-4 for a string.
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    steps = (number - node.low) / (node.step or (1.0 if node.is_whole else math.inf))
    is_inside = node.low <= number <= node.high
    if not (is_inside and math.isclose(steps, round(steps), abs_tol=1e-9)):
        raise RecembError(f"{rule}, got {value}")
    return int(number) if node.is_whole else number


def _draw(name: str, node: Any, trial: Draws) -> Any:
    match node:
        case Number(is_whole=True):
            low, high, step = int(node.low), int(node.high), int(node.step or 1)
            return trial.suggest_int(name, low, high, step=step, log=node.log)
        case Number():
            return trial.suggest_float(name, node.low, node.high, step=node.step, log=node.log)
        case Choice(options):
            label = trial.suggest_categorical(name, list(options))
            return _draw(f"{name}.{label}", options[label], trial)
        case dict():
            drawn = {
                key: _draw(f"{name}.{key}", one, trial)
                for key, one in node.items()
                if not _is_same(one)
            }
            return {
                key: drawn[one.name] if isinstance(one, Same) else drawn[key]
                for key, one in node.items()
            }
        case list():
            return [_draw(f"{name}.{place}", one, trial) for place, one in enumerate(node)]
    return node


def _distributions(name: str, node: Any) -> Iterator[tuple[str, Number | Choice]]:
    match node:
        case Number():
            yield name, node
        case Choice(options):
            yield name, node
            for label, one in options.items():
                yield from _distributions(f"{name}.{label}", one)
        case dict():
            for key, one in node.items():
                yield from _distributions(f"{name}.{key}", one)
        case list():
            for place, one in enumerate(node):
                yield from _distributions(f"{name}.{place}", one)


class _Lowest:
    """Draws the low end of every range, and one given alternative of a choice."""

    def __init__(self, name: str, label: str) -> None:
        self.name, self.label = name, label

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return low

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.label if name == self.name else choices[0]


def _examples(node: Any) -> Iterator[Section]:
    """Yield a section for each alternative of a table, with the low ends of what it draws."""
    labels = list(node.options) if isinstance(node, Choice) else [""]
    for label in labels:
        example = _draw("table", node, _Lowest("table", label))
        if isinstance(example, dict):
            yield example
