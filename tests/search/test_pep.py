"""PEP: thresholds move from where they start, the search ends in time, and tickets begin anew."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.pep import PEP, elements_left, margins, soft_thresholds_of
from recemb.search.supernet import shrunk_tables
from recemb.search.within_budget import largest_elements
from recemb.tables.full import Full
from recemb.tables.soft_thresholded import SoftThresholded
from tests.tables.helpers import as_tensor, embeddings, feature, ids


def supernet(**settings: Any) -> Embeddings:
    """Items whose element d of row k is .01 (k + 1) (d + 1), every second one negative; users."""
    features = [feature("item", "items"), feature("user", "users", space="user")]
    tables = {"items": SoftThresholded(dim=4, **settings), "users": SoftThresholded(dim=3)}
    module = embeddings(tables, features)
    rows = torch.arange(1.0, 51).unsqueeze(1) * torch.tensor([0.01, -0.02, 0.03, -0.04])
    module.rows.assign("items", rows)
    return module


class Model(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.embeddings = supernet(**settings)


class Run(SimpleNamespace):
    """What a trainer is to the callback."""

    def save_checkpoint(self, path: str) -> None:
        Path(path).write_text("first weights")


def started(model: nn.Module, folder: Path, **settings: Any) -> tuple[PEP, Run]:
    run = Run(global_step=0, should_stop=False)
    search = PEP(initial=str(folder / "a/initial.ckpt"), **{"kept": 1, **settings})
    search.on_train_start(run, model)  # type: ignore[arg-type]
    return search, run


def test_a_step_by_hand(tmp_path: Path) -> None:
    model = Model().train()
    search, run = started(model, tmp_path, learning_rate=0.1, decay=0.0)
    assert Path(search.initial).read_text() == "first weights"
    got = model.embeddings({"item": ids([9, 9]), "user": ids([0])})
    (as_tensor(got["item"]) * torch.tensor([1.0, 1, -1, 0])).sum().backward()
    one = soft_thresholds_of(model.embeddings)["items"]
    # d v / d s = -sign(v) sigmoid'(s): v is +, -, +, -, and the loss takes it times 1, 1, -1, 0.
    slope = math.exp(-7) / (1 + math.exp(-7)) ** 2
    wanted = 2 * slope * torch.tensor([-1.0, 1, 1, 0])
    assert one.s_XD.grad is not None
    torch.testing.assert_close(one.s_XD.grad[0], wanted)
    search.on_train_batch_end(run, model, None, None, 1)  # type: ignore[arg-type]
    # Adam's first step is its rate, against the sign.
    torch.testing.assert_close(
        one.s_XD[0].detach(), torch.tensor([-6.9, -7.1, -7.1, -7.0]), atol=1e-3, rtol=0
    )
    assert one.s_XD.grad is None
    search.on_train_end(run, model)  # type: ignore[arg-type]
    assert not one.s_XD.requires_grad


def test_without_a_gradient_thresholds_rise_by_their_decay(tmp_path: Path) -> None:
    model = Model().train()
    search, run = started(model, tmp_path, learning_rate=0.1, decay=0.5)
    as_tensor(model.embeddings({"item": ids([0]), "user": ids([0])})["item"])[:, 0].sum().backward()
    search.on_train_batch_end(run, model, None, None, 1)  # type: ignore[arg-type]
    one = soft_thresholds_of(model.embeddings)["items"]
    # The gradient of element 0 is -.0009, far less than the decay's .5 x 7.
    torch.testing.assert_close(one.s_XD[0].detach(), torch.full((4,), -6.9), atol=1e-3, rtol=0)


def test_nothing_moves_from_the_start_of_a_public_port(tmp_path: Path) -> None:
    """From -150 the derivative is 0 in fp32; from this kind's lowest start it is not."""
    for start, moves in ((-150.0, False), (-80.0, True), (-7.0, True)):
        model = Model().train()
        started(model, tmp_path)
        one = soft_thresholds_of(model.embeddings)["items"]
        with torch.no_grad():
            one.s_XD.fill_(start)
        as_tensor(model.embeddings({"item": ids([9]), "user": ids([0])})["item"]).sum().backward()
        assert one.s_XD.grad is not None
        assert bool(one.s_XD.grad.any()) == moves


@pytest.mark.parametrize("per", ["dimension", "element"])
def test_margins_and_what_is_left(per: str) -> None:
    module = supernet(per=per)
    thresholds = soft_thresholds_of(module)
    thresholds["items"].s_XD.fill_(math.log(0.2 / 0.8))  # a threshold of .2
    sizes = [[0.01 * (k + 1) * (d + 1) for d in range(4)] for k in range(50)]
    torch.testing.assert_close(margins(module, "items"), torch.tensor(sizes) - 0.2)
    users = int((module.content("users").values["rows"].abs() > 1 / (1 + math.exp(7))).sum())
    above = sum(size > 0.2 + 1e-9 for row in sizes for size in row)
    assert abs(elements_left(module) - users - above) <= 4  # some sizes are .2 but for rounding


def test_the_search_ends_when_few_enough_are_left(tmp_path: Path) -> None:
    model = Model()
    left = elements_left(model.embeddings)
    for kept, batch, stops in ((left - 1, 0, False), (left, 0, True), (left, 3, False)):
        search, run = started(model, tmp_path, kept=kept, every=10)
        search.on_train_batch_end(run, model, None, None, batch)  # type: ignore[arg-type]
        assert run.should_stop == search.is_reached == stops


def test_the_ticket_has_the_first_weights_and_the_places_of_the_trained_ones() -> None:
    begun, trained = supernet(), supernet()
    generator = torch.Generator().manual_seed(1)
    for name, shape in (("items", (50, 4)), ("users", (20, 3))):
        trained.rows.assign(name, torch.rand(shape, generator=generator) - 0.5)
    searched = shrunk_tables(trained, begun, {"items": [10], "users": []})
    above = {name: margins(trained, name) for name in searched}
    room = sum((size + 1) * 4 for size in (50, 20)) + 5 * 60
    places = largest_elements(searched, room, above)
    made = trained.converted({name: one.sparse(places[name]) for name, one in searched.items()})
    got = made.eval()({"item": ids(range(50)), "user": ids(range(20))})
    vectors = torch.cat([as_tensor(got[name]).flatten() for name in ("item", "user")])
    first = torch.cat([begun.content(name).values["rows"].flatten() for name in searched])
    size = torch.cat([trained.content(name).values["rows"].abs().flatten() for name in searched])
    kept = size >= size.sort(descending=True).values[59]
    assert torch.equal(vectors, first * kept)
    # The configuration alone has the same places.
    again = embeddings(
        made.tables, [feature("item", "items"), feature("user", "users", space="user")]
    )
    for name in searched:
        for buffer in ("column_M", "offset_V"):
            assert torch.equal(
                getattr(again.learned_of(name), buffer), getattr(made.learned_of(name), buffer)
            )


def test_bad_settings_and_models_are_refused() -> None:
    with pytest.raises(RecembError, match=r"^pep: kept must be at least 1, got 0"):
        PEP(kept=0, initial="x")
    with pytest.raises(RecembError, match=r"^pep: learning_rate must be above 0, got 0"):
        PEP(kept=1, initial="x", learning_rate=0)
    with pytest.raises(RecembError, match=r"^pep: every must be at least 1, got 0"):
        PEP(kept=1, initial="x", every=0)
    with pytest.raises(RecembError, match=r"^pep: no table is of kind soft_thresholded"):
        soft_thresholds_of(embeddings({"t": Full(dim=2)}, [feature("one", "t")]))
