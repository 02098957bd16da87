"""The wheel's packages: the engine, and within it what lies beside it in a clone.

Everything else about the project is in pyproject.toml.
"""

from setuptools import find_packages, setup

BESIDE = ("models", "data")
"""Folders of packages that the wheel has as ``recemb.models`` and ``recemb.data``."""

beside = find_packages(include=[pattern for name in BESIDE for pattern in (name, f"{name}.*")])
setup(
    packages=[
        *find_packages(include=["recemb", "recemb.*"]),
        *(f"recemb.{p}" for p in beside),
        "recemb.configs",
    ],
    package_dir={f"recemb.{name}": name for name in (*BESIDE, "configs")},
)
