"""Requirements: ranges that hold what the tests run with, and no next major version."""

import importlib.metadata
import itertools
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [Requirement(one) for one in itertools.chain(PROJECT["dependencies"], *EXTRAS.values())]
RANGES = [
    one for one in REQUIRED if one.name not in ("recemb", "mypy", "ruff", "packaging", "setuptools")
]


@pytest.mark.parametrize("required", RANGES, ids=lambda one: one.name)
def test_a_range_ends_before_the_next_major_version_and_holds_what_is_tested(required):
    floors = [Version(one.version) for one in required.specifier if one.operator == ">="]
    ceilings = [Version(one.version) for one in required.specifier if one.operator == "<"]
    assert len(floors) == len(ceilings) == 1
    (floor,), (ceiling,) = floors, ceilings
    following = (floor.major + 1, 0) if floor.major else (0, floor.minor + 1)
    assert (ceiling.major, ceiling.minor) == following
    try:
        installed = Version(importlib.metadata.version(required.name))
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{required.name} is not installed")
    assert installed in required.specifier
    # The floor is what was tested, up to corrections.
    assert (installed.major, installed.minor) >= (floor.major, floor.minor)


def test_the_readme_says_what_is_tested():
    text = " ".join((ROOT / "README.md").read_text().split())
    for name in ("polars 2.1", "pyarrow 26", "numpy 2.4", "lightning 2.6", "xxhash 4.1"):
        assert name in text
        own = next(one for one in RANGES if one.name == name.split()[0])
        assert any(part.version.startswith(name.split()[1]) for part in own.specifier)
