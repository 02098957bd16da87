"""What tests of rows in low precision share: small stores, and what they hold as numbers."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from recemb.physical import PhysicalTable, Precision, Step, StoredPrecision
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, UpdateRule
from tests.rows.contract import gather
from tests.rows.decode import decoded, units

INTEGER_FORMS: list[tuple[Precision, Step]] = [
    (precision, step)
    for precision in ("int16", "int8", "int4")  # type: ignore[misc]
    for step in ("table", "row", "learned")
]
FORMS: list[tuple[Precision, Step]] = [("fp16", "table"), ("bf16", "table"), *INTEGER_FORMS]
LIMIT = {"int16": 32767, "int8": 127, "int4": 7}

all_forms = pytest.mark.parametrize(("precision", "step"), FORMS)
integer_forms = pytest.mark.parametrize(("precision", "step"), INTEGER_FORMS)


def store_of(
    values: Mapping[str, Tensor],
    precision: StoredPrecision,
    step: Step,
    optimizer: UpdateRule | None = None,
) -> LocalRowsStore:
    """Return a store whose tables start from given values."""

    def filler(given: Tensor) -> Callable[[Tensor], object]:
        return lambda rows: rows.copy_(given)

    physical = {
        name: PhysicalTable(
            num_rows=len(given),
            dim=given.shape[1],
            initializer=filler(given),
            precision=precision,
            step=step,
        )
        for name, given in values.items()
    }
    return LocalRowsStore(physical, optimizer or SGD(learning_rate=1.0))


def held(store: LocalRowsStore, name: str = "a") -> Tensor:
    """Return what a table holds, decoded by the test."""
    return decoded(store.tables(), name, store.physical[name])


def unit(store: LocalRowsStore, name: str = "a") -> Tensor:
    """Return the distance of neighbouring numbers at each element."""
    return units(store.tables(), name, store.physical[name])


def drawn(rows: int, dim: int, scale: float = 1.0, center: float = 0.0, seed: int = 1) -> Tensor:
    """Return values in center - scale .. center + scale."""
    values = torch.rand(rows, dim, generator=torch.Generator().manual_seed(seed))
    return center + scale * (2 * values - 1)


def move(store: LocalRowsStore, rows: list[int], change: Tensor, name: str = "a") -> None:
    """Subtract from rows by a step of SGD with rate 1."""
    gather(store, [(name, rows)]).backward(change)
    store.step()
