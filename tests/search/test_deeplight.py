"""DeepLight: the schedule, the zeros, and the sparsity in the end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from recemb.errors import RecembError
from recemb.search.deeplight import DeepLight, rows_of, zero_smallest
from recemb.tables.full import Full
from tests.tables.helpers import embeddings, feature


class Model(nn.Module):
    """Two plain tables, 50 x 4 and 20 x 3, of which the second is not searched."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = embeddings(
            {"a": Full(dim=4), "b": Full(dim=3)},
            [feature("a", "a"), feature("b", "b", space="user")],
        )


def run(epoch: int, epochs: int = 3, steps: int = 100) -> Any:
    return SimpleNamespace(current_epoch=epoch, max_epochs=epochs, num_training_batches=steps)


def zeros(model: Model, table: str = "a") -> int:
    return int((rows_of(model.embeddings, [table])[table] == 0).sum())


@pytest.mark.parametrize(
    ("epoch", "batch", "wanted"),
    [
        (0, 99, 0),  # the warm-up
        (1, 8, 0),  # between two times
        # 160 of 200 are to go: 160 (1 - .99^(10 / 20)) = .8, then 160 (1 - .99^5) = 7.8.
        (1, 9, 1),
        (1, 99, 8),
        (2, 99, 160),  # the last step, whatever the schedule is at
    ],
)
def test_the_schedule(epoch: int, batch: int, wanted: int) -> None:
    model = Model()
    search = DeepLight(tables=["a"], kept=40, warm_up_epochs=1, omega=20.0)
    search.on_train_batch_end(run(epoch), model, None, None, batch)  # type: ignore[arg-type]
    assert zeros(model) == wanted
    assert zeros(model, "b") == 0


def test_without_an_omega_nearly_all_is_reached() -> None:
    search = DeepLight(tables=["a"], kept=40)
    assert search.share(300, 300, 0.8) == pytest.approx(0.99 * 0.8)
    assert search.share(150, 300, 0.8) == pytest.approx(0.9 * 0.8)  # 1 - .01^.5


def test_the_smallest_of_all_tables_are_zeroed_and_may_regrow() -> None:
    rows = [torch.tensor([[0.5, -0.1], [0.3, 0.02]]), torch.tensor([[-0.2], [0.9]])]
    zero_smallest(rows, 3)
    assert rows[0].tolist() == [[0.5, 0.0], [pytest.approx(0.3), 0.0]]
    assert rows[1].tolist() == [[0.0], [pytest.approx(0.9)]]
    rows[0][0, 1] = 0.4  # regrown: now .3 is the smallest
    zero_smallest(rows, 3)
    assert rows[0].tolist() == [[0.5, pytest.approx(0.4)], [0.0, 0.0]]


def test_the_sparsity_in_the_end_is_met_to_the_element() -> None:
    model = Model()
    search = DeepLight(tables=["a", "b"], kept=77, warm_up_epochs=0)
    for epoch in range(2):
        for batch in range(40):
            for rows in rows_of(model.embeddings, ["a", "b"]).values():
                rows.add_(torch.randn_like(rows) * 0.01)  # all regrow
            search.on_train_batch_end(
                run(epoch, 2, 40), model, None, None, batch  # type: ignore[arg-type]
            )  # fmt: skip
    total = 50 * 4 + 20 * 3
    found = (zeros(model, "a") + zeros(model, "b")) / total
    assert found == pytest.approx(1 - 77 / total, abs=1e-3)


def test_bad_settings_are_refused() -> None:
    for settings, message in (
        ({"kept": 0}, "kept must be at least 1, got 0"),
        ({"kept": 1, "warm_up_epochs": -1}, "warm_up_epochs must be at least 0, got -1"),
        ({"kept": 1, "omega": 0.0}, "omega must be above 0, got 0.0"),
        ({"kept": 1, "every": 0}, "every must be at least 1, got 0"),
    ):
        with pytest.raises(RecembError, match=f"^deeplight: {message}"):
            DeepLight(tables=["a"], **settings)  # type: ignore[arg-type]
