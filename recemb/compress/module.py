"""Compress the embedding layers of any module of torch.

Shapes: V ids, D elements per vector.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recemb.collection import EmbeddingCollection, Feature
from recemb.compress.anew import Anew
from recemb.compress.layers import Layer, embedding_layers
from recemb.compress.method import Method, TrainedTable
from recemb.compress.methods import METHODS
from recemb.compress.tables import convert
from recemb.embedding_layer import TableEmbedding, TableEmbeddingBag, TableLayer
from recemb.errors import RecembError
from recemb.rows.optimizers import UpdateRule
from recemb.tables.budget import parse_bytes
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableContent

CHUNK_IDS = 2**15
"""Ids whose vectors are compared at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerCost:
    """What became of one embedding layer."""

    name: str
    kind: str
    num_ids: int
    dim: int
    bytes_before: int
    """Of its weight."""
    bytes_after: int
    """Of what is served in its place."""
    error: float | None
    """Norm of the difference of all its vectors over their norm; None where they start anew."""
    kept: str | None = None
    """Why it is as it was; None where it is another."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What compressing a module costs: a table to print."""

    layers: tuple[LayerCost, ...]

    @property
    def bytes_before(self) -> int:
        """Of all embedding layers."""
        return sum(one.bytes_before for one in self.layers)

    @property
    def bytes_after(self) -> int:
        """Of what is served in their place."""
        return sum(one.bytes_after for one in self.layers)

    def __str__(self) -> str:
        """Return a line per layer, and one of all."""
        head = ("layer", "kind", "ids x dim", "bytes before", "bytes after", "share", "error")
        lines = [
            (
                one.name,
                one.kind,
                f"{one.num_ids:,} x {one.dim}",
                *_shares(one.bytes_before, one.bytes_after),
                "anew" if one.error is None else f"{one.error:.4f}",
            )
            for one in self.layers
        ]
        total = ("all", "", "", *_shares(self.bytes_before, self.bytes_after), "")
        table = [head, *lines, total]
        widths = [max(len(line[place]) for line in table) for place in range(len(head))]
        text = [
            "  ".join(
                word.ljust(width) if place < 2 else word.rjust(width)
                for place, (word, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        kept = [f"{one.name} is as it was: {one.kept}" for one in self.layers if one.kept]
        return "\n".join([*text, *kept])


class CompressedModule(NamedTuple):
    """A module with smaller tables, and what that costs."""

    module: nn.Module
    costs: Costs


def compress_module(
    module: nn.Module,
    budget: int | str | float | None = None,
    *,
    method: str = "pq",
    kind: str | Mapping[str, Any] | None = None,
    layers: Sequence[str] | None = None,
    optimizer: UpdateRule | None = None,
) -> CompressedModule:
    """Return a copy of a module whose embedding layers are smaller tables, and what that costs.

    Layers are ``nn.Embedding`` and ``nn.EmbeddingBag``, wherever they are in the module. What takes
    their place is called as they are. The module that was given stays as it is; the copy shares
    nothing with it, and the large weights are never copied. The copy trains with
    :class:`recemb.optim.RowsOptimizer`; one of the same settings and sizes loads its
    ``state_dict``. Kinds that add to the loss (dpq) do so by the ``loss()`` of each layer. A layer
    has no ``weight`` any more: what reads it must call the layer.

    Args:
        module: Trained, or to be trained where ``kind`` is given.
        budget: For all embedding layers together: bytes, as a whole number or such as '10 MB', or
            a share such as 0.1 of the bytes that they take. Tables get parts in proportion to the
            square root of what they take, so that small ones lose less. A method that has one size
            only (fp16, bf16, int8, int4) needs none.
        method: How trained weights are made smaller: one of
            :data:`recemb.compress.methods.METHODS`. pq keeps most at small budgets.
        kind: A kind of table (:mod:`recemb.tables`) that is to be trained anew, without the weights
            that there are: its name, or a mapping of ``kind`` and settings. Where a kind treats
            frequent ids apart, small ids are taken for the frequent ones.
        layers: The names of those that may change; all by default.
        optimizer: How rows change in training; Adam by default.

    Raises:
        RecembError: If there is no such layer, one cannot be replaced (weights that are tied, of
            another type than float32, not finite, or with ``max_norm``), or the budget is too
            small; it names the layer, and the smallest budget.

    Example:
        >>> model = nn.Sequential(nn.Embedding(1000, 8), nn.Flatten(), nn.Linear(8, 1))
        >>> small, costs = compress_module(model, budget=0.3)
        >>> small(torch.tensor([1, 7])).shape, costs.bytes_before, costs.bytes_after <= 9600
        (torch.Size([2, 1]), 32000, True)
    """
    if kind is None and method not in METHODS:
        raise RecembError(f"method must be one of {sorted(METHODS)}, got {method!r}")
    found = embedding_layers(module, layers)
    tables = {name: _trained(name, layer) for name, layer in found.items()}
    target = _bytes(budget, sum(table.num_bytes for table in tables.values()))
    how: Method = METHODS[method]
    if kind is not None:
        how = Anew({"kind": kind} if isinstance(kind, str) else kind)
    contents, kept = convert(tables, how, target)
    made = {
        name: _table_layer(name, found[name], content, optimizer)
        for name, content in contents.items()
    }
    costs = [
        _cost(name, layer, made.get(name), kind is not None, kept.get(name))
        for name, layer in found.items()
    ]
    # The copy of what the memo has is what the memo says it is.
    instead: dict[int, Any] = {id(found[name]): layer for name, layer in made.items()}
    return CompressedModule(copy.deepcopy(module, instead), Costs(tuple(costs)))


def served_module(module: nn.Module) -> nn.Module:
    """Return a copy of a module with its tables in the form that is served.

    Some kinds train in a larger form than they serve in, such as dpq, whose codes are learned.
    """
    instead: dict[int, Any] = {}
    for layer in module.modules():
        if isinstance(layer, TableLayer):
            served = layer.embeddings.served()
            if served is not layer.embeddings:
                new = copy.copy(layer)
                new._modules = {**layer._modules, "embeddings": served}
                instead[id(layer)] = new
    return copy.deepcopy(module, instead)


def _bytes(budget: int | str | float | None, now: int) -> int | None:
    if budget is None:
        return None
    if isinstance(budget, float):
        if not 0 < budget <= 1:
            raise RecembError(
                f"budget: a share must be above 0 and at most 1, got {budget}; give bytes as a "
                "whole number or such as '10 MB'"
            )
        # Exact: the float product makes 3.0000000000000004 of 0.1 * 30.
        return math.floor(now * Fraction(str(budget)))
    return parse_bytes("budget", budget)


def _trained(name: str, layer: Layer) -> TrainedTable:
    """Return a layer as methods see tables; its weight is not copied."""
    rows_VD = layer.weight.detach().cpu()
    num_ids, dim = rows_VD.shape
    return TrainedTable(
        name=name,
        kind="full",
        spaces=(IdSpace(name, num_ids),),
        lookups=1,
        content=TableContent(config=Full(dim=dim), values={"rows": rows_VD}, learned=None),
    )


@torch.no_grad()
def _table_layer(
    name: str, layer: Layer, content: TableContent, optimizer: UpdateRule | None
) -> TableLayer:
    """Return what takes the place of a layer."""
    make = partial(
        EmbeddingCollection,
        {name: content.config},
        {name: Feature(table=name, num_ids=layer.num_embeddings)},
        optimizer,
    )
    if not (content.values or content.selected or content.learned is not None):  # anew
        collection = make()
    else:
        with torch.random.fork_rng():
            collection = make()
        collection.fill(name, content, {name: layer.weight.detach().cpu()})
    padding = layer.padding_idx
    made: TableLayer
    if isinstance(layer, nn.EmbeddingBag):
        mode: Any = layer.mode
        made = TableEmbeddingBag(collection, mode, layer.include_last_offset, padding)
    else:
        padding_D = None if padding is None else layer.weight[padding].detach().clone()
        is_zero = padding_D is None or not bool(padding_D.any())
        made = TableEmbedding(collection, padding, None if is_zero else padding_D)
    made.requires_grad_(layer.weight.requires_grad).train(layer.training)
    return made.to(layer.weight.device)


@torch.no_grad()
def _cost(
    name: str, layer: Layer, made: TableLayer | None, is_anew: bool, kept: str | None
) -> LayerCost:
    before = layer.weight.nbytes
    error: float | None = 0.0
    if made is not None:
        error = None if is_anew else _error(layer.weight, made)
    return LayerCost(
        name=name,
        kind="full" if made is None else made.kind,
        num_ids=layer.num_embeddings,
        dim=layer.embedding_dim,
        bytes_before=before,
        bytes_after=before if made is None else made.serving_bytes(),
        error=error,
        kept=kept,
    )


def _error(weight_VD: Tensor, made: TableLayer) -> float:
    """Return the relative error of all vectors."""
    away = norm = 0.0
    first = 0
    for rows_nD in weight_VD.split(CHUNK_IDS):
        ids_n = torch.arange(first, first + len(rows_nD), device=weight_VD.device)
        away += float((made.vectors(ids_n) - rows_nD).square().sum(dtype=torch.float64))
        norm += float(rows_nD.square().sum(dtype=torch.float64))
        first += len(rows_nD)
    return math.sqrt(away / norm) if norm else math.sqrt(away)


def _shares(before: int, after: int) -> tuple[str, str, str]:
    return f"{before:,}", f"{after:,}", f"{after / before:.1%}"
