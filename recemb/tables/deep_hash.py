"""Deep hash embedding (DHE): no table; a network turns many hashes of an id into its vector.

    code_j = 2 h_j(id) / (m - 1) - 1, j < k    vector = MLP(code)
    elements = k w + 4 w^2 + w D, and biases and batch norms

h_j(x) = ((a_j x_low + b_j x_high + c_j) mod p) mod m with p = 2^31 - 1, over the two halves of the
mixed 64-bit id: in 64-bit integers nothing overflows, so codes stay in -1..1. The hidden layers are
linear, batch norm and Mish; the batch of the norm is each feature's distinct ids. a, b and c are
computed where they are used, so no hash constants are stored. Fit for many ids and few bytes; slow,
because every id costs k hashes and an MLP.

Source: Kang et al., "Learning to Embed Categorical Features without Embedding Tables for
Recommendation", KDD 2021, arXiv:2010.10784.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recemb import collectives
from recemb.batch_norm import BatchNorm
from recemb.errors import RecembError
from recemb.hashing import mix, salt_of
from recemb.physical import PhysicalTable
from recemb.tables.kind import (
    BlockIds,
    IdSpace,
    TableConfig,
    TableFeature,
    TableKind,
    int_buffer,
    spread,
)

PRIME = 2**31 - 1
HIDDEN = 5
"""Hidden layers."""
MAX_WIDTH = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepHash(TableConfig):
    """A network of ``width`` over ``num_hashes`` hashes."""

    kind: Literal["deep_hash"] = "deep_hash"
    """The name of the kind."""
    width: int | None = None
    """w, of the hidden layers, in 1..65536; a share or a budget may choose it."""
    num_hashes: int = 1024
    """k, at least 1."""
    num_buckets: int = 1_000_000
    """m, at least 2 and below 2^31."""
    codes: Literal["uniform", "normal"] = "uniform"
    """The law of the network's inputs; ``normal`` by the Box-Muller transform of pairs."""

    searched: ClassVar[str] = "width"
    formula: ClassVar[str] = "MLP(2 h_j(id) / (m - 1) - 1, j < k), five hidden layers"
    memory: ClassVar[str] = "k width + 4 width^2 + width dim; nothing per id"
    paper: ClassVar[str] = "Kang et al. 2021, arXiv:2010.10784"

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` if a setting is out of range."""
        TableConfig.check(self, where)
        for name, low, high in (
            ("width", 1, MAX_WIDTH),
            ("num_hashes", 1, 1 << 20),
            ("num_buckets", 2, PRIME - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RecembError(f"{where}: {name} must be in {low}..{high}, got {value}")
        if self.codes == "normal" and self.num_hashes % 2:
            raise RecembError(
                f"{where}: normal codes come in pairs, so num_hashes must be even, got "
                f"{self.num_hashes}"
            )
        if self.precision != "fp32":
            raise RecembError(
                f"{where}: kind deep_hash stores no rows, so it has no precision, got "
                f"{self.precision!r}; drop it"
            )

    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return no part."""
        return {}

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the network."""
        assert self.width is not None
        return _Network(self.num_hashes, self.width, self.dim, self.init_scale)

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the widths."""
        return range(1, MAX_WIDTH + 1)

    def build(self, features: Sequence[TableFeature]) -> "DeepHashKind":
        """Return the module for ``features``."""
        return DeepHashKind(features)


class _Network(nn.Module):
    """Hidden layers of linear, batch norm and Mish, then a linear output."""

    def __init__(self, num_inputs: int, width: int, dim: int, init_scale: float) -> None:
        super().__init__()
        sizes = [num_inputs, *[width] * HIDDEN]
        pairs = list(itertools.pairwise(sizes))
        # The batch norm has the bias.
        self.linears = nn.ModuleList(nn.Linear(low, high, bias=False) for low, high in pairs)
        self.norms = nn.ModuleList(BatchNorm(width) for _ in pairs)
        self.output = nn.Linear(width, dim)
        # Mish of a normal variable has a mean square of about 0.36; vectors shall have the
        # deviation of U(-init_scale, init_scale).
        nn.init.normal_(self.output.weight, std=init_scale / math.sqrt(3 * 0.36 * width))
        nn.init.zeros_(self.output.bias)

    def forward(self, codes_Nk: Tensor, is_counted_N: Tensor | None) -> Tensor:
        """Return (N, D) vectors; the batch norms' statistics are those of counted rows."""
        values = codes_Nk
        for linear, norm in zip(self.linears, self.norms, strict=True):
            values = F.mish(norm(linear(values), is_counted_N))
        return cast(Tensor, self.output(values))


class DeepHashKind(TableKind):
    """Hashes each distinct id once and runs the network on it."""

    is_costly = True
    salt_F: Tensor

    def __init__(self, features: Sequence[TableFeature]) -> None:
        super().__init__()
        salts = int_buffer([salt_of(feature.table, feature.space.name) for feature in features])
        self.register_buffer("salt_F", salts, persistent=False)

    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, ...]:
        """Return nothing: there are no rows."""
        return ()

    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the network's outputs."""
        config = feature.config
        assert isinstance(config, DeepHash) and feature.learned is not None
        keys_N = mix(ids.ids_N + spread(self.salt_F, ids.feature_N))
        is_counted_N = None
        if feature.learned.training:
            # An id that several processes have met is one row of the batch.
            key_N2 = torch.stack([ids.feature_N, ids.ids_N], 1)
            is_counted_N = collectives.is_first_holder(key_N2)
        return cast(Tensor, feature.learned(hash_codes(keys_N, config), is_counted_N))


def hash_codes(keys_N: Tensor, config: DeepHash) -> Tensor:
    """Return the k codes of mixed ids: (N, k) fp32, uniform in -1..1 or standard normal."""
    half = (1 << 31) - 1
    low_N1, high_N1 = (keys_N & half).unsqueeze(1), ((keys_N >> 31) & half).unsqueeze(1)
    constants_k3 = mix(torch.arange(3 * config.num_hashes, device=keys_N.device)).unflatten(
        0, (-1, 3)
    )
    # Below 2^30, so that the sum of two products of 31 bits stays below 2^63.
    a_k, b_k, c_k = (((constants_k3 >> 33) & ((1 << 30) - 1)) | 1).unbind(1)
    hashed_Nk: Tensor = (low_N1 * a_k + high_N1 * b_k + c_k) % PRIME % config.num_buckets
    uniform_Nk: Tensor = hashed_Nk.to(torch.float32) / (config.num_buckets - 1)
    if config.codes == "uniform":
        return 2 * uniform_Nk - 1
    first_N, second_N = uniform_Nk.chunk(2, 1)
    # The logarithm of 0 is kept out.
    radius_N = (-2 * first_N.clamp(min=1e-7).log()).sqrt()
    angle_N = 2 * math.pi * second_N
    return torch.cat([radius_N * angle_N.cos(), radius_N * angle_N.sin()], 1)
