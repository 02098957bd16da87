"""Mistakes: find the user's one in an exception, and say it on one line."""

import itertools
import re
from pathlib import Path

import jsonargparse
import yaml

from recemb.errors import RecembError
from recemb.tables.registry import table_config

# What jsonargparse says around the one line that tells what is wrong.
_FRAME = re.compile(
    r"(- )?(Does not validate|Subtypes:|Errors:|Given value|Problem with|Parser key"
    r"|Expected a <class 'NoneType'>|Subclasses are disabled|Import path .* does not correspond)"
)


def mistake_in(error: BaseException, arguments: list[str]) -> str | None:
    """Return one line for a user's mistake, or None if the error is a fault of the software."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RecembError):
            return str(seen)
        if isinstance(seen, FileNotFoundError):
            return str(seen)
        if isinstance(seen, yaml.YAMLError):
            return f"the configuration is not readable YAML ({' '.join(str(seen).split())})"
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, jsonargparse.ArgumentError):
        try:
            return _table_mistake(arguments) or _short(str(error))
        except yaml.YAMLError as unreadable:
            return mistake_in(unreadable, arguments)
    return None


def _table_mistake(arguments: list[str]) -> str | None:
    """Return what is wrong with a table of the configuration file: the parser names none."""
    for option, value in itertools.pairwise(arguments):
        if option not in ("--config", "-c") or not Path(value).is_file():
            continue
        config = yaml.safe_load(Path(value).read_text())
        try:
            tables = config["model"]["init_args"]["tables"]
            for name, settings in tables.items():
                # A run's own config.yaml has the parser's form: class_path and init_args.
                table_config(name, settings.get("init_args", settings))
        except RecembError as error:
            return str(error)
        except (KeyError, TypeError, AttributeError):
            return None
    return None


def _short(message: str) -> str:
    """Return where and what of a parser's message of many lines."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    keys = re.findall(r'Parser key "([^"]+)"', message)
    reasons = [line.removeprefix("- ") for line in lines if not _FRAME.match(line)]
    reason = reasons[0] if reasons else " ".join(lines)
    given = re.findall(r"Given value: (.*)", message)
    # The innermost value; an outer one is a whole section.
    if given and len(given[0]) < 80:
        reason += f", got {given[0]}"
    return f"{'.'.join(dict.fromkeys(keys))}: {reason}" if keys else reason
