"""Differentiable product quantisation (DPQ): codes and codebook learned together, end to end.

    query = E[id], cut in P parts    c_p = argmax_k response(query_p, key_pk)
    vector = value[1, c_1] | .. | value[P, c_P]
    served: ids * ceil(P log2 K / 8) bytes + K * dim * 4; trained: the full table beside it

``vq``: the response is the negative squared distance, values are the keys, gradients pass straight
through to the query, and the loss draws key and query together. ``sx``: the response is the inner
product, batch-normalised without affine; values are apart from keys; hard forward, softmax
backward. What is served is :mod:`recemb.tables.codes`; every row is encoded anew for it.

Source: Chen et al., "Differentiable Product Quantization for End-to-End Embedding Compression",
ICML 2020, arXiv:1908.09756.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb import collectives
from recemb.batch_norm import BatchNorm
from recemb.errors import RecembError
from recemb.physical import PhysicalTable, Uniform
from recemb.tables.codes import Codebook, Codes, check_parts, num_frequent, pack, read_codebook
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableContent,
    TableFeature,
    int_buffer,
    num_ids,
    spread,
)
from recemb.tables.numbered import RowPerId

CHUNK_RESPONSES = 1 << 19
"""Responses that are computed together: as many as a CPU's cache holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DPQ(TableConfig):
    """``num_parts`` codes below ``num_keys`` per id, learned."""

    kind: Literal["dpq"] = "dpq"
    """The name of the kind."""
    num_parts: int | None = None
    """P, a divisor of ``dim``; a share or a budget may choose it."""
    num_keys: int | None = None
    """K, a power of two in 2..256; by default 256, or what a share or budget leaves."""
    response: Literal["vq", "sx"] = "vq"
    """How a key is chosen."""
    commitment: float = 0.25
    """Weight of the loss that draws queries to their keys (vq), at least 0."""

    searched: ClassVar[str] = "num_parts"
    formula: ClassVar[str] = "V[p, argmax_k response(E[id]_p, key_pk)], p < P, side by side"
    memory: ClassVar[str] = "served: ids x P log2 K bits + K x dim; trained: ids x dim more"
    paper: ClassVar[str] = "Chen et al. 2020, arXiv:1908.09756"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        check_parts(where, self.dim, self.num_parts)
        if self.num_keys is not None and self.num_keys not in [2**bits for bits in range(1, 9)]:
            raise RecembError(
                f"{where}: num_keys must be a power of two in 2..256, got {self.num_keys}"
            )
        if not self.commitment >= 0:
            raise RecembError(f"{where}: commitment must be at least 0, got {self.commitment}")

    def with_defaults(self, where: str) -> Self:
        """Return the configuration with 256 keys unless told."""
        config = TableConfig.with_defaults(self, where)
        return replace(config, num_keys=config.num_keys or 256)

    def solve(self, where: str, spaces: Sequence[IdSpace], lookups: int = 1) -> Self:
        """Return the most bits of code that fit; of equally many, the fewest parts."""
        self.check(where)
        target = self.target_bytes(where, spaces)
        if target is None:
            return self.with_defaults(where)
        counts = [self.num_keys] if self.num_keys else [2**bits for bits in range(1, 9)]
        options = [
            replace(self, num_parts=parts, num_keys=keys, budget=None, share=None)
            for parts in range(1, self.dim + 1)
            if self.dim % parts == 0
            for keys in counts
            if self._allows(keys)
        ]
        sizes = [option.serving_bytes(where, spaces, lookups) for option in options]
        fitting = [option for option, size in zip(options, sizes, strict=True) if size <= target]
        if not fitting:
            least = min(sizes)
            raise RecembError(
                f"{where}: kind {self.kind_name} cannot be smaller than {least:,} bytes "
                f"(num_parts={options[sizes.index(least)].num_parts}, "
                f"num_keys={options[sizes.index(least)].num_keys}), got a budget of {target:,}; "
                f"give it at least {least}, or choose a smaller dim or another kind"
            )
        return max(fitting, key=lambda one: (one.code_bits, -(one.num_parts or 0)))

    def _allows(self, num_keys: int) -> bool:
        return True

    @property
    def key_bits(self) -> int:
        """log2 K."""
        assert self.num_keys is not None
        return self.num_keys.bit_length() - 1

    @property
    def code_bits(self) -> int:
        """Bits of all codes of an id."""
        assert self.num_parts is not None
        return self.num_parts * self.key_bits

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return one part, ``queries``."""
        queries = self.part(num_ids(where, self, spaces), self.dim, Uniform(self.init_scale))
        return {"queries": queries}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return keys and values."""
        assert self.num_parts is not None and self.num_keys is not None
        network = _VQ if self.response == "vq" else _SX
        return network(self.num_parts, self.num_keys, self.dim, self.init_scale)

    def signature(self, lookups: int) -> Hashable:
        """Features of a table are composed together."""
        return self.num_parts, self.num_keys

    def build(self, features: Sequence[TableFeature]) -> "DPQKind":
        """Return the module for ``features``."""
        return DPQKind(features)

    def keys_of(self, space: IdSpace) -> tuple[int, int]:
        """Return how many ids of a space, its first, may use all keys; and the keys of the rest."""
        assert self.num_keys is not None
        return space.num_ids or 0, self.num_keys

    def served(self, where: str, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the kind ``codes``."""
        return Codes(
            dim=self.dim,
            num_parts=self.num_parts,
            num_bits=self.key_bits,
            project=self.project,
            init_scale=self.init_scale,
        )

    @torch.no_grad()
    def to_served(
        self, where: str, spaces: Sequence[IdSpace], content: TableContent
    ) -> TableContent:
        """Encode every row: an id that no batch has met has a code too."""
        quantizer = content.learned
        assert isinstance(quantizer, _Quantizer)
        limits = []
        for space in spaces:
            free, keys = self.keys_of(space)
            number_V = torch.arange(space.num_ids or 0)
            limits.append(torch.where(number_V < free, cast(int, self.num_keys), keys))
        was_training = quantizer.training
        codes_VP = quantizer.eval().codes(content.values["queries"], torch.cat(limits))
        quantizer.train(was_training)
        config = self.served(where, spaces)
        assert isinstance(config, Codes)
        return TableContent(
            config=config,
            values=packed(config, spaces, codes_VP),
            learned=quantizer.codebook(self),
        )


def packed(config: Codes, spaces: Sequence[IdSpace], codes_VP: Tensor) -> dict[str, Tensor]:
    """Return the parts of a table of kind ``codes`` that holds the codes of all ids."""
    if config.rest_bits is None:
        return {"codes": pack(codes_VP, config.num_bits)}
    is_frequent_V = torch.cat(
        [torch.arange(s.num_ids or 0) < num_frequent(s, config.frequent) for s in spaces]
    )
    return {
        "frequent": pack(codes_VP[is_frequent_V], config.num_bits),
        "rest": pack(codes_VP[~is_frequent_V], config.rest_bits),
    }


class _Quantizer(nn.Module):
    """Keys, and how a query chooses among them.

    Shapes: N queries, P parts of d elements, K keys.
    """

    def __init__(self, num_parts: int, num_keys: int, dim: int, init_scale: float) -> None:
        super().__init__()
        keys_PKd = torch.empty(num_parts, num_keys, dim // num_parts)
        self.keys_PKd = nn.Parameter(keys_PKd.uniform_(-init_scale, init_scale))
        self.num_parts, self.num_keys = num_parts, num_keys
        self.penalty: Tensor | float = 0.0

    @torch.no_grad()
    def codes(self, queries_ND: Tensor, limits_N: Tensor) -> Tensor:
        """Return the (N, P) codes of queries, below each one's limit."""
        raise NotImplementedError

    def read(self, codes_NP: Tensor) -> Tensor:
        """Return the values that codes name: (N, D)."""
        return read_codebook(self.values(), codes_NP, self.num_parts, self.num_keys)

    def codebook(self, config: DPQ) -> Codebook:
        """Return the values alone, as they are served."""
        assert config.num_parts is not None and config.num_keys is not None
        codebook = Codebook(config.num_parts, config.num_keys, config.dim, config.init_scale)
        codebook.values_PKd.data.copy_(self.values())
        return codebook

    def values(self) -> Tensor:
        """Return the vectors that codes name: (P, K, d)."""
        return self.keys_PKd


class _VQ(_Quantizer):
    """Nearest key; the value is the key."""

    @torch.no_grad()
    def codes(self, queries_ND: Tensor, limits_N: Tensor) -> Tensor:
        """Return the (N, P) numbers of the nearest of the first keys, as many as a limit says."""
        queries_NPd = queries_ND.unflatten(1, (self.num_parts, -1))
        codes_NP = torch.empty(queries_NPd.shape[:2], dtype=torch.int64, device=queries_ND.device)
        for limit in limits_N.unique().tolist():
            (place_M,) = torch.nonzero(limits_N == limit, as_tuple=True)
            found_MP = nearest(queries_NPd[place_M], self.keys_PKd[:, :limit])
            codes_NP.index_copy_(0, place_M, found_MP)
        return codes_NP

    def forward(
        self, queries_ND: Tensor, limits_N: Tensor, number_N: Tensor, commitment: float
    ) -> Tensor:
        """Return the chosen values, with the query's gradient; in training the loss grows too.

        Args:
            queries_ND: The rows of ids.
            limits_N: How many keys each may use.
            number_N: The ids' numbers: equal ones have equal queries, and are encoded once.
            commitment: Weight of the loss on queries.
        """
        number_U, place_N = torch.unique(number_N, return_inverse=True)
        first_U = torch.empty_like(number_U)
        first_U.scatter_(0, place_N, torch.arange(len(place_N), device=place_N.device))
        codes_UP = self.codes(queries_ND[first_U], limits_N[first_U])
        values_ND = self.read(codes_UP[place_N])
        if not self.training:
            return with_gradient_of(queries_ND, values_ND)
        # Sums, because the mean over no ids is no number, and parts of a batch may be uneven.
        pull = (values_ND - queries_ND.detach()).square().sum()
        commit = (queries_ND - values_ND.detach()).square().sum()
        count = collectives.mean_over_processes(queries_ND.numel(), queries_ND.device)
        self.penalty = self.penalty + (pull + commitment * commit) / max(1, count)
        return queries_ND + (values_ND - queries_ND).detach()


class _SX(_Quantizer):
    """Largest normalised inner product; values of their own."""

    def __init__(self, num_parts: int, num_keys: int, dim: int, init_scale: float) -> None:
        super().__init__(num_parts, num_keys, dim, init_scale)
        own_PKd = torch.empty(num_parts, num_keys, dim // num_parts)
        self.own_PKd = nn.Parameter(own_PKd.uniform_(-init_scale, init_scale))
        self.norm = BatchNorm(num_parts * num_keys, affine=False)

    def values(self) -> Tensor:
        """Return the vectors that codes name: (P, K, d)."""
        return self.own_PKd

    @torch.no_grad()
    def codes(self, queries_ND: Tensor, limits_N: Tensor) -> Tensor:
        """Return the (N, P) numbers of the keys of the largest response; all have one limit.

        Chunk by chunk, because responses take K times the memory of queries.
        """
        chunk = max(2, CHUNK_RESPONSES // (self.num_parts * self.num_keys))
        queries_NPd = queries_ND.unflatten(1, (self.num_parts, -1))
        return torch.cat([self.responses(some).argmax(2) for some in queries_NPd.split(chunk)])

    def responses(self, queries_NPd: Tensor) -> Tensor:
        """Return normalised inner products."""
        product_PNK = torch.bmm(queries_NPd.transpose(0, 1), self.keys_PKd.transpose(1, 2))
        flat_NX = self.norm(product_PNK.transpose(0, 1).flatten(1))
        responses_NPK: Tensor = flat_NX.unflatten(1, (self.num_parts, -1))
        return responses_NPK

    def forward(
        self, queries_ND: Tensor, limits_N: Tensor, number_N: Tensor, commitment: float
    ) -> Tensor:
        """Return the chosen values, with the gradient of the softmax where rows are trained."""
        values_ND = None
        if not self.training:
            values_ND = self.read(self.codes(queries_ND, limits_N))
            if not queries_ND.requires_grad:
                return values_ND
        responses_NPK = self.responses(queries_ND.unflatten(1, (self.num_parts, -1)))
        soft_NPK = responses_NPK.softmax(2)
        hard_NPK = F.one_hot(soft_NPK.argmax(2), soft_NPK.shape[2]).to(soft_NPK.dtype)
        choice_NPK = soft_NPK + (hard_NPK - soft_NPK).detach()
        chosen_ND = torch.einsum("npk,pkd->npd", choice_NPK, self.own_PKd).flatten(1)
        if values_ND is None:
            return chosen_ND
        return with_gradient_of(chosen_ND, values_ND.detach())


def with_gradient_of(trained_ND: Tensor, values_ND: Tensor) -> Tensor:
    """Return values as they are to the bit, with the gradient of others as well as their own."""
    if not trained_ND.requires_grad:
        return values_ND
    return values_ND + (trained_ND - trained_ND.detach())


def nearest(queries_NPd: Tensor, keys_PKd: Tensor) -> Tensor:
    """Return the number of the key that is nearest to each part of each query: (N, P)."""
    if keys_PKd.shape[2] == 1:
        # On a line, the nearest key is a matter of where the middles between keys lie.
        sorted_PK, number_PK = keys_PKd.squeeze(2).sort(1)
        middle_PJ = (sorted_PK[:, 1:] + sorted_PK[:, :-1]) / 2
        place_PN = torch.searchsorted(middle_PJ, queries_NPd.squeeze(2).T.contiguous())
        return number_PK.gather(1, place_PN).T
    minus_norm_P1K = -keys_PKd.square().sum(2).unsqueeze(1)
    keys_PdK = keys_PKd.transpose(1, 2)
    chunk = max(1, CHUNK_RESPONSES // (keys_PKd.shape[0] * keys_PKd.shape[1]))
    # Twice the inner product less the key's square: the negative squared distance without the
    # query's own part.
    return torch.cat(
        [
            torch.baddbmm(minus_norm_P1K, some.transpose(0, 1), keys_PdK, alpha=2).argmax(2).T
            for some in queries_NPd.split(chunk)
        ]
    )


class DPQKind(RowPerId):
    """Quantises the rows of the query table."""

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__(features)
        limits = [cast(DPQ, feature.config).keys_of(feature.space) for feature in features]
        self.register_buffer("free_F", int_buffer([free for free, _ in limits]), persistent=False)
        self.register_buffer("keys_F", int_buffer([keys for _, keys in limits]), persistent=False)
        # A list and not modules: they are the tables', which own their parameters.
        self._quantizers = [cast(_Quantizer, feature.learned) for feature in features]

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the values nearest to the queries."""
        config, quantizer = feature.config, feature.learned
        assert isinstance(config, DPQ) and quantizer is not None and config.num_keys is not None
        is_free_N = ids.ids_N < spread(self.get_buffer("free_F"), ids.feature_N)
        keys_N = spread(self.get_buffer("keys_F"), ids.feature_N)
        limits_N = torch.where(is_free_N, config.num_keys, keys_N)
        number_N = ids.ids_N + spread(self.first_id_F, ids.feature_N)
        queries_ND = parts[0].squeeze(1)
        return cast(Tensor, quantizer(queries_ND, limits_N, number_N, config.commitment))

    def loss(self) -> Tensor | float:
        """Return the distance between the last queries and their keys."""
        total: Tensor | float = 0.0
        for quantizer in {id(one): one for one in self._quantizers}.values():
            total, quantizer.penalty = total + quantizer.penalty, 0.0
        return total
