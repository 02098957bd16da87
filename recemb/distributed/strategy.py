"""The strategy ``torchrec``: what Lightning does differently where rows are spread over processes.

    torchrun --nproc-per-node N -m recemb fit --config ... --trainer.strategy torchrec

The rows are no business of Lightning's: they are in the TorchRec rows store, which sends vectors
and gradients by itself and steps by itself. What is left are the dense parameters, of which every
process has a copy: their gradients are averaged after each backward pass, in one message.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from torch import Tensor

from recemb import processes
from recemb.checkpoint import load_module, read_checkpoint, save_sharded
from recemb.optim import dense_parameters

NAME = "torchrec"


class TorchRecStrategy(DDPStrategy):
    """Dense parameters replicated, rows in a TorchRec rows store."""

    seals_checkpoints = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(timeout=processes.PATIENCE, **kwargs)

    def configure_ddp(self) -> None:
        """Wrap nothing: one message per step does what DistributedDataParallel would."""
        model = self.lightning_module
        assert model is not None
        with torch.no_grad():
            for tensor in (*dense_parameters(model), *model.buffers()):
                if tensor.numel():
                    dist.broadcast(tensor, src=0)

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint, each process its rows."""
        assert self.lightning_module is not None
        save_sharded(dict(checkpoint), Path(filepath), self.lightning_module)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        """Return a checkpoint without its rows."""
        self._loaded_from = Path(checkpoint_path)
        return read_checkpoint(self._loaded_from, with_rows=False)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load the weights, each process its rows."""
        assert self.lightning_module is not None
        load_module(self._loaded_from, checkpoint, self.lightning_module)

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of the dense parameters over all processes."""
        model = self.lightning_module
        if model is None or self.world_size == 1:
            return
        parameters = [one for one in dense_parameters(model) if one.requires_grad and one.numel()]
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
