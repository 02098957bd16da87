"""DNIS: how gates move, by hand and through autograd, and that nothing else does."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.search.dnis import DNIS, gates_of, open_bytes
from recemb.tables.full import Full
from recemb.tables.gated import Gated
from tests.tables.helpers import as_tensor, embeddings, feature, ids


def test_a_step_by_hand() -> None:
    gate = torch.tensor([[0.5, 0.5, 0.995], [0.5, 0.005, 1.0], [0.3, 0.3, 0.3]])
    # Means of magnitudes, the penalty of 1 added: (4 + 2 + 0) / 3 = 2 and (2 + 3 + 1) / 3 = 2.
    grad = torch.tensor([[3.0, 1.0, -1.0], [-3.0, 2.0, -2.0], [0.0, 0.0, 0.0]])
    DNIS(learning_rate=0.01, l1=1.0).move(gate, grad)
    wanted = [
        [0.5 - 0.01 * 4 / 2, 0.5 - 0.01 * 2 / 2, 0.995],
        # The second falls below 0 and the third rises above 1: both are clipped.
        [0.5 + 0.01 * 2 / 2, 0.0, 1.0],
        # A block that no id of the batch is in stays, whatever the penalty.
        [0.3, 0.3, 0.3],
    ]
    torch.testing.assert_close(gate, torch.tensor(wanted))


class Model(nn.Module):
    """A model of one table whose batch is ids, with what the callback asks of one."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        table = Gated(dim=2, ends=[10])
        self.embeddings: Embeddings = embeddings({"t": table}, [feature("one", "t")])
        self.embeddings.rows.assign("t", torch.arange(1.0, 101).view(50, 2))

    def transfer_batch_to_device(self, batch: Any, device: Any, number: int) -> Any:
        return batch

    def search_loss(self, batch: Tensor) -> Tensor:
        assert not self.training
        return (as_tensor(self.embeddings({"one": batch})["one"]) * torch.tensor([1.0, 3.0])).sum()


class Loader:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        return iter([ids([0, 3]), ids([20])])


def trainer(epoch: int, loader: Loader) -> Any:
    module = SimpleNamespace(search_dataloader=lambda: loader)
    return SimpleNamespace(current_epoch=epoch, datamodule=module)


def test_only_gates_of_blocks_in_the_batch_move() -> None:
    model, loader, search = Model().train(), Loader(), DNIS(warm_up_epochs=1, l1=0.0)
    gates = gates_of(model.embeddings)["t"]
    rows = model.embeddings.rows.values("t").clone()
    now = trainer(0, loader)
    search.on_train_epoch_start(now, model)  # type: ignore[arg-type]
    search.on_train_batch_end(now, model, None, None, 0)  # type: ignore[arg-type]
    assert torch.equal(gates.gate_SD, torch.ones(2, 2))
    now = trainer(1, loader)
    search.on_train_epoch_start(now, model)  # type: ignore[arg-type]
    # Ids 0 and 3 have rows (1, 2) and (7, 8): the gradient of the first block is (8, 30).
    search.on_train_batch_end(now, model, None, None, 0)  # type: ignore[arg-type]
    wanted = torch.tensor([[1 - 0.01 * 8 / 19, 1 - 0.01 * 30 / 19], [1, 1]])
    torch.testing.assert_close(gates.gate_SD, wanted)
    # Id 20 has the row (41, 42) in the second: (41, 126).
    search.on_train_batch_end(now, model, None, None, 1)  # type: ignore[arg-type]
    wanted[1] = torch.tensor([1 - 0.01 * 41 / 83.5, 1 - 0.01 * 126 / 83.5])
    torch.testing.assert_close(gates.gate_SD, wanted)
    # The held-out rows begin anew when they are through, in another order.
    search.on_train_batch_end(now, model, None, None, 2)  # type: ignore[arg-type]
    assert loader.epochs == [1000, 1001]
    assert model.training
    assert not gates.gate_SD.requires_grad
    model.embeddings.step()
    assert torch.equal(model.embeddings.rows.values("t"), rows)


def test_gates_may_move_less_often() -> None:
    model, search = Model().train(), DNIS(warm_up_epochs=0, every=2)
    now = trainer(0, Loader())
    search.on_train_epoch_start(now, model)  # type: ignore[arg-type]
    gate_SD = gates_of(model.embeddings)["t"].gate_SD
    for number, moves in ((0, True), (1, False), (2, True)):
        before = gate_SD.clone()
        search.on_train_batch_end(now, model, None, None, number)  # type: ignore[arg-type]
        assert torch.equal(gate_SD, before) != moves


def test_the_search_ends_when_it_no_longer_helps() -> None:
    search = DNIS(warm_up_epochs=1, patience=2)
    stops = []
    # The warm-up's .9 does not count; .7 is the best, and two epochs do not reach it.
    for epoch, auc in enumerate([0.9, 0.6, 0.7, 0.65, 0.7]):
        now: Any = SimpleNamespace(
            current_epoch=epoch, callback_metrics={"val/auc": torch.tensor(auc)}, should_stop=False
        )
        # As when it is resumed in between.
        again = DNIS(warm_up_epochs=1, patience=2)
        again.load_state_dict(search.state_dict())
        search = again
        search.on_validation_end(now, Model())  # type: ignore[arg-type]
        stops.append(now.should_stop)
    assert stops == [False, False, False, False, True]


def test_bytes_are_those_of_open_gates() -> None:
    model = Model()
    gate_SD = gates_of(model.embeddings)["t"].gate_SD
    assert open_bytes(model.embeddings) == 50 * 2 * 4
    gate_SD[0, 0] = 0.0
    gate_SD[1] = torch.tensor([0.0, 1e-9])
    # Ten ids are in the first block, forty in the second.
    assert open_bytes(model.embeddings) == (10 + 40) * 4


def test_bad_settings_and_models_are_refused() -> None:
    for settings, message in (
        ({"warm_up_epochs": -1}, "warm_up_epochs must be at least 0, got -1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"l1": -1.0}, "l1 must be at least 0, got -1.0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
    ):
        with pytest.raises(RecembError, match=f"^dnis: {message}"):
            DNIS(**settings)  # type: ignore[arg-type]
    with pytest.raises(RecembError, match=r"^dnis: no table is of kind gated"):
        gates_of(embeddings({"t": Full(dim=2)}, [feature("one", "t")]))
