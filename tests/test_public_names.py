"""The public surface, frozen: a change here is a change that users see."""

import recemb
from recemb.command_line.main import USAGE
from recemb.tables.registry import KINDS

NAMES = {
    "EmbeddingCollection", "Embeddings", "Feature", "FeatureConfig", "Full", "Hashed", "IdSpace",
    "Jagged", "KeyedJagged", "LocalRowsStore", "PhysicalTable", "RecembError", "ResolvedFeature",
    "Schema", "TableConfig", "Trained", "Unified", "Vocabulary", "VocabularyConfig",
    "compress_module", "count_vocabulary", "fit", "load", "optim", "raw_ids", "resolve_features",
    "read_vectors", "served_module",
}  # fmt: skip


def test_names_of_the_package():
    assert set(recemb.__all__) == NAMES
    assert all(hasattr(recemb, name) for name in NAMES)


def test_kinds():
    assert set(KINDS) == {
        "adaptive", "candidate_dims", "codes", "compositional", "deduplicated", "deep_hash", "dpq",
        "dynamic", "full",
        "gated", "hashed", "matryoshka", "mgqe", "mixed_dim", "pruned", "robe", "selected",
        "soft_thresholded",
        "tensor_train", "thresholded", "unified", "weighted_hash",
    }  # fmt: skip


def test_verbs():
    lines = [line.split() for line in USAGE.splitlines() if line.startswith("  ")]
    assert [words[0] for words in lines] == [
        "init", "fit", "validate", "test", "predict", "plan", "search", "sweep", "report",
        "compress", "export", "index", "recommend", "vectors", "show", "kinds",
    ]  # fmt: skip
