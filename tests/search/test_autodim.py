"""AutoDim: weights move on held-out rows alone, and the heaviest width is what is found."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.autodim import AutoDim, candidates_of, chosen_contents
from recemb.search.supernet import candidate_dims
from recemb.tables.candidate_dims import CandidateDims
from recemb.tables.full import Full
from tests.tables.helpers import as_tensor, embeddings, feature, ids, space_of


def supernet() -> Embeddings:
    tables = {"items": CandidateDims(dim=6, candidates=[1, 6]), "users": CandidateDims(dim=4)}
    return embeddings(tables, [feature("item", "items"), feature("user", "users", space="user")])


class Model(nn.Module):
    """Its loss on held-out rows is the mean of what the widest candidate of the items adds."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = supernet()
        self.modes: list[bool] = []

    def transfer_batch_to_device(self, batch: Any, device: Any, number: int) -> Any:
        return batch

    def search_loss(self, batch: Any) -> Tensor:
        self.modes.append(self.training)
        return as_tensor(self.embeddings(batch)["item"]).square().mean()


class Loader(list):
    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


def run(epoch: int) -> Any:
    loader = Loader([{"item": ids([1, 2, 3]), "user": ids([0])}])
    return SimpleNamespace(
        current_epoch=epoch, datamodule=SimpleNamespace(search_dataloader=lambda: loader)
    )


def begun(model: Model, epoch: int, **settings: Any) -> AutoDim:
    search = AutoDim(**{"warm_up_epochs": 1, "epochs": 3, "learning_rate": 0.1, **settings})
    search.on_train_start(run(epoch), model)  # type: ignore[arg-type]
    search.on_train_epoch_start(run(epoch), model)  # type: ignore[arg-type]
    return search


def test_the_temperature_falls_and_ends() -> None:
    model = Model()
    found = []
    for epoch in range(4):
        search = begun(model, epoch)
        found.append(candidates_of(model.embeddings)["items"].temperature)
    # The warm-up, then from 1 to .1 in equal factors.
    assert found == pytest.approx([1.0, 1.0, 0.1**0.5, 0.1])
    search.on_validation_start(run(3), model)  # type: ignore[arg-type]
    assert candidates_of(model.embeddings)["items"].temperature is None


def test_weights_move_after_the_warm_up_and_nothing_else() -> None:
    model = Model().train()
    items = candidates_of(model.embeddings)["items"]
    # The widest candidate is as good as 0, so the loss falls with its weight.
    items.norms[1].running_var.fill_(1e8)
    search = begun(model, 0)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    search.on_train_batch_end(run(0), model, None, None, 0)  # type: ignore[arg-type]
    assert not items.weight_K.any()
    search = begun(model, 1, every=2)
    search.on_train_batch_end(run(1), model, None, None, 1)  # type: ignore[arg-type]
    assert not items.weight_K.any()
    search.on_train_batch_end(run(1), model, None, None, 0)  # type: ignore[arg-type]
    # Adam's first step: its rate, towards the candidate that lowers the loss; short of it by the
    # epsilon that Adam adds to the size of a gradient, which is small here.
    torch.testing.assert_close(items.weight_K, torch.tensor([-0.1, 0.1]), atol=1e-2, rtol=0)
    moved = {name for name, one in model.state_dict().items() if not torch.equal(one, before[name])}
    assert moved <= {"embeddings.learned.table_items.weight_K"}
    assert model.modes == [False]
    assert model.training
    assert not items.weight_K.requires_grad


def test_what_is_found_is_a_plain_table_of_the_heaviest_width() -> None:
    module = supernet().eval()
    items = candidates_of(module)["items"]
    items.weight_K.copy_(torch.tensor([0.5, 0.2]))
    items.norms[0].running_var.fill_(4.0)
    found = chosen_contents(module)
    assert found["items"].config == Full(dim=1, project=6)
    assert found["users"].config == Full(dim=2, project=4)  # of equal weights the narrowest
    made = module.converted(found)
    asked: Any = {"item": ids(range(50)), "user": ids(range(20))}
    # Means are 0 in a fresh norm, so there is no shift to be left out.
    torch.testing.assert_close(as_tensor(made(asked)["item"]), as_tensor(module(asked)["item"]))
    # 50 rows of 1 and a matrix of 1 x 6: the matrix is counted.
    assert made.tables["items"].serving_bytes("t", made.spaces["items"]) == (50 + 6) * 4


def test_a_search_goes_on_where_it_was_stopped() -> None:
    model = Model().train()
    search = begun(model, 1)
    search.on_train_batch_end(run(1), model, None, None, 0)  # type: ignore[arg-type]
    again = AutoDim(warm_up_epochs=1, epochs=3, learning_rate=0.1)
    again.load_state_dict(search.state_dict())
    again.on_train_start(run(1), model)  # type: ignore[arg-type]
    state = again._optimizer.state_dict()["state"]  # type: ignore[union-attr]
    assert float(state[0]["step"]) == 1


def test_tables_behind_a_matrix_are_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 't': autodim finds a matrix for each table"):
        candidate_dims("t", Full(dim=4, project=8), [space_of("item")])


def test_bad_settings_and_models_are_refused() -> None:
    with pytest.raises(RecembError, match=r"^autodim: epochs must be at least 1, got 0"):
        AutoDim(epochs=0)
    with pytest.raises(RecembError, match=r"^autodim: no table is of kind candidate_dims"):
        candidates_of(embeddings({"t": Full(dim=2)}, [feature("one", "t")]))
