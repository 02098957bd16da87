"""Matmul precision: how the matrix products of a training are made, and of nothing after it."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


class Bf16Products(Callback):
    """Allow a CPU to round the factors of products to bf16 while a model is trained.

    The setting is the process's: it is put back when training ends, also by an error, of which a
    module's own hooks are not told.
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allow it."""
        self._before, MATMUL.fp32_precision = MATMUL.fp32_precision, "bf16"

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put it back."""
        self._put_back()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Put it back."""
        self._put_back()

    def _put_back(self) -> None:
        if self._before is not None:
            MATMUL.fp32_precision, self._before = self._before, None
