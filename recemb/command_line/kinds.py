"""The verb ``kinds``: what kinds of tables there are."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from recemb.files import whole_file
from recemb.tables.registry import KINDS

TITLES = ("kind", "vector", "memory", "a budget chooses", "paper")
WIDEST = 120
"""Columns of text at most."""
LEAST = (0, 22, 16, 0, 16)
"""Columns that a cell keeps in a narrow terminal (0: it is not wrapped)."""


def described() -> list[dict[str, str]]:
    """Return every kind's description."""
    values = (
        (name, config.formula, config.memory, config.searched, config.paper)
        for name, config in KINDS.items()
    )
    return [dict(zip(TITLES, row, strict=True)) for row in values]


def run(arguments: list[str]) -> None:
    """Print the kinds of tables: how a vector is made, what it takes, and where it is from."""
    parser = argparse.ArgumentParser(prog="python -m recemb kinds", description=run.__doc__)
    parser.add_argument("--json", type=Path, help="where the same goes as JSON")
    options = parser.parse_args(arguments)
    kinds = described()
    if options.json is not None:
        with whole_file(options.json) as temporary:
            temporary.write_text(json.dumps(kinds, indent=2) + "\n")
    width = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    print(text_table(TITLES, [list(kind.values()) for kind in kinds], width))


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return a table whose cells are wrapped so that no line is longer than ``width``."""
    columns = list(zip(titles, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > width:
        # The widest column that may become narrower.
        able = [k for k, least in enumerate(LEAST) if least and widths[k] > least]
        if not able:
            break
        widths[max(able, key=lambda k: widths[k])] -= 1
    lines = []
    for row in (titles, ["-" * one for one in widths], *rows):
        cells = [textwrap.wrap(cell, one) for cell, one in zip(row, widths, strict=True)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = (part.ljust(one) for part, one in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
