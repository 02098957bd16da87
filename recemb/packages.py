"""Packages that recemb can do without: each belongs to a part of it, and is installed with it."""

import importlib
from typing import Any

from recemb.errors import RecembError

_SWEEP = "pip install -e '.[sweep]'"
_TORCHREC = "pip install --no-deps -r requirements/torchrec.txt"
_FBGEMM = "pip install -r requirements/cpu.txt (or cuda.txt)"
INSTALL = {
    "faiss": ("faiss-cpu", "pip install -e '.[index]'"),
    "matplotlib": ("matplotlib", _SWEEP),
    "optuna": ("optuna", _SWEEP),
    "scipy": ("scipy", _SWEEP),
    "sqlalchemy": ("sqlalchemy", _SWEEP),
    "fbgemm_gpu": ("fbgemm-gpu", _FBGEMM),
    "tensordict": ("tensordict", _FBGEMM),
    "torchrec": ("torchrec", _TORCHREC),
}
"""By the name of the module: that of the package, and how it is installed, in the clone."""


def needed(module: str, what: str) -> Any:
    """Return a module that recemb can do without, to a part that cannot.

    Args:
        module: A key of :data:`INSTALL`, or a module below one.
        what: What needs it; it begins the message.

    Raises:
        RecembError: If it is not installed, with how it would be.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        line = how_to_install(error, what)
        if line is None:
            raise
        raise RecembError(line) from error


def how_to_install(error: ModuleNotFoundError, what: str = "this") -> str | None:
    """Return one line about a module that is not installed; None if it is none of these.

    Args:
        error: Of the import.
        what: What needs it, if that is known.
    """
    name = (error.name or "").partition(".")[0]
    if name not in INSTALL:
        return None
    package, command = INSTALL[name]
    return f"{what} needs {package}, which is not installed; {command}"
