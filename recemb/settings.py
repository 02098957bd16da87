"""Settings: their types, which a configuration's reader has checked and Python has not."""

import types
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin

from recemb.errors import RecembError

_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def check_types(where: str, settings: Any) -> None:
    """Raise a :class:`RecembError` if a field of a dataclass is no number, string or flag it says.

    What else a field may say (a list, one of some words) is for the owner of the settings to check.

    Args:
        where: Starts the message.
        settings: An instance of a dataclass whose annotations are types.
    """
    for one in fields(settings):
        value = getattr(settings, one.name)
        if not _fits(value, one.type):
            wanted = " or ".join(_WORDS[own] for own in _plain(one.type) if own in _WORDS)
            raise RecembError(f"{where}: {one.name} must be {wanted}, got {value!r}")


def is_whole(value: object) -> bool:
    """Return whether this is a whole number: of Python or numpy, and no flag."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain(wanted: Any) -> tuple[Any, ...]:
    """Return what a union is made of."""
    is_union = get_origin(wanted) in (Union, types.UnionType)
    return get_args(wanted) if is_union else (wanted,)


def _fits(value: object, wanted: Any) -> bool:
    plain = _plain(wanted)
    if not all(one in _WORDS or one is types.NoneType for one in plain):
        return True
    if value is None:
        return types.NoneType in plain
    if isinstance(value, bool | str):
        return type(value) in plain
    return (int in plain and is_whole(value)) or (float in plain and isinstance(value, Real))
