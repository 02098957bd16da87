"""recemb: an embedding-table engine for recommender systems.

ids --encode--> row numbers --gather--> row vectors --compose--> one vector per id --pool--> bag

Importing it imports torch and little else: polars, pyarrow, yaml, jsonargparse and lightning take
longer than the engine, so what it imports has them where they are used.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recemb import optim
from recemb.collection import EmbeddingCollection, Feature
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.features import FeatureConfig, ResolvedFeature, resolve_features
from recemb.jagged import Jagged, KeyedJagged
from recemb.physical import PhysicalTable
from recemb.rows.local import LocalRowsStore
from recemb.schema import Schema
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.tables.kind import IdSpace, TableConfig
from recemb.tables.unified import Unified
from recemb.vectors import read_vectors
from recemb.vocabulary import Vocabulary, VocabularyConfig, count_vocabulary, raw_ids

_engine = Path(__file__).parent
if not (_engine / "models").exists():
    # A clone: models, data readers and configurations lie beside the engine, in a wheel within it.
    __path__.append(str(_engine.parent))

if TYPE_CHECKING:
    from recemb.compress.module import compress_module, served_module
    from recemb.trained import Trained, load
    from recemb.training import fit

_LATER = {
    "Trained": "recemb.trained",
    "compress_module": "recemb.compress.module",
    "fit": "recemb.training",
    "load": "recemb.trained",
    "served_module": "recemb.compress.module",
}
"""Modules that are imported when they are asked for: with them come Lightning and all kinds."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


__all__ = [
    "EmbeddingCollection",
    "Embeddings",
    "Feature",
    "FeatureConfig",
    "Full",
    "Hashed",
    "IdSpace",
    "Jagged",
    "KeyedJagged",
    "LocalRowsStore",
    "PhysicalTable",
    "RecembError",
    "ResolvedFeature",
    "Schema",
    "TableConfig",
    "Trained",
    "Unified",
    "Vocabulary",
    "VocabularyConfig",
    "compress_module",
    "count_vocabulary",
    "fit",
    "load",
    "optim",
    "raw_ids",
    "read_vectors",
    "resolve_features",
    "served_module",
]
