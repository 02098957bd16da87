"""The compositional kind: quotient and remainder rows, combined per id."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recemb.tables.compositional import Compositional
from recemb.tables.kind import IdSpace, TableConfig
from tests.tables.contract import TableContract, as_tensor, bags, embeddings, feature
from tests.tables.contract_bytes import BIG
from tests.tables.helpers import SPACES, Stored, stored


class CompositionalContract(TableContract):
    """The contract with the oracle of the kind; k = 8 makes both id spaces smaller."""

    k = 8
    plain: tuple[str, ...] = ()
    """Id spaces that two tables would not make smaller."""
    too_small = (0.03,)
    """Two roots of 5,000 and of 3,000 rows are 3.2 % of the plain table."""
    bad = [({"num_remainders": 1}, "num_remainders must be at least 2, got 1")]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        if space in self.plain:
            return {"quotients": [], "remainders": [], "plain": [key]}
        before = ["user"] if space == "item" and "user" not in self.plain else []
        quotients = sum(-(-SPACES[one] // self.k) for one in before)
        found = {
            "quotients": [quotients + key // self.k],
            "remainders": [len(before) * self.k + key % self.k],
        }
        return {**found, "plain": []} if self.plain else found

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        if space in self.plain:
            return rows["plain"][0]
        (q,), (r,) = rows["quotients"], rows["remainders"]
        combine = self.settings.get("combine", "product")
        return {"product": lambda: q * r, "sum": lambda: q + r}.get(
            combine, lambda: torch.cat([q, r])
        )()

    def larger(self, config: TableConfig) -> list[TableConfig]:
        """Return all whose tables take 1 % more bytes: large k are tried in steps."""
        assert isinstance(config, Compositional)
        own = config.serving_bytes("ads", BIG)
        others = [replace(config, num_remainders=k) for k in [*range(2, 80), *range(80, 5001, 7)]]
        return [other for other in others if other.serving_bytes("ads", BIG) > 1.01 * own]


class TestProduct(CompositionalContract):
    settings = {"kind": "compositional", "dim": 6, "num_remainders": 8}
    num_rows = 3 + 7 + 2 * 8
    served_bytes = (3 + 7 + 2 * 8) * 6 * 4


class TestSum(CompositionalContract):
    settings = {"kind": "compositional", "dim": 6, "num_remainders": 8, "combine": "sum"}
    num_rows = 3 + 7 + 2 * 8
    served_bytes = (3 + 7 + 2 * 8) * 6 * 4


class TestConcatenate(CompositionalContract):
    settings = {"kind": "compositional", "dim": 6, "num_remainders": 8, "combine": "concatenate"}
    num_rows = 3 + 7 + 2 * 8
    served_bytes = (3 + 7 + 2 * 8) * 3 * 4
    too_small = ()
    bad = [({"dim": 7}, "concatenation needs an even dim, got 7; the nearest are 6 and 8")]
    left_loss = 0.1


class TestAPlainSpace(CompositionalContract):
    """With k = 18, two tables for the 20 users would have 2 + 18 rows: no fewer."""

    k = 18
    plain = ("user",)
    settings = {"kind": "compositional", "dim": 6, "num_remainders": 18}
    num_rows = 20 + 3 + 18
    served_bytes = (20 + 3 + 18) * 6 * 4


class TestInt8(CompositionalContract):
    settings = {"kind": "compositional", "dim": 6, "num_remainders": 8, "precision": "int8"}
    num_rows = 3 + 7 + 2 * 8
    served_bytes = (3 + 7 + 2 * 8) * 6 + 2 * 4
    too_small = ()
    is_fine = False
    """Half of the plain bytes is more than all rows of one byte per element."""
    rate = 0.02


def test_ids_are_composed_before_a_bag_is_pooled() -> None:
    """A published implementation pools quotients and remainders first: another function."""
    config = Compositional(dim=4, num_remainders=8)
    module = embeddings({"ads": config}, [feature("list", "ads", pooling="sum")])
    got = as_tensor(module({"list": bags([[1, 10, 25]])})["list"])[0]
    held = stored(module).rows
    q, r = held["quotients"], held["remainders"]
    wanted = q[0] * r[1] + q[1] * r[2] + q[3] * r[1]
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)
    wrong = (q[0] + q[1] + q[3]) * (r[1] + r[2] + r[1])
    assert not torch.allclose(got, wrong, rtol=0.1)


def test_every_id_keeps_a_vector_of_its_own() -> None:
    config = Compositional(dim=4, num_remainders=8)
    module = embeddings({"ads": config}, [feature("list", "ads", pooling="none")])
    values = module({"list": bags([list(range(50))])})["list"].values
    assert len(values.unique(dim=0)) == 50


def test_factors_of_a_product_do_not_vanish() -> None:
    # Both from -0.05..0.05 would multiply to 0.0008.
    config = Compositional(dim=4, num_remainders=8)
    held = stored(embeddings({"ads": config}, [feature("one", "ads")])).rows
    assert ((held["remainders"] - 1).abs() <= 0.1 + 1e-6).all()
    assert held["quotients"].abs().max() <= 0.05


@pytest.mark.parametrize(("share", "k"), [(1.0, 2), (0.3, 4), (0.25, 5)])
def test_few_remainders_suffice_for_large_shares(share: float, k: int) -> None:
    # Of 100 ids: 52 rows for k = 2, 29 for 4, 25 for 5.
    config = Compositional(dim=4, share=share)
    solved = config.solve("table 'ads'", [IdSpace("item", 100)])
    assert solved.serving_bytes("ads", [IdSpace("item", 100)]) <= share * 1600
    rows = -(-100 // k) + k
    assert solved.serving_bytes("ads", [IdSpace("item", 100)]) >= rows * 16
