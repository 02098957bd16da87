"""Paths: one rule for where data is looked for, the current folder before the data's root."""

from pathlib import Path

import pytest

from recemb.errors import RecembError
from recemb.paths import find


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the current folder and the data's root, both empty."""
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here, root):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("RECEMB_DATA", str(root))
    monkeypatch.setenv("HOME", str(tmp_path))
    return here, root


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")


def test_the_current_folder_comes_before_the_root(places: tuple[Path, Path]) -> None:
    here, root = places
    put(root / "shop" / "a.csv")
    assert find("shop/a.csv") == root / "shop" / "a.csv"
    put(here / "shop" / "a.csv")
    assert find("shop/a.csv").resolve() == here / "shop" / "a.csv"
    assert find(Path("shop")).resolve() == here / "shop"


def test_absolute_paths_and_those_of_home_are_looked_for_nowhere_else(
    places: tuple[Path, Path],
) -> None:
    here, root = places
    put(here / "a.csv")
    put(here.parent / "b.csv")
    assert find(here / "a.csv") == here / "a.csv"
    assert find("~/b.csv") == here.parent / "b.csv"
    with pytest.raises(RecembError) as refused:
        find(here / "gone.csv")
    assert str(refused.value) == f"{here}/gone.csv: there is no such file; check the path"
    assert str(root) not in str(refused.value)


def test_both_tried_paths_are_named(places: tuple[Path, Path]) -> None:
    here, root = places
    with pytest.raises(RecembError) as refused:
        find("shop", "train.csv", "test.csv")
    assert str(refused.value) == (
        f"{here}/shop/train.csv: there is no such file, nor {root}/shop/train.csv; check the path "
        "(relative paths are of the current folder or RECEMB_DATA)"
    )


def test_a_folder_that_only_has_the_name_is_passed_over(places: tuple[Path, Path]) -> None:
    here, root = places
    put(here / "shop" / "notes.txt")
    put(root / "shop" / "test.csv")
    assert find("shop", "train.csv", "test.csv") == root / "shop"
    assert find("shop").resolve() == here / "shop"


def test_paths_are_literal(places: tuple[Path, Path]) -> None:
    here, _ = places
    put(here / "shop1" / "a.csv")
    for pattern in ("shop[1]", "shop*", "shop?"):
        with pytest.raises(RecembError, match="there is no such file"):
            find(pattern)
        put(here / pattern / "a.csv")
        assert find(pattern).resolve() == here / pattern


@pytest.mark.parametrize("name", ["\0", "a" * 300, "~nobody-of-that-name/x"])
def test_impossible_names_are_refused(places: tuple[Path, Path], name: str) -> None:
    with pytest.raises(RecembError, match="there is no such"):
        find(name)
