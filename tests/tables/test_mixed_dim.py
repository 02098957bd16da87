"""Mixed dimensions: the more ids share a feature's data, the narrower their rows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.tables.kind import IdSpace, TableConfig
from recemb.tables.mixed_dim import MixedDim
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import BIG
from tests.tables.helpers import Stored, stored


class MixedDimContract(TableContract):
    """The contract with the oracle of the kind."""

    num_rows = 70
    is_fine = False
    """An element more of 5,000 ids is 4 % of the smaller budget."""
    too_small = (0.1, 0.03)
    """The smallest id space keeps its width, by the published law: 3,000 of 8,000 ids here."""
    bad: Any = [
        ({"exponent": -0.1}, "exponent must be in 0..4, got -0.1"),
        ({"exponent": 4.1}, "exponent must be in 0..4, got 4.1"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"user": [], "item": [], space: [key]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (row,) = rows[space]
        if len(row) == self.settings["dim"]:
            return row
        return held.learned["matrices.1.weight"] @ row

    def larger(self, config: TableConfig) -> list[TableConfig]:
        """Return all of smaller exponents that have other widths."""
        assert isinstance(config, MixedDim)
        assert config.exponent is not None
        own = config.serving_bytes("ads", BIG)
        others = [replace(config, exponent=config.exponent * n / 400) for n in range(400)]
        return [other for other in others if other.serving_bytes("ads", BIG) > own]


class TestNarrowItems(MixedDimContract):
    """6 (20 / 50)^0.5 = 3.8, so items are 4 wide."""

    settings = {"kind": "mixed_dim", "dim": 6, "exponent": 0.5}
    served_bytes = (20 * 6 + 50 * 4 + 4 * 6) * 4


class TestEqualWidths(MixedDimContract):
    """Nothing to project."""

    settings = {"kind": "mixed_dim", "dim": 6, "exponent": 0.0}
    served_bytes = 70 * 6 * 4


class TestInt8(MixedDimContract):
    settings = {"kind": "mixed_dim", "dim": 6, "exponent": 0.5, "precision": "int8"}
    served_bytes = (20 * 6 + 4) + (50 * 4 + 4) + 4 * 6 * 4
    rate = 0.02


@pytest.mark.parametrize(
    ("exponent", "widths"),
    # 32 (100 / n)^a for n = 100, 1,000 and 10,000.
    [
        (0.0, [32, 32, 32]),
        (0.3, [32, 16, 8]),
        (0.5, [32, 10, 3]),
        (1.0, [32, 3, 1]),
        (4.0, [32, 1, 1]),
    ],
)
def test_widths_follow_the_published_law(exponent: float, widths: list[int]) -> None:
    spaces = [IdSpace("a", 100), IdSpace("b", 1000), IdSpace("c", 10_000)]
    config = MixedDim(dim=32, exponent=exponent)
    assert list(config.widths("ads", spaces).values()) == widths
    parts = config.physical_tables("ads", spaces)
    assert [(part.num_rows, part.dim) for part in parts.values()] == list(
        zip((100, 1000, 10_000), widths, strict=True)
    )


def test_projections_are_counted() -> None:
    spaces = [IdSpace("a", 100), IdSpace("b", 1000)]
    config = MixedDim(dim=32, exponent=0.3)
    assert config.serving_bytes("ads", spaces) == (100 * 32 + 1000 * 16 + 16 * 32) * 4


def test_each_space_has_its_own_projection() -> None:
    features = [
        feature("one", "ads"),
        feature("url", "ads", space="items"),
        feature("who", "ads", space="user"),
    ]
    module = embeddings({"ads": MixedDim(dim=6, exponent=0.2)}, features)
    held = stored(module)
    assert sorted(held.learned) == ["matrices.0.weight", "matrices.1.weight"]
    got = module.eval()({"one": ids([3]), "url": ids([3]), "who": ids([3])})
    for name, space, number in (("one", "item", 0), ("url", "items", 1)):
        wanted = held.learned[f"matrices.{number}.weight"] @ held.rows[space][3]
        assert as_tensor(got[name])[0].tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    assert as_tensor(got["who"])[0].tolist() == held.rows["user"][3].tolist()


def test_spaces_of_one_width_have_projections_of_their_own() -> None:
    spaces = {"a": IdSpace("a", 50), "b": IdSpace("b", 50), "who": IdSpace("user", 20)}
    features = [replace(feature(name, "ads"), space=space) for name, space in spaces.items()]
    module = embeddings({"ads": MixedDim(dim=6, exponent=0.5)}, features).eval()
    held = stored(module)
    got = module({name: ids([3, 7]) for name in spaces})
    for name, number in (("a", 0), ("b", 1)):
        wanted = held.rows[name][[3, 7]] @ held.learned[f"matrices.{number}.weight"].T
        torch.testing.assert_close(as_tensor(got[name]).detach(), wanted)


def test_id_spaces_may_have_dots_in_their_names() -> None:
    features = [feature("one", "ads", space="a.item"), feature("two", "ads", space="b.item")]
    spaces = {"a.item": 40, "b.item": 90}
    features = [
        replace(one, space=IdSpace(one.space.name, spaces[one.space.name])) for one in features
    ]
    module = embeddings({"ads": MixedDim(dim=6, exponent=0.5)}, features)
    other = embeddings({"ads": MixedDim(dim=6, exponent=0.5)}, features, seed=2)
    other.load_state_dict(module.state_dict())
    got, wanted = (one({"one": ids([39]), "two": ids([89])}) for one in (other, module))
    assert as_tensor(got["two"]).tolist() == as_tensor(wanted["two"]).tolist()
