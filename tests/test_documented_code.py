"""The code in README and docs/library.md runs, word for word, and does what is said of it."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    """Return the Python of a page, block by block."""
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.S)


README, *_ = blocks("README.md")


def test_the_first_screen_trains_tables_and_a_network_in_fifteen_lines(capsys) -> None:
    assert len([line for line in README.splitlines() if line.strip()]) <= 15
    torch.manual_seed(1)
    exec(README, {})
    # Guessing a half would have a quarter.
    assert float(capsys.readouterr().out.removeprefix("loss ")) < 0.1


@pytest.mark.filterwarnings("ignore:.*torchrec", "ignore::DeprecationWarning")
@pytest.mark.parametrize("number", range(len(blocks("docs/library.md"))))
def test_the_page_of_the_library_runs(number: int) -> None:
    code = blocks("docs/library.md")[number]
    if "torchrec" in code:
        pytest.importorskip("torchrec")
    exec(code, {})


def test_the_page_shows_the_first_screen() -> None:
    assert blocks("docs/library.md")[0] == README
