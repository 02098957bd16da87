"""Batch norm of the parts of a batch is that of the whole batch, by torch in one process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.parts import CASES, NUM_STEPS, Case

WORLD_SIZE = 3


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has found."""
    folder: Path = tmp_path_factory.mktemp("parts")
    command = [sys.executable, "-W", "ignore", "-m", "tests.distributed.parts", str(folder)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(WORLD_SIZE)], stderr=subprocess.PIPE, text=True)
        for rank in range(WORLD_SIZE)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(one[-1500:] for one in errors)
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(WORLD_SIZE)]


def of_whole_batches(case: Case) -> list[dict[str, Any]]:
    """Return what torch finds in one process, in fp64, for each step."""
    norm = case.norm(nn.BatchNorm1d).double()
    # One row has no variance: moving averages serve.
    norm.train(case.num_rows > 1)
    steps = []
    for step in range(NUM_STEPS):
        values = case.batch(step).double().requires_grad_()
        output = norm(values)
        norm.zero_grad()
        slopes = [case.slopes(step, rank).double() for rank in range(WORLD_SIZE)]
        outputs = [output[list(rows)] for rows in case.rows]
        sum((o * s).sum() for o, s in zip(outputs, slopes, strict=True)).backward()
        steps.append(
            {
                "output": [one.detach() for one in outputs],
                "input": values.grad,
                "dense": [one.grad for one in norm.parameters()],
                "state": {name: one.clone() for name, one in norm.state_dict().items()},
            }
        )
    return steps


@pytest.mark.parametrize("name", CASES)
def test_the_norm_of_parts_is_that_of_the_whole(name: str, found: list[dict[str, Any]]) -> None:
    case = CASES[name]
    # Inputs of 100 and their mean have 1e-5 in fp32, of a deviation of 0.1; squares, 1e-3.
    near = {"rtol": 1e-9, "atol": 1e-9}
    if case.dtype == torch.float32:
        near = {"rtol": 2e-3, "atol": 2e-3}
    for step, wanted in enumerate(of_whole_batches(case)):
        whole_gradient = torch.zeros_like(wanted["input"])
        for rank, own in enumerate(found):
            got = own[name]
            torch.testing.assert_close(got["output"][step].double(), wanted["output"][rank], **near)
            assert list(got["state"][step]) == list(wanted["state"])
            for key, entry in wanted["state"].items():
                torch.testing.assert_close(got["state"][step][key].to(entry.dtype), entry, **near)
            rows = torch.tensor(case.rows[rank], dtype=torch.int64)
            whole_gradient.index_add_(0, rows, got["input"][step].double() / WORLD_SIZE)
        torch.testing.assert_close(whole_gradient, wanted["input"], **near)
        for number, gradient in enumerate(wanted["dense"]):
            mean = sum(own[name]["dense"][step][number].double() for own in found) / WORLD_SIZE
            torch.testing.assert_close(mean, gradient, **near)


def test_the_gradient_of_a_sum_is_the_sum_of_all_processes_gradients(
    found: list[dict[str, Any]],
) -> None:
    # The sum is [6, 60]; losses are 1, 10 and 100 times its square, whose gradient is 2 [6, 60].
    for own in found:
        total, gradient = own["sum"]
        assert total.tolist() == [6, 60]
        assert gradient.tolist() == [111 * 12, 111 * 120]


def test_each_key_is_held_first_by_one_process(found: list[dict[str, Any]]) -> None:
    assert [own["first"] for own in found] == [
        [True, True, True],
        [],
        [False, True, True, False],
    ]
