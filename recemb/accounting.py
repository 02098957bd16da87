"""Bytes, counted from the tensors that are there and from nothing else."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of distinct storages, so that views and shared tensors count once."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def nested_tensors(value: Any) -> Iterable[Tensor]:
    """Yield all tensors of nested dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from nested_tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from nested_tensors(one)


def module_bytes(module: nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    return tensor_bytes([*module.parameters(), *module.buffers()])


def training_bytes(
    module: nn.Module, embeddings: Embeddings, optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """Return the bytes of a model in training: itself and the state of all its optimizers."""
    state = [nested_tensors(optimizer.state) for optimizer in optimizers]
    dense = tensor_bytes(tensor for one in state for tensor in one)
    return module_bytes(module) + tensor_bytes(embeddings.rows.optimizer_state().values()) + dense


def table_report(embeddings: Embeddings) -> dict[str, dict[str, object]]:
    """Return kind, rows, dim and bytes of the rows of each table."""
    physical = embeddings.rows.tables()
    report: dict[str, dict[str, object]] = {}
    for name, config in embeddings.tables.items():
        parts = [physical[part] for part in embeddings.physical_of[name]]
        report[name] = {
            "kind": getattr(config, "kind", type(config).__name__),
            "num_rows": sum(part.shape[0] for part in parts),
            "dim": config.dim,
            # A view's own elements: tables share a flat storage.
            "bytes": sum(part.numel() * part.element_size() for part in parts),
        }
    return report
