"""Results: what a verb reports, as ``results.json`` and as a short table."""

import hashlib
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from recemb.errors import RecembError
from recemb.files import read_json, whole_file

PACKAGES = ("torchrec", "fbgemm-gpu-cpu", "fbgemm-gpu", "lightning", "polars", "recemb")


def config_hash(config: Mapping[str, Any]) -> str:
    """Return a short hash of a configuration that does not depend on the order of its keys."""
    text = yaml.safe_dump(dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that figures depend on."""
    # torch's own word ends in its build (+cpu, +cu130), which its package's metadata may leave out.
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_results(results: Mapping[str, Any], run: Path, copy: Path | None) -> Path:
    """Write ``results.json`` into a run folder, and a copy; return its path."""
    text = json.dumps(plain(results), indent=2, default=str, allow_nan=False) + "\n"
    for path in [run / "results.json", *([copy] if copy else [])]:
        with whole_file(path) as temporary:
            temporary.write_text(text)
    return run / "results.json"


def read_results(path: Path) -> dict[str, Any]:
    """Return what a verb wrote as ``results.json``.

    Raises:
        RecembError: If there is no such file, or it is not as recemb writes it.
    """
    results = read_json(path, "result of a verb")
    for name, shape in _SHAPES.items():
        # A search tells the tables that stay, and a sweep that nothing was chosen.
        if name in results and not _has_shape(results[name], shape):
            raise RecembError(
                f"{path}: {name!r} is not what recemb writes there; run the verb again"
            )
    if "verb" not in results:
        raise RecembError(f"{path}: no verb of recemb wrote it: 'verb' is missing; check the path")
    return results


_NUMBER = (int, float, type(None))
_NUMBERS = {"*": _NUMBER}
_TABLES = {"*": {"kind": str, "num_rows": int, "dim": int, "bytes": int}}
_SHAPES: dict[str, Any] = {
    "verb": str,
    "run": str,
    "metrics": _NUMBERS,
    "bytes": _NUMBERS,
    "tables": _TABLES,
    "parity": _NUMBERS,
    "best_auc": _NUMBERS,
    "kept": {"*": str},
    "before": {"metrics": _NUMBERS, "tables": _TABLES, "bytes": _NUMBERS},
    "epochs": _NUMBER,
    "samples_per_s": _NUMBER,
    "peak_memory_bytes": _NUMBER,
    "seconds": _NUMBER,
}
"""What summaries and reports read of results; ``*`` stands for every name."""


def _has_shape(value: Any, shape: Any) -> bool:
    if not isinstance(shape, dict):
        return isinstance(value, shape) and not isinstance(value, bool)
    if not isinstance(value, dict):
        return False
    if "*" in shape:
        return all(_has_shape(one, shape["*"]) for one in value.values())
    return all(name in value and _has_shape(value[name], own) for name, own in shape.items())


def plain(value: Any) -> Any:
    """Return nested values of which those that JSON has no word for, NaN and infinity, are None.

    Example:
        >>> plain({"auc": float("nan"), "sizes": [1, float("inf")]})
        {'auc': None, 'sizes': [1, None]}
    """
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def new_run(verb: str, name: str) -> Path:
    """Return a run folder that does not exist yet: ``runs/<name>/<time>-<verb>``."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parent, candidate, number = Path("runs") / name, f"{stamp}-{verb}", 1
    while (parent / candidate).exists():
        number += 1
        candidate = f"{stamp}-{verb}-{number}"
    return parent / candidate


def fixed(value: float) -> str:
    """Return a number with four decimals, or with as many as tell it from 0.

    Example:
        >>> fixed(0.25), fixed(-0.0000321), fixed(0.0)
        ('0.2500', '-0.000032', '0.0000')
    """
    if value == 0 or abs(value) >= 5e-5 or not math.isfinite(value):
        return f"{value:z.4f}"
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"


def difference(value: float) -> str:
    """Return a difference with its sign; 0 has none.

    Example:
        >>> difference(0.01), difference(-0.0000321), difference(-0.0)
        ('+0.0100', '-0.000032', '0.0000')
    """
    return f"+{fixed(value)}" if value > 0 else fixed(value)


def table(rows: Mapping[str, str]) -> str:
    """Return rows as aligned text.

    Example:
        >>> print(table({"test AUC": "0.8150", "rows": "3,668"}))
        test AUC  0.8150
        rows      3,668
    """
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
