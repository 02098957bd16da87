"""Bytes, counted from the tensors that are there and from nothing else."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recemb.embeddings import Embeddings
from recemb.rows.store import RowsStore


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
    """Return the bytes of a module's parameters and buffers, and of rows on other processes."""
    apart = [one for one in module.modules() if isinstance(one, RowsStore) and not one.has_buffers]
    own = tensor_bytes([*module.parameters(), *module.buffers()])
    return own + sum(sum(store.entry_bytes().values()) for store in apart)


def training_bytes(
    module: nn.Module, embeddings: Embeddings, optimizers: Iterable[torch.optim.Optimizer]
) -> int:
    """Return the bytes of a model in training: itself and the state of all its optimizers."""
    state = [nested_tensors(optimizer.state) for optimizer in optimizers]
    dense = tensor_bytes(tensor for one in state for tensor in one)
    return module_bytes(module) + embeddings.rows.state_bytes() + dense


def table_report(embeddings: Embeddings) -> dict[str, dict[str, object]]:
    """Return kind, rows, dim and bytes of each table, and what its kind reports.

    ``num_rows`` is of training, ``bytes`` of the served form: rows with their scales, codebooks,
    maps, networks and projections.
    """
    served = embeddings.served()
    entry_bytes = served.rows.entry_bytes()
    reported = embeddings.report()
    report: dict[str, dict[str, object]] = {}
    for name, config in embeddings.tables.items():
        parts = [embeddings.rows.physical[part] for part in embeddings.physical_of[name].values()]
        rows = sum(entry_bytes[entry] for entry in served.entries(name))
        report[name] = {
            "kind": config.kind_name,
            "num_rows": sum(part.num_rows for part in parts),
            "dim": config.dim,
            "bytes": rows + sum(module_bytes(module) for module in served.dense_of(name)),
            **reported[name],
        }
    return report
