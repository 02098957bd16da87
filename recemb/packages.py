"""Packages: those that recemb can do without, each of a part of it, and versions that fit torch."""

import importlib
import importlib.metadata
import re
from typing import Any

from recemb.errors import RecembError

OLDEST_TORCH = (2, 8)
OF_SHARDING = ("fbgemm_gpu", "iopath", "pyre_extensions", "tensordict", "torchrec")
"""Modules of rows that several processes share; one process imports none of them."""
EXTRAS = {
    "faiss": ("faiss-cpu", "index"),
    "matplotlib": ("matplotlib", "sweep"),
    "optuna": ("optuna", "sweep"),
    "scipy": ("scipy", "sweep"),
    "sqlalchemy": ("sqlalchemy", "sweep"),
    **{name: (name.replace("_", "-"), "distributed") for name in OF_SHARDING},
}
"""By the name of the module: that of the package, and the extra that is for it."""


def needed(module: str, what: str) -> Any:
    """Return a module that recemb can do without, to a part that cannot.

    Args:
        module: A key of :data:`EXTRAS`, or a module below one.
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
    if name not in EXTRAS:
        return None
    package, extra = EXTRAS[name]
    command = _sharding() if extra == "distributed" else f"pip install 'recemb[{extra}]'"
    return f"{what} needs {package}, which is not installed; {command}"


def check_torch() -> None:
    """Raise a :class:`RecembError` if torch is older than recemb can do with."""
    version = _version("torch")
    if version is not None and version < OLDEST_TORCH:
        raise RecembError(
            f"recemb needs torch {_text(OLDEST_TORCH)} or newer, got {_text(version)}; "
            "pip install --upgrade torch"
        )


def check_sharding() -> None:
    """Raise a :class:`RecembError` if torchrec or fbgemm are not of the release that fits torch.

    One that is not installed is no matter here: its import says so.
    """
    torch = _version("torch")
    for package in ("torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu"):
        found = _version(package)
        if torch is not None and found is not None and found != _fitting(torch):
            raise RecembError(
                f"torch {_text(torch)} needs {package} {_text(_fitting(torch))}, got "
                f"{_text(found)}; {_sharding()}"
            )


def _sharding() -> str:
    """Return how what shards rows is installed, of the release that fits the torch at hand."""
    fitting = _text(_fitting(_version("torch") or OLDEST_TORCH))
    return (
        f"pip install 'recemb[distributed]' 'fbgemm-gpu-cpu=={fitting}.*' (with a GPU fbgemm-gpu), "
        f"then pip install --no-deps 'torchrec=={fitting}.*'"
    )


def _fitting(torch: tuple[int, int]) -> tuple[int, int]:
    """Return the release of torchrec and fbgemm that goes with one of torch: 1.N with 2.(N + 5)."""
    return (torch[0] - 1, torch[1] - 5)


def _version(package: str) -> tuple[int, int] | None:
    """Return a package's release; None if it is not installed or its version is none."""
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return None
    return (int(found[1]), int(found[2])) if found else None


def _text(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"
