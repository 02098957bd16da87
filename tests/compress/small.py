"""Small trained-looking tables: plain ones that hold given rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recemb.compress.methods import METHODS
from recemb.compress.tables import Compressed, trained_tables
from recemb.embeddings import Embeddings
from recemb.features import FeatureConfig, ResolvedFeature
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig
from tests.tables.helpers import as_tensor, embeddings


def reading(table: str, num_ids: int | None, lookups: int = 1) -> ResolvedFeature:
    """Return a feature of a table's name, with counted ids of its own."""
    counts = None if num_ids is None else torch.arange(num_ids, 0, -1)
    space = IdSpace(f"{table} ids", num_ids, counts)
    return ResolvedFeature(table, FeatureConfig(table=table, lookups=lookups), space, is_list=False)


def one_table(config: TableConfig, num_ids: int, lookups: int = 1) -> Embeddings:
    """Return embeddings of one table named ``t``."""
    return embeddings({"t": config}, [reading("t", num_ids, lookups)])


def plain(rows: Mapping[str, Tensor], project: int | None = None) -> Embeddings:
    """Return plain tables that hold ``rows``."""
    tables = {name: Full(dim=one.shape[1], project=project) for name, one in rows.items()}
    made = embeddings(tables, [reading(name, len(one)) for name, one in rows.items()])
    for name, one in rows.items():
        made.rows.assign(name, one)
    return made


def with_size(made: Embeddings, method: str, size: Any) -> Embeddings:
    """Return the table ``t`` made smaller to a size."""
    with torch.no_grad():
        content = METHODS[method].convert(trained_tables(made)["t"], size)
        return made.converted({"t": content})


def random_rows(num_rows: int, dim: int, seed: int = 1) -> Tensor:
    """Return normally distributed rows."""
    return torch.randn(num_rows, dim, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def vectors(made: Embeddings | Compressed, table: str = "t") -> np.ndarray:
    """Return the vectors of all ids of a table."""
    owner = made.embeddings if isinstance(made, Compressed) else made
    asked = {
        name: torch.arange(space.num_ids if name == table and space.num_ids else 1)
        for name, (space,) in owner.spaces.items()
    }
    return as_tensor(owner.eval()(asked)[table]).detach().numpy()
