"""Asserts of the contract that explain themselves, and the process that runs exported programs."""

from collections.abc import Iterator

import pytest

from tests.tables.alone import Alone

pytest.register_assert_rewrite(
    *(f"tests.tables.contract_{part}" for part in ("reading", "training", "bytes", "serving"))
)


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """A process that has torch and nothing of ours."""
    process = Alone(tmp_path_factory.mktemp("alone"))
    yield process
    process.close()
