"""The strategy ``torchrec``: what Lightning does differently where rows are spread over processes.

    torchrun --nproc-per-node N -m recemb fit --config ... --trainer.strategy torchrec

The rows are no business of Lightning's: they are in the TorchRec rows store, which sends vectors
and gradients by itself and steps by itself. What is left are the dense parameters, of which every
process has a copy: their gradients are averaged after each backward pass, in one message.
"""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor

from recemb import processes

NAME = "torchrec"


class TorchRecStrategy(DDPStrategy):
    """Dense parameters replicated, rows in a TorchRec rows store."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(timeout=processes.PATIENCE, **kwargs)

    def configure_ddp(self) -> None:
        """Wrap nothing: one message per step does what DistributedDataParallel would."""
        model = self.lightning_module
        assert model is not None
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.numel():
                    dist.broadcast(tensor, src=0)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of the dense parameters over all processes."""
        model = self.lightning_module
        if model is None or self.world_size == 1:
            return
        parameters = [one for one in model.parameters() if one.requires_grad and one.numel()]
        for one in parameters:
            # One that a process's samples did not reach takes part too.
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        grads = [one.grad for one in parameters if one.grad is not None]
        if not grads:
            return
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world_size
        for grad, mean in zip(grads, flat.split([one.numel() for one in grads]), strict=True):
            grad.copy_(mean.view_as(grad))


StrategyRegistry.register(
    NAME, TorchRecStrategy, description="rows sharded by TorchRec, dense parameters replicated"
)
