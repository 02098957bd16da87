"""Embedding layers of a module: found by name; refused where a table cannot stand for them."""

from collections.abc import Sequence

import torch
from torch import nn

from recemb.errors import RecembError

Layer = nn.Embedding | nn.EmbeddingBag
ALONE = "embedding"
"""What a layer is called that is the whole module."""


def embedding_layers(module: nn.Module, names: Sequence[str] | None = None) -> dict[str, Layer]:
    """Return the embedding layers of a module by their names in it.

    Args:
        module: Any.
        names: Of those that are asked for; None: all.

    Raises:
        RecembError: If there are none, not those that are asked for, or one cannot be replaced.
    """
    if not isinstance(module, nn.Module):
        raise RecembError(f"module: it must be a torch.nn.Module, got {type(module).__name__}")
    found = {
        name or ALONE: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    }
    if not found:
        raise RecembError(
            f"module: {type(module).__name__} has no nn.Embedding or nn.EmbeddingBag; give the "
            "module that holds them"
        )
    for name in names or ():
        if name not in found:
            raise RecembError(
                f"layers: {name!r} is no embedding layer of the module, whose are {sorted(found)}"
            )
    if names is not None:
        found = {name: layer for name, layer in found.items() if name in names}
    owners = _owners(module)
    for name, layer in found.items():
        reason = _refusal(layer)
        if reason:
            raise RecembError(f"layer {name!r}: {reason}")
        tied = [one for one in owners[_place(layer.weight)] if one != f"{name}.weight"]
        tied = [one for one in tied if one != "weight"]
        if tied:
            raise RecembError(
                f"layer {name!r}: its weight is that of {tied[0]!r} too, which a table cannot be; "
                "give each a weight of its own, or name the other layers by layers="
            )
    return found


def _owners(module: nn.Module) -> dict[int, list[str]]:
    """Return the names of all parameters by where their values are."""
    owners: dict[int, list[str]] = {}
    for owner, one in module.named_modules():
        for name, parameter in one._parameters.items():
            if parameter is not None:
                path = f"{owner}.{name}" if owner else name
                owners.setdefault(_place(parameter), []).append(path)
    return owners


def _place(values: torch.Tensor) -> int:
    return values.untyped_storage().data_ptr()


def _refusal(layer: Layer) -> str | None:
    """Return why a table cannot stand for a layer, and what to do; None where it can."""
    plain = nn.EmbeddingBag if isinstance(layer, nn.EmbeddingBag) else nn.Embedding
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    if type(layer).forward is not plain.forward or "weight" not in layer._parameters or hooks:
        return (
            f"it is a {type(layer).__name__} with a forward, a parametrization or hooks of its "
            "own, which would be lost; take them off, or name the other layers by layers="
        )
    if layer.weight.device.type == "meta":
        return "its weight is on the meta device and holds nothing; load it first"
    if layer.weight.dtype != torch.float32:
        return (
            f"its weight must be float32, got {layer.weight.dtype}; compress module.float(), and "
            "take a precision for the tables, such as method='int8'"
        )
    if layer.max_norm is not None:
        return (
            f"it has max_norm={layer.max_norm}, which tables do not keep to; renormalise its "
            "weight, and set max_norm to None"
        )
    if layer.scale_grad_by_freq:
        return "it has scale_grad_by_freq, which tables do not know; set it to False"
    return None
