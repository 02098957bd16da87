"""Arguments: what an object was made with, as a configuration would name it.

A model that was built in Python has no configuration, but its constructor's arguments are one.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

KEPT = "_recemb_arguments"


def remembering(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that keeps what it was called with, for :func:`settings_of`."""

    @functools.wraps(init)
    def remembering_init(self: Any, *args: Any, **kwargs: Any) -> None:
        if KEPT not in self.__dict__:  # else it is called by that of a subclass
            bound = inspect.signature(init).bind(self, *args, **kwargs).arguments
            self.__dict__[KEPT] = dict(list(bound.items())[1:])
        init(self, *args, **kwargs)

    return remembering_init


def settings_of(made: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return class path and arguments of an object, as plain values.

    Args:
        made: By a constructor that :func:`remembering` wraps.
        without: Arguments that are left out.
    """
    kind = type(made)
    given = {name: value for name, value in getattr(made, KEPT).items() if name not in without}
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": {name: _plain(value) for name, value in given.items()},
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value) if one.init}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value
