"""Part of the contract of table kinds: a GPU computes and trains what a CPU does."""

import copy
from typing import cast

import pytest
import torch

from recemb.embeddings import Embeddings
from recemb.jagged import Ids, Jagged, Vectors
from tests.rows.decode import units
from tests.tables.case import Case
from tests.tables.helpers import as_tensor, stored

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
BATCH = ([5, 21, 5], [[1, 2, 1], [], [5, 49]], [3, 0, 3])


class DeviceContract(Case):
    """The CPU, which the rest of the contract checks, is the oracle."""

    @needs_cuda
    def test_vectors_on_a_gpu_are_those_of_the_cpu(self, module: Embeddings) -> None:
        moved = copy.deepcopy(module).cuda()
        for mode in (False, True):
            wanted = module.train(mode)(self.asked(*BATCH))
            got = moved.train(mode)(on_cuda(self.asked(*BATCH)))
            for name in wanted:
                expected, found = values(wanted[name]), values(got[name])
                assert found.is_cuda, name
                torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-6, msg=name)

    @needs_cuda
    def test_a_step_on_a_gpu_is_that_of_the_cpu(self, module: Embeddings) -> None:
        moved = copy.deepcopy(module).cuda()
        for one in (module.train(), moved.train()):
            batch = self.asked(*BATCH)
            got = one(on_cuda(batch) if one is moved else batch)
            total = as_tensor(got["one"]) + as_tensor(got["mean"]) - as_tensor(got["who"])
            weights = torch.randn(total.shape, generator=torch.Generator().manual_seed(2))
            ((total * weights.to(total.device)).sum() + one.loss()).backward()
            one.step()
        wanted, got = stored(module), stored(cast(Embeddings, copy.deepcopy(moved).cpu()))
        for part, rows in wanted.rows.items():
            physical = module.physical_of["ads"][part]
            unit = units(module.rows.tables(), physical, module.rows.physical[physical])
            # Low precision rounds at random: either neighbour, on either device.
            difference = (got.rows[part].float() - rows.float()).abs()
            assert (difference <= 1e-5 + 1e-4 * rows.float().abs() + 2 * unit).all(), part
        gradients = {
            name: one.grad.cpu() for name, one in moved.named_parameters() if one.grad is not None
        }
        for name, one in module.named_parameters():
            if one.grad is not None and not name.startswith("rows."):
                torch.testing.assert_close(
                    gradients[name], one.grad, rtol=1e-3, atol=1e-5, msg=name
                )


def on_cuda(batch: dict[str, Ids]) -> dict[str, Ids]:
    """Return a batch on the GPU."""
    return {
        name: Jagged(*(one.cuda() for one in ids)) if isinstance(ids, Jagged) else ids.cuda()
        for name, ids in batch.items()
    }


def values(vectors: Vectors) -> torch.Tensor:
    """Return the vectors of a feature in one tensor, bags or none."""
    return vectors.values if isinstance(vectors, Jagged) else vectors
