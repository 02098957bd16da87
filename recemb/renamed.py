"""Renamed: class paths as earlier releases had them, which configurations and checkpoints name.

Models and data readers were once found as ``models.din`` and ``data.tabular``, names that other
people's packages have too; they are ``recemb.models.din`` and ``recemb.data.tabular`` now.
"""

import re
from importlib.util import find_spec
from typing import Any

_MOVED = re.compile(r"(models|data)\.[^\W\d]\w*(\.[^\W\d]\w*)*")


def current_path(class_path: str) -> str:
    """Return the class path that an old one stands for; any other as it is.

    A user's own package may be called ``models`` too: what this project never had is left alone.

    Example:
        >>> current_path("models.din.DIN")
        'recemb.models.din.DIN'
        >>> current_path("models.of_a_shop.Ranker")
        'models.of_a_shop.Ranker'
    """
    if not _MOVED.fullmatch(class_path):
        return class_path
    package, module = class_path.split(".")[:2]
    is_ours = find_spec(f"recemb.{package}.{module}") is not None
    return f"recemb.{class_path}" if is_ours else class_path


def current_paths(settings: Any) -> Any:
    """Return settings in which every ``class_path`` is a current one."""
    if isinstance(settings, dict):
        return {
            key: current_path(value)
            if str(key).split(".")[-1] == "class_path" and isinstance(value, str)
            else current_paths(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list):
        return [current_paths(value) for value in settings]
    return settings
