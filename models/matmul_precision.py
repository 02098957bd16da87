"""Matmul precision: how the matrix products of a training are made, and of nothing after it."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from recemb.errors import RecembError

MATMUL: Any = getattr(torch.backends.mkldnn, "matmul", None)
"""Where torch keeps how a CPU makes products; torch 2.8 has no such place."""


class Bf16Products(Callback):
    """Allow a CPU to round the factors of products to bf16 while a model is trained.

    The setting is the process's: it is put back when training ends, also by an error, of which a
    module's own hooks are not told.
    """

    def __init__(self) -> None:
        self._before: str | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allow it.

        Raises:
            RecembError: If torch is older than 2.9.
        """
        if MATMUL is None:
            raise RecembError(
                f"network: products bf16 need torch 2.9 or newer, got {torch.__version__}; "
                "leave products out, or pip install --upgrade torch"
            )
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
