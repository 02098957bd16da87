"""What all tests share: asserts that explain themselves, and where prepared data goes."""

import os
import warnings
from contextlib import suppress

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run beside each other share the cores; before torch counts them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

with warnings.catch_warnings(), suppress(ImportError):
    # fbgemm warns of every optional kernel that its CPU build lacks; only once, at import.
    warnings.simplefilter("ignore")
    import torchrec.sparse.jagged_tensor  # noqa: F401

# Contracts are no test files, so pytest would leave their bare asserts without a message.
pytest.register_assert_rewrite("tests.rows.contract", "tests.tables.contract")

pytest_plugins = ("tests.command_line.small",)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Keep prepared data out of the user's cache, unless one is named (it saves preparing)."""
    if "RECEMB_CACHE" in os.environ:
        yield
        return
    os.environ["RECEMB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["RECEMB_CACHE"]
