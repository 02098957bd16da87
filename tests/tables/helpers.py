"""What tests of table kinds share: small embeddings, what they store, and how ids are mixed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.features import FeatureConfig, ResolvedFeature
from recemb.jagged import Jagged, Vectors
from recemb.pooling import Pooling
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, UpdateRule
from recemb.tables.kind import IdSpace, TableConfig
from tests.rows.decode import decoded

SPACES = {"item": 50, "user": 20, "items": 5000, "users": 3000}
"""Id spaces and their numbers of ids, the last of which stands for unknown values; others are raw.
"""


def space_of(name: str) -> IdSpace:
    """Return an id space; the counts of its known ids fall, and those of two spaces interleave."""
    num_ids = SPACES.get(name)
    if num_ids is None:
        return IdSpace(name, None)
    counts = torch.arange(num_ids - 1, 0, -1) * (20 if name.startswith("user") else 10)
    return IdSpace(name, num_ids, counts + (0 if name.startswith("user") else 3))


def feature(
    name: str,
    table: str,
    *,
    space: str = "item",
    pooling: Pooling | None = None,
    lookups: int = 1,
) -> ResolvedFeature:
    """Return a feature; with a pooling it is a list, without one it has one id per sample."""
    config = FeatureConfig(table=table, pooling=pooling or "mean", lookups=lookups)
    return ResolvedFeature(name, config, space_of(space), pooling is not None)


def embeddings(
    tables: Mapping[str, TableConfig],
    features: Sequence[ResolvedFeature],
    optimizer: UpdateRule | None = None,
    seed: int = 1,
) -> Embeddings:
    """Return embeddings over a local store, drawn from ``seed``; the global generator is kept."""
    rule = optimizer or SGD(learning_rate=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Embeddings(tables, features, lambda physical: LocalRowsStore(physical, rule))


def ids(values: Sequence[int]) -> Tensor:
    """Return one id per sample."""
    return torch.tensor(values, dtype=torch.int64)


def bags(values: Sequence[Sequence[int]]) -> Jagged:
    """Return a bag of ids per sample."""
    flat = [one for bag in values for one in bag]
    return Jagged(ids(flat), ids([len(bag) for bag in values]))


def as_tensor(vectors: Vectors) -> Tensor:
    """Return the vectors of a feature that is pooled or has one id per sample."""
    assert isinstance(vectors, Tensor)
    return vectors


@dataclass
class Stored:
    """What a table holds: an oracle's only input."""

    rows: dict[str, Tensor]
    """By part, as numbers."""
    learned: dict[str, Tensor]
    """By the name of the parameter or buffer."""
    projection: Tensor | None

    def leaves(self) -> "Stored":
        """Return a copy whose numbers take gradients."""

        def leaf(tensor: Tensor) -> Tensor:
            copy = tensor.detach().clone()
            return copy.requires_grad_() if copy.is_floating_point() else copy

        return Stored(
            {name: leaf(one) for name, one in self.rows.items()},
            {name: leaf(one) for name, one in self.learned.items()},
            None if self.projection is None else leaf(self.projection),
        )


def stored(module: Embeddings, table: str = "ads") -> Stored:
    """Return copies of what a table holds, read from the state dict."""
    state = {name: one.detach().clone() for name, one in module.state_dict().items()}
    entries = {name[5:]: one for name, one in state.items() if name.startswith("rows.")}
    learned, projection = f"learned.table_{table}.", f"projections.table_{table}.weight"
    return Stored(
        rows={
            part: decoded(entries, physical, module.rows.physical[physical])
            for part, physical in module.physical_of[table].items()
        },
        learned={
            name.removeprefix(learned): one
            for name, one in state.items()
            if name.startswith(learned)
        },
        projection=state.get(projection),
    )


def grads_of(module: Embeddings, table: str = "ads") -> dict[str, Tensor]:
    """Return the gradients of a table's learned parameters, zeros where there is none."""
    learned = f"learned.table_{table}."
    return {
        name.removeprefix(learned): torch.zeros_like(one) if one.grad is None else one.grad
        for name, one in module.named_parameters()
        if name.startswith(learned)
    }


def mixed(key: int) -> int:
    """Return SplitMix64's finaliser of a 64-bit number, unsigned, in plain integers."""
    mask = (1 << 64) - 1
    x = (key + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)
