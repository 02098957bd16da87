"""The thresholded kind: rows that count if they are large, vectors that may be short."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.tables.kind import TableConfig
from recemb.tables.thresholded import LongTailedStep, Thresholded
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import DIM
from tests.tables.helpers import Stored


class ThresholdedContract(TableContract):
    num_rows = 70
    is_fine = False
    """An element more of 8,000 ids is 3 % of the smallest budget."""
    too_small = (0.03,)

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"rows": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (row,) = rows["rows"]
        # Space user is read first, so its numbers come first.
        place = 0 if space == "user" else 1
        if len(held.learned["threshold_F"]) == 1:
            place = 0
        threshold, width = held.learned["threshold_F"][place], held.learned["width_F"][place]
        if row.detach().abs().sum() <= threshold.detach():
            return row * 0
        return torch.stack([row[d] if d < int(width) else row[d] * 0 for d in range(len(row))])

    def larger(self, config: TableConfig) -> list[TableConfig]:
        return super().larger(config) if config.dim < DIM else []


class TestNothingIsMasked(ThresholdedContract):
    """Where the surrogate's slope is 0, at norms above 1, gradients are those of a plain table."""

    settings = {"kind": "thresholded", "dim": 6, "init_scale": 0.5}
    served_bytes = 70 * 6 * 4 + 2 * 4 + 2 * 4

    def prepared(self, module: Embeddings) -> Embeddings:
        for one in module.learned.values():
            one.threshold_F.fill_(-100.0)
        return module


class TestInt8(TestNothingIsMasked):
    settings = {"kind": "thresholded", "dim": 6, "precision": "int8"}
    served_bytes = 70 * 6 + 4 + 2 * 4 + 2 * 4
    rate = 0.02
    too_small = ()


def test_each_id_space_has_its_own_threshold_and_width() -> None:
    features = [
        feature("item", "t"),
        feature("user", "t", space="user"),
        feature("item again", "t"),
    ]
    module = embeddings({"t": Thresholded(dim=3)}, features).eval()
    rows = torch.zeros(70, 3)
    rows[4] = torch.tensor([0.3, -0.3, 0.3])
    rows[5] = torch.tensor([0.4, 0.4, 0.1])
    rows[54:56] = rows[4:6]  # of users 4 and 5: items are numbered first
    module.rows.assign("t", rows)
    learned = module.learned["table_t"]
    learned.threshold_F.copy_(torch.tensor([0.89, 0.91]))
    learned.width_F.copy_(torch.tensor([3, 1]))
    keys = ids([4, 5])
    # .3 + .3 + .3 = .9 and .4 + .4 + .1 = .9: above .89, below .91.
    got = {name: as_tensor(one) for name, one in module(dict.fromkeys(
        ("item", "user", "item again"), keys)).items()}  # fmt: skip
    assert torch.equal(got["item"], rows[4:6])
    assert torch.equal(got["item again"], rows[4:6])
    assert not got["user"].any()
    learned.threshold_F.copy_(torch.tensor([0.91, 0.89]))
    assert not as_tensor(module(dict.fromkeys(got, keys))["item"]).any()
    short = as_tensor(module(dict.fromkeys(got, keys))["user"])
    assert torch.equal(short, rows[54:56] * torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize(
    ("excess", "step", "slope"),
    [
        (0.0, 0, 2.0), (0.1, 1, 1.6), (-0.1, 0, 1.6), (0.4, 1, 0.4), (0.5, 1, 0.4),
        (-1.0, 0, 0.4), (1.01, 1, 0.0), (-7.0, 0, 0.0),
    ],
)  # fmt: skip
def test_the_step_and_its_surrogate(excess: float, step: int, slope: float) -> None:
    x = torch.tensor([excess], requires_grad=True)
    y = LongTailedStep.apply(x)
    (3 * y).sum().backward()
    assert y.item() == step
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(3 * slope, abs=1e-6)


def test_widths_are_drawn_from_all_in_training_only() -> None:
    module = embeddings({"t": Thresholded(dim=4)}, [feature("one", "t")]).train()
    learned = module.learned["table_t"]
    keys = ids([7] * 4000)
    assert (as_tensor(module({"one": keys})["one"]) != 0).all()
    for sampled in (4, 2):
        learned.sampled = sampled
        torch.manual_seed(1)
        widths = (as_tensor(module({"one": keys})["one"]) != 0).sum(1)
        # 4000 / sampled of each, with a deviation of at most 32.
        counts = torch.bincount(widths, minlength=5).tolist()
        assert counts[0] == 0
        assert all(abs(count - 4000 / sampled) < 150 for count in counts[1 : sampled + 1])
        assert not any(counts[sampled + 1 :])
    assert (as_tensor(module.eval()({"one": keys})["one"]) != 0).all()
