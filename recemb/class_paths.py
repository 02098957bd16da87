"""Class paths: what may be imported because a stored configuration names it.

A checkpoint may be anyone's, and importing a module runs it. So a configuration from a checkpoint
is looked at whole before it is parsed, and parsed behind a guard: where the parser would import
what a value names, wherever that value stands and however it is written, it may import from a few
packages only, and read no file.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import _optionals
from jsonargparse._common import parsing_settings

from recemb.errors import RecembError
from recemb.files import one_line

ALLOWED = ("recemb",)
"""Packages that a stored configuration may name unless the user allows more."""

COMMANDS = ("recemb.__main__", "recemb.command_line")
"""Within these what must not be imported: it would run a command."""

NO_FILE = "fF"
"""What a path must be to be read as settings: a file and none."""

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
"""Names of modules and of what is in them."""


def check_classes(path: Path, settings: Any, allow: Sequence[str]) -> None:
    """Check every value of a stored section, before anything of it is parsed.

    Args:
        path: Whose section it is.
        settings: ``model`` or ``data``, as plain values.
        allow: Further packages whose classes it may name.

    Raises:
        RecembError: If it is not a class path with settings, or names a class from elsewhere.
    """
    if not isinstance(settings, dict):
        raise _refused(path, settings, allow)
    for mapping in _mappings(settings):
        for key, value in mapping.items():
            if str(key).startswith("__"):
                raise RecembError(
                    f"{path}: refused, because it has the setting {key!r}, which would make a file "
                    "be read"
                )
            if _is_class_path(key) and not _is_allowed(value, allow):
                raise _refused(path, value, allow)


@contextmanager
def imports_only_from(path: Path, allow: Sequence[str]) -> Iterator[None]:
    """Parse a stored configuration so that it makes nothing be imported but what is allowed.

    Nor is a file read, which a parser does where settings are expected and a value is a path.

    Args:
        path: Whose configuration it is.
        allow: Further packages whose classes it may name.

    Raises:
        RecembError: If a value names what is not allowed, or does not fit where it stands.
    """
    for package in allow:
        if not all(one.isidentifier() for one in package.split(".")):
            raise RecembError(f"--allow: must be the name of a package, got {package!r}")
    # The parser has no way to take either back, so its own variables are put as they were.
    before, read_mode = dict(parsing_settings), _optionals._config_read_mode
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*", *COMMANDS], import_path_allowlist=[*ALLOWED, *allow]
    )
    _optionals._config_read_mode = NO_FILE
    try:
        yield
    except jsonargparse.ArgumentError as error:
        denied = re.search(r"Importing '([^']*)' is not allowed", str(error))
        if denied is not None:
            raise _refused(path, denied[1], allow) from None
        raise _unfit(path, error) from error
    except RecembError:
        raise
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        # Of the parser or a constructor, at a value of another shape than fit would have stored:
        # the parser lets null, and parts of classes that are no mappings, through to them.
        raise _unfit(path, error) from error
    finally:
        parsing_settings.clear()
        parsing_settings.update(before)
        _optionals._config_read_mode = read_mode


def class_packages(settings: Any) -> list[str]:
    """Return the packages whose classes a user's settings name, beyond those always allowed."""
    named = {
        value.split(".")[0]
        for mapping in _mappings(settings)
        for key, value in mapping.items()
        if _is_class_path(key) and isinstance(value, str)
    }
    return sorted(named - {*ALLOWED})


def _mappings(settings: Any) -> Iterator[dict[Any, Any]]:
    """Yield every mapping in nested settings, also in text within them."""
    # By identity: a short text can name its own parts over and over.
    seen: dict[int, Any] = {}
    waiting = [settings]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            value = _in_text(value)
        if not isinstance(value, dict | list | tuple) or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, dict):
            yield value
            waiting += [*value, *value.values()]
        else:
            waiting += value


def _is_class_path(key: Any) -> bool:
    """Return whether a class stands under a key; the parser takes a dotted one for nested ones."""
    return str(key).split(".")[-1] == "class_path"


def _in_text(text: str) -> Any:
    """Return the mapping or list that a text is, or None."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | list) else None


def _is_allowed(class_path: Any, allow: Sequence[str]) -> bool:
    """Return whether a value is the path of a class from a package that is allowed."""
    if not isinstance(class_path, str) or not _PATH.fullmatch(class_path):
        return False
    return not _is_in(class_path, COMMANDS) and _is_in(class_path, (*ALLOWED, *allow))


def _is_in(class_path: str, packages: Sequence[str]) -> bool:
    return f"{class_path}.".startswith(tuple(f"{package}." for package in packages))


def _unfit(path: Path, error: Exception) -> RecembError:
    return RecembError(
        f"{path}: its configuration does not fit the classes that it names ({one_line(error)}); "
        "use the version of the code that wrote it"
    )


def _refused(path: Path, class_path: Any, allow: Sequence[str]) -> RecembError:
    outside = ", ".join(f"{package}." for package in (*ALLOWED, *allow))
    message = (
        f"{path}: refused, because it names the class {str(class_path)[:120]!r}, which is outside "
        f"{outside}"
    )
    if isinstance(class_path, str) and _PATH.fullmatch(class_path):
        message += f"; pass --allow {class_path.split('.')[0]} if you trust it"
    return RecembError(message)
