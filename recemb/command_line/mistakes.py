"""Mistakes: find the user's one in an exception, and say it on one line.

A mistake is one of four things; all else is a fault of the software, and keeps its trace:

- a :class:`RecembError`, an error of the parser of arguments, or YAML that cannot be read, if it is
  what was raised, or the stated cause of what the parser or Lightning raised in its place (they
  wrap what constructors raise). What was merely being handled when something else went wrong is
  no cause: a ``KeyError`` on the way out of a ``RecembError`` is a fault.
- a refusal of the system: a full or read-only disk, a place where writing is not permitted, a file
  where a folder should be. No code can prevent one, and it may come from deep within a library (the
  loggers write in Lightning), so it needs no boundary of ours to be said on a line.
- a file or folder that is missing or in the way, if the user named it on the command line.
- a package that is not installed and that recemb can do without (:mod:`recemb.packages`).
"""

import errno
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsonargparse
import yaml

from recemb.errors import RecembError
from recemb.packages import how_to_install
from recemb.tables.registry import table_config

WRAPPERS = ("jsonargparse", "lightning")
"""Packages that raise an error of their own in the place of ours, and say so."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
"""Refusals of the system also where it does not say which file: a write to an open one."""
REFUSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
"""Refusals of the system where they name a file; without one they are of a socket or a process."""
NAMED = (errno.ENOENT, errno.EISDIR, errno.EEXIST)
"""What is wrong with a path; a mistake where the user gave it."""

# What jsonargparse says around the one line that tells what is wrong.
_FRAME = re.compile(
    r"(- )?(Does not validate|Subtypes:|Errors:|Given value|Problem with|Parser key"
    r"|Expected a <class 'NoneType'>|Subclasses are disabled|Import path .* does not correspond)"
)


def mistake_in(error: BaseException, arguments: Sequence[str]) -> str | None:
    """Return one line for a user's mistake, or None if the error is a fault of the software.

    Args:
        error: What reached the command line.
        arguments: The words after the verb.
    """
    for one in _stated(error):
        if isinstance(one, RecembError):
            return _folded(str(one))
        if isinstance(one, yaml.YAMLError):
            return f"the configuration is not readable YAML ({_folded(str(one))})"
        if isinstance(one, ModuleNotFoundError) and (line := how_to_install(one)) is not None:
            return line
        if isinstance(one, OSError) and (line := _refusal(one, arguments)) is not None:
            return line
    if isinstance(error, jsonargparse.ArgumentError):
        try:
            return _folded(_table_mistake(arguments) or _short(str(error)))
        except yaml.YAMLError as unreadable:
            return mistake_in(unreadable, arguments)
    return None


def _stated(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what is stated as its cause as long as a library did the wrapping."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ if _raised_in(seen) in WRAPPERS else None


def _raised_in(error: BaseException) -> str | None:
    """Return the name of the package whose code raised an error."""
    trace = error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _refusal(error: OSError, arguments: Sequence[str]) -> str | None:
    """Return one line if the system refused, or a path that the user named is wrong."""
    path = None if error.filename is None else str(error.filename)
    is_named = path is not None and any(
        path == word.partition("=")[2 if word.startswith("--") and "=" in word else 0]
        for word in arguments
    )
    if (
        error.errno in FULL
        or (error.errno in REFUSED and path is not None)
        or (error.errno in NAMED and is_named)
    ):
        where = path or "a file or the output"
        advice = (
            "make room there, or name another place"
            if error.errno in FULL
            else "check the path, and what is allowed there"
        )
        return _folded(f"{where}: the system refuses ({error.strerror}); {advice}")
    return None


def _folded(text: str) -> str:
    """Return a text on one line: a name in it, such as a column's, may hold line breaks."""
    return re.sub(r"\s*[\r\n]+\s*", " ", text.strip())


def _table_mistake(arguments: Sequence[str]) -> str | None:
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
