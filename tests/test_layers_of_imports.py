"""The floors of the design: who may import whom, read from the source of every module."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module_of(path): path for path in sorted((ROOT / "recemb").rglob("*.py"))}
KINDS = {
    "adaptive", "candidate_dims", "codes", "compositional", "deduplicated", "deep_hash", "dpq",
    "dynamic", "full",
    "gated", "hashed", "matryoshka", "mgqe", "mixed_dim", "pruned", "robe", "selected",
        "soft_thresholded",
    "tensor_train", "thresholded", "unified", "weighted_hash", "flags", "frequency_blocks",
    "id_map",
    "numbered", "registry",
}  # fmt: skip


def _imported(name: str, source: str, is_package: bool) -> Iterator[str]:
    """Yield every imported name, dotted; ``from a import b`` as ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")
            base = above[: len(above) - node.level + is_package] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


IMPORTS = {
    module: set(_imported(module, path.read_text(), path.name == "__init__.py"))
    for module, path in FILES.items()
}


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _offenders(importer: str, *imported: str) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        if _within(module, importer)
        for name in sorted(names)
        if any(_within(name, one) for one in imported)
    ]


def test_the_sources_are_found() -> None:
    assert {"recemb.embeddings", "recemb.rows.local", "recemb.tables.full"} <= set(FILES)
    assert "recemb.rows.store.RowsStore" in IMPORTS["recemb.embeddings"]


def test_relative_imports_are_resolved() -> None:
    source = "from . import a\nfrom .b import c\nfrom ..d import e\nimport f.g"
    wanted = {"p.q.a", "p.q.b.c", "p.d.e", "f.g"}
    assert set(_imported("p.q.r", source, False)) == wanted
    assert set(_imported("p.q", source, True)) == wanted


@pytest.mark.parametrize(
    "package", ["recemb.models", "recemb.data", "models", "data", "tests", "benchmarks"]
)
def test_the_engine_never_imports_the_workbench(package: str) -> None:
    assert _offenders("recemb", package) == []


@pytest.mark.parametrize("package", ["recemb.rows", "recemb.embeddings", "recemb.compress"])
def test_tables_know_nothing_of_stores(package: str) -> None:
    assert _offenders("recemb.tables", package) == []


def test_rows_know_nothing_of_kinds() -> None:
    known = sorted(
        {module for module in FILES if _within(module, "recemb.tables")}
        - {"recemb.tables", "recemb.tables.kind"}
    )
    assert {f"recemb.tables.{kind}" for kind in KINDS} <= set(known)
    assert _offenders("recemb.rows", *known, "recemb.embeddings") == []


@pytest.mark.parametrize("package", ["torchrec", "fbgemm_gpu"])
def test_the_core_does_not_import_torchrec(package: str) -> None:
    for core in ("recemb.tables", "recemb.embeddings", "recemb.rows.local", "recemb.rows.store"):
        assert _offenders(core, package) == []


def test_no_circle_of_imports() -> None:
    def module(name: str) -> str | None:
        """Return the module that an imported name is or lies in."""
        parts = name.split(".")
        ends = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        return next((end for end in ends if end in FILES), None)

    graph = {
        importer: {one for one in map(module, names) if one and one != importer}
        for importer, names in IMPORTS.items()
    }
    # Raises CycleError, which names the modules of a circle.
    graphlib.TopologicalSorter(graph).prepare()
