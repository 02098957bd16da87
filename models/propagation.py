"""Propagation: vectors of users and items travel along the edges between them.

    x_v  <-  sum over neighbours w of v of  x_w / sqrt(degree_v degree_w)

Users and items are the nodes of one graph, users first; a pair (user, item) is an edge in both
directions. A layer is a product with a sparse matrix, and that product is a bag of rows, weighted
and summed: on a CPU ``embedding_bag`` does it in a sixth of the time of a product in CSR and in a
seventeenth of that in COO (``benchmarks/ngcf.py --products``).

Where a graph is too large to be propagated whole in every step, the nodes that a step asks for are
propagated to from a sample of their neighbours, and those from a sample of theirs. A sum over d
neighbours is then estimated by d / k times that over k of them, drawn with replacement: right on
average.

Shapes: N nodes, E edges, D elements of a vector, S nodes asked for.

Source: the matrix is that of Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019,
arXiv:1905.08108; sampled neighbours: Hamilton et al., "Inductive Representation Learning on Large
Graphs" (GraphSAGE), NeurIPS 2017, arXiv:1706.02216.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb.jagged import position_of_each
from recemb.schema import Attribute


class Csr(NamedTuple):
    """A sparse matrix, row by row: columns and weights of E entries, and where each row starts."""

    offsets_N1: Tensor
    columns_E: Tensor
    weights_E: Tensor

    def product(self, x_ND: Tensor) -> Tensor:
        """Return the matrix times the vectors, without a gradient."""
        return F.embedding_bag(
            self.columns_E,
            x_ND,
            self.offsets_N1,
            mode="sum",
            per_sample_weights=self.weights_E,
            include_last_offset=True,
        )


class Layer(NamedTuple):
    """One step of propagation: from the nodes before it to those that are kept of them.

    Nodes are numbered anew where a slice is kept: they are the first of those before the layer.
    """

    matrix: Csr
    transposed: Csr
    kept: slice | Tensor
    """Which nodes those are."""
    asked: slice | Tensor
    """Which of the nodes before it are asked for in the end."""

    def __call__(
        self, x_ND: Tensor, sends_N1: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the kept nodes have had, what reaches them, and what the asked ones have had.

        Args:
            x_ND: What all have had.
            sends_N1: What each is multiplied with on its way, of these nodes and perhaps more
                behind them; None: 1. It gets no gradient.
        """
        if sends_N1 is not None:
            sends_N1 = sends_N1[: len(x_ND)]
        found: tuple[Tensor, Tensor, Tensor] = _Step.apply(  # type: ignore[no-untyped-call]
            x_ND, self, sends_N1
        )
        return found


class _Step(torch.autograd.Function):
    """What a layer returns, in one function: its three gradients meet in one tensor.

    Autograd by itself would fill one of N x D for each, and add them up.
    """

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, layer: Layer, sends_N1: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.layer, ctx.sends_N1, ctx.shape = layer, sends_N1, x_ND.shape
        sum_KD = layer.matrix.product(x_ND if sends_N1 is None else x_ND * sends_N1)
        if isinstance(layer.kept, Tensor):
            sum_KD = sum_KD.index_select(0, layer.kept)
        return _rows(x_ND, layer.kept), sum_KD, _rows(x_ND, layer.asked)

    @staticmethod
    def backward(
        ctx: Any, own_KD: Tensor | None, sum_KD: Tensor | None, asked_SD: Tensor | None
    ) -> tuple[Tensor | None, None, None]:
        layer = ctx.layer
        given = [one for one in (own_KD, sum_KD, asked_SD) if one is not None]
        if not given:
            return None, None, None
        if sum_KD is None:
            grad_ND = given[0].new_zeros(ctx.shape)
        else:
            if isinstance(layer.kept, Tensor):
                sum_KD = sum_KD.new_zeros(ctx.shape).index_copy_(0, layer.kept, sum_KD)
            grad_ND = layer.transposed.product(sum_KD.contiguous())
            if ctx.sends_N1 is not None:
                grad_ND *= ctx.sends_N1
        for where, one in ((layer.kept, own_KD), (layer.asked, asked_SD)):
            if one is None:
                continue
            if isinstance(where, slice):
                grad_ND[where] += one
            else:
                grad_ND.index_add_(0, where, one)
        return grad_ND, None, None


def _rows(x_ND: Tensor, where: slice | Tensor) -> Tensor:
    return x_ND[where] if isinstance(where, slice) else x_ND.index_select(0, where)


class Neighbourhood(NamedTuple):
    """Users and items whose vectors are read, and the layers that lead to the nodes asked for.

    What the last layer leads to are the nodes asked for.

    Attributes:
        users_A: Ids.
        items_C: Ids.
        place_N: Where each node is among the users and then the items; None: in that order.
        layers: In the order of propagation.
    """

    users_A: Tensor
    items_C: Tensor
    place_N: Tensor | None
    layers: list[Layer]


