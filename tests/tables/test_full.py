"""The full kind: the row of an id is the id."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.tables.full import Full
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids


class TestFull(TableContract):
    settings = {"kind": "full", "dim": 6}
    num_rows = 50
    width = 6

    def rows_of_id(
        self, settings: Mapping[str, Any], table: str, space: str, key: int, lookups: int
    ) -> list[int]:
        return [key]

    def compose(self, settings: Mapping[str, Any], rows: Sequence[Tensor]) -> Tensor:
        return rows[0]

    @pytest.fixture(params=[({"rows": 3}, "kind full has no setting 'rows'; it has ['dim'")])
    def bad(self, request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
        return request.param

    def test_equals_torchs_embedding(self) -> None:
        module = embeddings({"ads": Full(dim=6)}, [feature("one", "ads")])
        theirs = torch.nn.Embedding.from_pretrained(module.rows.tables()["ads"])
        keys = ids([49, 0, 7, 7])
        assert torch.equal(as_tensor(module({"one": keys})["one"]), theirs(keys))

    def test_every_id_has_a_vector_of_its_own(self) -> None:
        module = embeddings({"ads": Full(dim=6)}, [feature("one", "ads")])
        assert len(as_tensor(module({"one": ids(range(50))})["one"]).unique(dim=0)) == 50

    def test_two_id_spaces_are_refused(self) -> None:
        features = [feature("one", "ads"), feature("two", "ads", space="user")]
        with pytest.raises(
            RecembError,
            match=r"^table 'ads': kind full needs one vocabulary, got features of "
            r"\['item', 'user'\]; share",
        ):
            embeddings({"ads": Full(dim=6)}, features)

    def test_raw_ids_are_refused(self) -> None:
        with pytest.raises(
            RecembError, match=r"^table 'ads': kind full needs a vocabulary, got raw ids of 'url'"
        ):
            embeddings({"ads": Full(dim=6)}, [feature("one", "ads", space="url")])
