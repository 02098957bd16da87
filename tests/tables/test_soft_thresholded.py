"""The soft-thresholded kind: elements shrunk by thresholds, and 0 below them."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.tables.kind import TableConfig
from recemb.tables.soft_thresholded import SoftThresholded
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import DIM
from tests.tables.helpers import Stored


class SoftThresholdedContract(TableContract):
    num_rows = 70
    is_fine = False
    """An element more of 8,000 ids is 3 % of the smallest budget."""
    too_small = (0.03,)
    left_loss = 0.3
    """Elements below their thresholds get no gradient, so they stay 0 and keep their loss."""
    bad = [({"start": -105.0}, "start must be -80 to 0, for a threshold that can move, got -105.0")]

    def place(self, held: Stored, space: str, key: int) -> int:
        """Return which s an id has: space user is read first, so its numbers come first."""
        one_per_space = len(held.learned["s_XD"]) < 3
        return (0 if space == "user" else 1) if one_per_space else self.number(space, key)

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"rows": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (row,) = rows["rows"]
        place = 0 if len(held.learned["s_XD"]) == 1 else self.place(held, space, key)
        elements = []
        for d, s in enumerate(held.learned["s_XD"][place]):
            threshold = 1 / (1 + torch.exp(-s))
            left = row[d] - threshold if row[d].detach() > 0 else row[d] + threshold
            elements.append(left if abs(row[d].detach()) > threshold.detach() else row[d] * 0)
        return torch.stack(elements)

    def larger(self, config: TableConfig) -> list[TableConfig]:
        return super().larger(config) if config.dim < DIM else []

    def prepared(self, module: Embeddings) -> Embeddings:
        for one in module.learned.values():
            generator = torch.Generator().manual_seed(5)
            one.s_XD.copy_(torch.rand(one.s_XD.shape, generator=generator) * 2 - 7)
        return module


class TestPerDimension(SoftThresholdedContract):
    settings = {"kind": "soft_thresholded", "dim": 6}
    served_bytes = 70 * 6 * 4 + 2 * 6 * 4


class TestPerElement(SoftThresholdedContract):
    settings = {"kind": "soft_thresholded", "dim": 6, "per": "element"}
    served_bytes = 70 * 6 * 4 + 70 * 6 * 4


def test_by_hand() -> None:
    module = embeddings({"t": SoftThresholded(dim=4)}, [feature("one", "t")]).eval()
    rows = torch.zeros(50, 4)
    rows[7] = torch.tensor([0.9, -0.9, 0.4, -0.4])
    module.rows.assign("t", rows)
    # sigmoid(0) = .5: .9 - .5 = .4, with its sign; .4 is below.
    module.learned["table_t"].s_XD.zero_()
    got = as_tensor(module({"one": ids([7])})["one"])
    torch.testing.assert_close(got, torch.tensor([[0.4, -0.4, 0.0, 0.0]]))


@pytest.mark.parametrize(("start", "moves"), [(-80.0, True), (-150.0, False)])
def test_thresholds_can_move_from_where_they_may_start(start: float, moves: bool) -> None:
    """A public port starts at -150, where the derivative is 0 and nothing is ever pruned."""
    s = torch.tensor([start], requires_grad=True)
    torch.sigmoid(s).sum().backward()
    assert s.grad is not None
    assert bool(s.grad > 0) == moves
    if moves:
        assert SoftThresholded(dim=2, start=start).start == start
    else:
        with pytest.raises(RecembError, match=r"^t: start must be -80 to 0"):
            SoftThresholded(dim=2, start=start).check("t")