class BipartiteGraph(nn.Module):
    """Users and items, joined by the pairs of training.

    Args:
        seen: The items of each user; an attribute of users whose values are items.
        num_items: V. Nodes are the users of ``seen``, then the items.

    Attributes:
        num_users: U.
        num_nodes: U + V.
    """

    offsets_N1: Tensor
    columns_E: Tensor
    weights_E: Tensor

    def __init__(self, seen: Attribute, num_items: int) -> None:
        super().__init__()
        self.num_users = len(seen.offsets_V) - 1
        self.num_nodes = self.num_users + num_items
        degree_U = seen.offsets_V.diff()
        user_P = torch.repeat_interleave(torch.arange(self.num_users), degree_U)
        item_P = seen.values_M
        degree_V = torch.bincount(item_P, minlength=num_items)
        degree_N = torch.cat([degree_U, degree_V])
        by_item_P = item_P.argsort(stable=True)
        columns_E = torch.cat([item_P + self.num_users, user_P[by_item_P]])
        degree_E = degree_N[columns_E] * torch.repeat_interleave(degree_N, degree_N)
        # The schema has the pairs; a second copy in the state dict would only be larger.
        self._keep("offsets_N1", _offsets(degree_N))
        self._keep("columns_E", columns_E)
        self._keep("weights_E", degree_E.to(torch.float32).rsqrt())

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)

    @property
    def matrix(self) -> Csr:
        """The whole matrix, which is symmetric."""
        return Csr(self.offsets_N1, self.columns_E, self.weights_E)

    def whole(self, num_layers: int, nodes_S: Tensor | None = None) -> Neighbourhood:
        """Return all nodes, and layers that lead from all to all, the last one to those asked for.

        Args:
            num_layers: At least 1.
            nodes_S: Distinct nodes, ascending; None: all.
        """
        nodes_N = torch.arange(self.num_nodes, device=self.columns_E.device)
        asked = slice(None) if nodes_S is None else nodes_S
        layers = [Layer(self.matrix, self.matrix, slice(None), asked)] * num_layers
        layers[-1] = layers[-1]._replace(kept=asked)
        users_A, items_C = nodes_N[: self.num_users], nodes_N[self.num_users :] - self.num_users
        return Neighbourhood(users_A, items_C, None, layers)

    def sampled(self, nodes_S: Tensor, fanouts: Sequence[int]) -> Neighbourhood:
        """Return nodes and layers that lead to some nodes, from samples of neighbours.

        Args:
            nodes_S: Distinct nodes.
            fanouts: Of each layer, the last one first, how many neighbours a node is reached by at
                most; one that has more draws so many of them, with replacement.
        """
        layers = []
        asked = slice(len(nodes_S))
        for fanout in fanouts:
            row_E, column_E, weight_E = self._draw(nodes_S, fanout)
            every = torch.cat([nodes_S, column_E])
            distinct, place = torch.unique(every, return_inverse=True)
            # The old nodes first, then the new ones.
            is_new = torch.ones_like(distinct, dtype=torch.bool)
            is_new[place[: len(nodes_S)]] = False
            new_place = len(nodes_S) + is_new.cumsum(0) - 1
            new_place[place[: len(nodes_S)]] = torch.arange(len(nodes_S), device=place.device)
            local_E = new_place[place[len(nodes_S) :]]
            num_in = len(distinct)
            matrix = _csr(row_E, local_E, weight_E, len(nodes_S))
            by_column_E = local_E.argsort(stable=True)
            transposed = _csr(
                local_E[by_column_E], row_E[by_column_E], weight_E[by_column_E], num_in
            )
            # Those that it leads to are the first of those that it leads from.
            layers.append(Layer(matrix, transposed, slice(len(nodes_S)), asked))
            nodes_S = torch.cat([nodes_S, distinct[is_new]])
        is_user_N = nodes_S < self.num_users
        order_N = torch.cat([is_user_N.nonzero(), (~is_user_N).nonzero()]).squeeze(1)
        place_N = torch.empty_like(order_N)
        place_N[order_N] = torch.arange(len(order_N), device=order_N.device)
        users_A, items_C = nodes_S[is_user_N], nodes_S[~is_user_N] - self.num_users
        return Neighbourhood(users_A, items_C, place_N, layers[::-1])

    def _draw(self, nodes_S: Tensor, fanout: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return place of the node, neighbour and weight of each edge that is drawn."""
        start_S = self.offsets_N1[nodes_S]
        degree_S = self.offsets_N1[nodes_S + 1] - start_S
        count_S = degree_S.clamp(max=fanout)
        row_E = torch.repeat_interleave(torch.arange(len(nodes_S), device=nodes_S.device), count_S)
        degree_E = degree_S[row_E]
        place_E = position_of_each(count_S)
        drawn_E = torch.randint(2**62, place_E.shape, device=place_E.device) % degree_E
        edge_E = start_S[row_E] + torch.where(degree_E > fanout, drawn_E, place_E)
        weight_E = self.weights_E[edge_E] * (degree_E / count_S[row_E])
        return row_E, self.columns_E[edge_E], weight_E


def _csr(row_E: Tensor, column_E: Tensor, weight_E: Tensor, num_rows: int) -> Csr:
    """Return a matrix whose entries come row by row."""
    return Csr(_offsets(torch.bincount(row_E, minlength=num_rows)), column_E, weight_E)


def _offsets(count_N: Tensor) -> Tensor:
    """Return where each of some runs begins, and where the last one ends: (N + 1,)."""
    end_N = count_N.cumsum(0)
    return torch.cat([end_N.new_zeros(1), end_N])
