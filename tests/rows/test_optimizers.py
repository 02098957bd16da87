"""One step of each optimizer by hand, and the settings that are refused."""

import math

import pytest
import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.rows.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad, UpdateRule

ROWS = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
GRADS = torch.tensor([[3.0, -4.0], [0.0, 1.0]])


def _close(got: Tensor, wanted: list[list[float]]) -> None:
    # A handful of fp32 operations on numbers of about 1.
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=1e-6, atol=1e-7)


def _state(optimizer: UpdateRule, value: float) -> dict[str, Tensor]:
    return {name: torch.full((2, n), value) for name, n in optimizer.state_dims(2).items()}


def test_sgd_by_hand() -> None:
    new = SGD(learning_rate=0.5).update(ROWS, GRADS, {}, step=1)
    assert new.tolist() == [[-0.5, 4.0], [-1.0, 0.0]]


def test_adagrad_by_hand() -> None:
    optimizer = Adagrad(learning_rate=0.5, eps=0.25)
    state = _state(optimizer, 0.0)
    # s = g^2, so the step is 0.5 g / (|g| + 0.25).
    new = optimizer.update(ROWS, GRADS, state, step=1)
    _close(new, [[1 - 1.5 / 3.25, 2 + 2 / 4.25], [-1.0, 0.5 - 0.5 / 1.25]])
    _close(state["sum"], [[9.0, 16.0], [0.0, 1.0]])


def test_adagrad_remembers() -> None:
    optimizer = Adagrad(learning_rate=0.5, eps=0.25)
    state = _state(optimizer, 0.0)
    optimizer.update(ROWS, torch.tensor([[4.0, 0.0], [0.0, 0.0]]), state, step=1)
    new = optimizer.update(ROWS, GRADS, state, step=2)
    # sqrt(16 + 9) = 5.
    assert float(new[0, 0]) == pytest.approx(1 - 1.5 / 5.25, rel=1e-6)


def test_rowwise_adagrad_by_hand() -> None:
    optimizer = RowWiseAdagrad(learning_rate=0.5, eps=0.25)
    state = _state(optimizer, 0.0)
    new = optimizer.update(ROWS, GRADS, state, step=1)
    # Means of squares: (9 + 16) / 2 = 12.5 and (0 + 1) / 2 = 0.5, one number per row.
    first, second = math.sqrt(12.5) + 0.25, math.sqrt(0.5) + 0.25
    _close(new, [[1 - 1.5 / first, 2 + 2 / first], [-1.0, 0.5 - 0.5 / second]])
    _close(state["sum"], [[12.5], [0.5]])


def test_adam_by_hand() -> None:
    optimizer = Adam(learning_rate=0.5, beta1=0.5, beta2=0.75, eps=0.25)
    state = {
        "mean": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
        "square": torch.tensor([[4.0, 0.0], [0.0, 0.0]]),
    }
    new = optimizer.update(ROWS, GRADS, state, step=2)
    # Means 0.5 * 1 + 0.5 * 3 = 2, -2, 0, 0.5; squares 0.75 * 4 + 0.25 * 9 = 5.25, 4, 0, 0.25.
    # Corrections at step 2: 1 - 0.25 = 0.75 and 1 - 0.5625 = 0.4375.
    _close(state["mean"], [[2.0, -2.0], [0.0, 0.5]])
    _close(state["square"], [[5.25, 4.0], [0.0, 0.25]])

    def moved(start: float, mean: float, square: float) -> float:
        return start - 0.5 * (mean / 0.75) / (math.sqrt(square / 0.4375) + 0.25)

    _close(new, [[moved(1, 2, 5.25), moved(2, -2, 4)], [-1.0, moved(0.5, 0.5, 0.25)]])


def test_adams_first_step_is_the_learning_rate() -> None:
    optimizer = Adam(learning_rate=0.125)
    new = optimizer.update(ROWS, GRADS, _state(optimizer, 0.0), step=1)
    _close(new, [[0.875, 2.125], [-1.0, 0.375]])


@pytest.mark.parametrize("optimizer", [SGD(), Adagrad(), RowWiseAdagrad(), Adam()])
def test_update_leaves_its_inputs_alone(optimizer: UpdateRule) -> None:
    rows, grads = ROWS.clone(), GRADS.clone()
    optimizer.update(rows, grads, _state(optimizer, 0.0), step=1)
    assert torch.equal(rows, ROWS)
    assert torch.equal(grads, GRADS)


@pytest.mark.parametrize("kind", [SGD, Adagrad, RowWiseAdagrad, Adam])
@pytest.mark.parametrize("value", [0.0, -0.1, math.nan])
def test_learning_rate_must_be_above_zero(kind: type[UpdateRule], value: float) -> None:
    with pytest.raises(RecembError, match=rf"^rows: learning_rate must be above 0, got {value}$"):
        kind(learning_rate=value).check("rows")


@pytest.mark.parametrize("name", ["beta1", "beta2"])
@pytest.mark.parametrize("value", [1.0, -0.1, math.nan])
def test_betas_must_be_below_one(name: str, value: float) -> None:
    with pytest.raises(
        RecembError, match=rf"^rows: {name} must be at least 0 and below 1, got {value}$"
    ):
        Adam(**{name: value}).check("rows")


@pytest.mark.parametrize("kind", [Adagrad, RowWiseAdagrad, Adam])
@pytest.mark.parametrize("value", [0.0, -1e-8])
def test_eps_must_be_above_zero(kind: type[UpdateRule], value: float) -> None:
    # With eps = 0 a row whose gradients cancel becomes 0 / 0.
    with pytest.raises(RecembError, match=rf"^rows: eps must be above 0, got {value}$"):
        kind(eps=value).check("rows")


@pytest.mark.parametrize("kind", [SGD, Adagrad, RowWiseAdagrad, Adam])
def test_defaults_are_accepted(kind: type[UpdateRule]) -> None:
    kind().check("rows")
