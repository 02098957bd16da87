"""Batch norm in one process is torch's, to the bit."""

import pytest
import torch
from torch import nn

from recemb.batch_norm import BatchNorm


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_one_process_has_the_bits_of_torch(momentum: float | None, affine: bool) -> None:
    own = BatchNorm(4, momentum=momentum, affine=affine)
    other = nn.BatchNorm1d(4, momentum=momentum, affine=affine)
    for step, is_training in enumerate([True, True, False, True]):
        values = torch.randn(9, 4, generator=torch.Generator().manual_seed(step)) * 3 + 1
        inputs = [values.clone().requires_grad_() for _ in range(2)]
        outputs = [
            norm.train(is_training)(one) for norm, one in zip([own, other], inputs, strict=True)
        ]
        assert torch.equal(*outputs)
        for output in outputs:
            output.square().sum().backward()
        assert inputs[0].grad is not None
        assert inputs[1].grad is not None
        assert torch.equal(inputs[0].grad, inputs[1].grad)
        for name, entry in other.state_dict().items():
            assert torch.equal(own.state_dict()[name], entry), name
    for mine, torchs in zip(own.parameters(), other.parameters(), strict=True):
        assert mine.grad is not None
        assert torchs.grad is not None
        assert torch.equal(mine.grad, torchs.grad)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_a_training_batch_without_variance_gets_moving_averages(num_rows: int) -> None:
    norm = BatchNorm(2, eps=1.0, affine=False)
    norm.running_mean = torch.tensor([1.0, 2.0])
    norm.running_var = torch.tensor([3.0, 15.0])
    values = torch.tensor([[5.0, 5.0]])[:num_rows].requires_grad_()
    output = norm(values)
    assert output.tolist() == [[2.0, 0.75]][:num_rows]
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 0
    # A further batch before the backward pass moves the averages, but not those that served.
    norm(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) * 9)
    output.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.5, 0.25]][:num_rows]
