"""OptEmbed: thresholds by hand, in the right place, and what is stored equals the supernet."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.optembed import OptEmbed, kept_rows, thresholds_of
from recemb.search.supernet import thresholded, thresholded_tables
from recemb.tables.full import Full
from recemb.tables.thresholded import Thresholded
from tests.tables.helpers import as_tensor, embeddings, feature, ids, space_of


def supernet() -> Embeddings:
    """Two tables; of the items' norms .1, .2, ..., 5.0 some are below the threshold."""
    features = [feature("item", "items"), feature("user", "users", space="user")]
    module = embeddings({"items": Thresholded(dim=4), "users": Thresholded(dim=3)}, features)
    rows = torch.arange(1.0, 51).unsqueeze(1) * torch.tensor([0.04, -0.03, 0.02, -0.01])
    module.rows.assign("items", rows)
    thresholds_of(module)["items"].threshold_F.fill_(2.05)
    return module


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = supernet()


def test_thresholds_follow_loss_and_penalty_by_hand() -> None:
    model = Model().train()
    search = OptEmbed(learning_rate=0.1, alpha=0.5)
    search.on_train_start(SimpleNamespace(), model)  # type: ignore[arg-type]
    thresholds = thresholds_of(model.embeddings)
    for one in thresholds.values():
        one.sampled = 0
    # Item 20 has the norm 2.1: .05 above the threshold, where the slope is 2 - 4 * .05 = 1.8. Item
    # 9 has 1.0, 1.05 below: no slope. The row of item 20 is 21 * (.04, -.03, .02, -.01).
    got = model.embeddings({"item": ids([20, 9]), "user": ids([0])})
    as_tensor(got["item"]).sum().backward()
    search.on_train_batch_end(SimpleNamespace(), model, None, None, 0)  # type: ignore[arg-type]
    grad = -1.8 * 21 * 0.02 - 0.5 * math.exp(-2.05)
    assert thresholds["items"].threshold_F.item() == pytest.approx(2.05 - 0.1 * grad, rel=1e-5)
    # No loss reaches the users' threshold, which rises by the penalty alone.
    assert thresholds["users"].threshold_F.item() == pytest.approx(0.1 * 0.5)
    # The gradient is used once.
    search.on_train_batch_end(SimpleNamespace(), model, None, None, 1)  # type: ignore[arg-type]
    assert thresholds["users"].threshold_F.item() == pytest.approx(0.05 + 0.05 * math.exp(-0.05))
    search.on_train_end(SimpleNamespace(), model)  # type: ignore[arg-type]
    assert not any(one.sampled or one.threshold_F.requires_grad for one in thresholds.values())


def test_widths_are_drawn_while_it_trains() -> None:
    model = Model()
    search = OptEmbed()
    search.on_train_start(SimpleNamespace(), model)  # type: ignore[arg-type]
    thresholds = thresholds_of(model.embeddings)
    assert {name: one.sampled for name, one in thresholds.items()} == {"items": 4, "users": 3}
    OptEmbed(widest={"items": 2}).on_train_start(SimpleNamespace(), model)  # type: ignore[arg-type]
    assert {name: one.sampled for name, one in thresholds.items()} == {"items": 2, "users": 3}


def test_rows_are_dropped_where_they_are_and_in_the_table_they_are_of() -> None:
    module = supernet()
    # The norm of item k is .1 (k + 1), which is above 2.05 from item 20 on.
    assert kept_rows(module, "items").tolist() == [key >= 20 for key in range(50)]
    assert kept_rows(module, "users").all()


@pytest.mark.parametrize("widths", [(1, 3), (3, 1), (4, 2)])
def test_what_is_stored_equals_the_supernet_to_the_bit(widths: tuple[int, int]) -> None:
    module = supernet().eval()
    searched = thresholded_tables(module)
    for name, width in zip(searched, widths, strict=True):
        thresholds_of(module)[name].width_F.fill_(width)
    contents = {
        name: one.content([list(range(width))])
        for (name, one), width in zip(searched.items(), widths, strict=True)
    }
    made = module.converted(contents)
    batch: Any = {"item": ids(range(50)), "user": ids(range(20))}
    wanted, got = module(batch), made(batch)
    for name in batch:
        assert torch.equal(as_tensor(got[name]), as_tensor(wanted[name]))
    # A width is a number of elements: 30 items and a map of 50, 20 users.
    sizes = {name: made.tables[name].serving_bytes("t", made.spaces[name]) for name in searched}
    assert sizes == {"items": 30 * widths[0] * 4 + 50 * 2, "users": 20 * widths[1] * 4}
    assert made.rows.tables()["items"].shape == (30, widths[0])


def test_a_table_of_several_id_spaces_is_refused() -> None:
    spaces = [space_of("item"), space_of("user")]
    with pytest.raises(RecembError, match=r"^table 't': optembed finds a width for each id space"):
        thresholded("t", Full(dim=4), spaces)
    assert thresholded("t", Full(dim=4, precision="int8"), spaces[:1]) == Thresholded(
        dim=4, precision="int8"
    )


def test_bad_settings_and_models_are_refused() -> None:
    with pytest.raises(RecembError, match=r"^optembed: learning_rate must be above 0, got 0"):
        OptEmbed(learning_rate=0)
    with pytest.raises(RecembError, match=r"^optembed: alpha must be at least 0, got -1"):
        OptEmbed(alpha=-1)
    with pytest.raises(RecembError, match=r"^optembed: widest must be at least 1, got 0 for tab"):
        OptEmbed(widest={"items": 0})
    with pytest.raises(RecembError, match=r"^optembed: no table is of kind thresholded"):
        thresholds_of(embeddings({"t": Full(dim=2)}, [feature("one", "t")]))
