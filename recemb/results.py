"""Results: what a verb reports, as ``results.json`` and as a short table."""

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from recemb.files import whole_file

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
    text = json.dumps(results, indent=2, default=str) + "\n"
    for path in [run / "results.json", *([copy] if copy else [])]:
        with whole_file(path) as temporary:
            temporary.write_text(text)
    return run / "results.json"


def new_run(verb: str, name: str) -> Path:
    """Return a run folder that does not exist yet: ``runs/<name>/<time>-<verb>``."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    parent, candidate, number = Path("runs") / name, f"{stamp}-{verb}", 1
    while (parent / candidate).exists():
        number += 1
        candidate = f"{stamp}-{verb}-{number}"
    return parent / candidate


def table(rows: Mapping[str, str]) -> str:
    """Return rows as aligned text.

    Example:
        >>> print(table({"test AUC": "0.8150", "rows": "3,668"}))
        test AUC  0.8150
        rows      3,668
    """
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
