"""The verb kinds, and the README's table of kinds."""

import json
from pathlib import Path

import pytest

from recemb.command_line.main import main
from recemb.tables.registry import KINDS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("columns", "widest"), [("100", 100), ("120", 120), ("300", 120)])
def test_every_kind_is_printed_within_the_terminal(columns, widest, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["kinds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= widest
    title, rule, *body = lines
    starts = [0] + [k + 1 for k in range(1, len(rule)) if rule[k - 1 : k + 1] == " -"]
    starts = [start if start == 0 else start - 1 for start in starts]
    ends = [*starts[1:], None]
    assert [title[a:b].strip() for a, b in zip(starts, ends, strict=True)] == [
        "kind", "vector", "memory", "a budget chooses", "paper",
    ]  # fmt: skip
    cells: list[list[str]] = []
    for line in body:
        parts = [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        if parts[0]:
            cells.append(parts)
        else:
            cells[-1] = [" ".join(both).strip() for both in zip(cells[-1], parts, strict=True)]
    assert cells == [
        [name, one.formula, one.memory, one.searched, one.paper] for name, one in KINDS.items()
    ]


def test_a_very_narrow_terminal_is_no_error(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["kinds"]) == 0
    assert "weighted_hash" in capsys.readouterr().out


def test_json_says_the_same(tmp_path):
    assert main(["kinds", "--json", str(tmp_path / "kinds.json")]) == 0
    kinds = {one["kind"]: one for one in json.loads((tmp_path / "kinds.json").read_text())}
    assert kinds.keys() == KINDS.keys()
    assert kinds["full"]["vector"] == "E[id]"
    assert kinds["full"]["a budget chooses"] == "dim"


def test_every_kind_says_what_it_is():
    for name, one in KINDS.items():
        assert all((one.formula, one.memory, one.searched, one.paper)), name


def test_the_readme_lists_every_kind():
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    start = rows.index(["kind", "vector", "what a budget chooses", "paper"]) + 1
    listed = [tuple(row) for row in rows[start : start + len(KINDS)]]
    assert listed == [
        (name, f"`{one.formula}`", f"`{one.searched}`", one.paper) for name, one in KINDS.items()
    ]
