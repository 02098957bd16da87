"""The reference store under the contract of every store."""

import pytest

from recemb.rows.reference import ReferenceRowsStore
from tests.rows.contract import MakeStore, RowsStoreContract


class TestReferenceRowsStore(RowsStoreContract):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        return ReferenceRowsStore
