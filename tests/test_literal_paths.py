"""Paths are literal: no reader of a user's file expands ``*``, ``?`` or ``[1]`` in its name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("recemb", "data", "models", "benchmarks")
READERS = {f"pl.{how}_{what}" for how in ("read", "scan") for what in ("parquet", "csv", "lines")}


def calls(path: Path) -> Iterator[tuple[int, set[str | None]]]:
    """Yield line and keywords of every call of a reader of polars; ``glob=True`` is none."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS:
            keywords = {one.arg: ast.unparse(one.value) for one in node.keywords}
            yield (
                node.lineno,
                {one for one in keywords if one != "glob" or keywords[one] == "False"},
            )


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_reader_of_polars_takes_paths_as_they_are(folder: str) -> None:
    # A keyword of no name is a dictionary of options, which one module shares among its readers.
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, keywords in calls(path)
        if not keywords & {"glob", None}
    ]
    assert wrong == []
