"""Dense: which parameters and buffers outside the tables a new model takes over.

A tensor is taken over where the checkpoint has one of its name and shape. Statistics of layers and
the scales of number columns are buffers and come along: what is kept computes what it computed.
Layers read the vectors of features side by side, so shapes tell apart other inputs but for one
case: features in another order, or others of the same total width. Then nothing is taken over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class KeptDense:
    """Names of tensors that were taken over, and why others were not."""

    kept: list[str]
    fresh: dict[str, str]


@torch.no_grad()
def keep_dense(
    old: nn.Module, new: nn.Module, read_before: Mapping[str, int], read_now: Mapping[str, int]
) -> KeptDense:
    """Copy into ``new`` what ``old`` has outside ``embeddings`` under the same name and shape.

    Args:
        old: The checkpoint's model.
        new: Freshly initialised.
        read_before: Elements of every feature and number column that ``old`` reads, in order.
        read_now: The same of ``new``.
    """
    given, own = _dense(old), _dense(new)
    reason = _difference(read_before, read_now)
    kept, fresh = [], {}
    for name, tensor in own.items():
        why = reason or _why_not(given.get(name), tensor)
        if why:
            fresh[name] = why
        else:
            tensor.copy_(given[name])
            kept.append(name)
    return KeptDense(kept, fresh)


def _dense(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers outside the tables, by name."""
    found: dict[str, Tensor] = {}
    model._save_to_state_dict(found, "", keep_vars=False)
    for child, module in model.named_children():
        if child != "embeddings":
            found.update(module.state_dict(prefix=f"{child}."))
    return {name: tensor for name, tensor in found.items() if tensor.numel()}


def _why_not(given: Tensor | None, own: Tensor) -> str | None:
    if given is None:
        return "not in the checkpoint"
    if given.shape != own.shape:
        return f"{_shape(given.shape)} there, {_shape(own.shape)} here"
    return None


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _difference(before: Mapping[str, int], now: Mapping[str, int]) -> str | None:
    """Return why tensors of equal shapes read other inputs, or None."""
    if [name for name in before if name in now] != [name for name in now if name in before]:
        return "the features are in another order"
    if before != now and sum(before.values()) == sum(now.values()):
        return "other features of the same total width"
    return None
