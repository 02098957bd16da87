"""Global settings: what a training sets for the whole process is as before when it has ended."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ENVIRONMENT = ("CUBLAS_WORKSPACE_CONFIG", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")
"""Variables that Lightning sets."""

PRODUCTS: list[Any] = [
    backend.matmul
    for backend in (torch.backends.mkldnn, torch.backends.cuda)
    if hasattr(getattr(backend, "matmul", None), "fp32_precision")
]
"""Where torch keeps how products of fp32 matrices are made; torch 2.8 has one word for all."""


@contextmanager
def restored_settings() -> Iterator[None]:
    """Restore at the end of the block, however it ends, what trainers and models set globally.

    A process trains several models one after the other: trials of a sweep, stages of a search. One
    that is pruned or fails must not leave its own precision of products, determinism or default
    type to the next.
    """
    products = [(backend, backend.fp32_precision) for backend in PRODUCTS]
    one_precision = None if PRODUCTS else torch.get_float32_matmul_precision()
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    cudnn_flags = (cudnn.benchmark, cudnn.deterministic)
    kind, has_gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    detects = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    environment = {name: os.environ.get(name) for name in ENVIRONMENT}
    try:
        yield
    finally:
        for backend, precision in products:
            backend.fp32_precision = precision
        if one_precision is not None:
            torch.set_float32_matmul_precision(one_precision)
        torch.use_deterministic_algorithms(is_deterministic, warn_only=only_warns)
        cudnn.benchmark, cudnn.deterministic = cudnn_flags
        torch.set_default_dtype(kind)
        torch.set_grad_enabled(has_gradients)
        torch.autograd.set_detect_anomaly(*detects)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
