"""The registry: kinds are found, and mistakes in settings name the table."""

import importlib
from pathlib import Path

import pytest

from recemb.errors import RecembError
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.tables.registry import KINDS, table_config
from recemb.tables.unified import Unified
from tests.tables.contract import TableContract


def test_kinds_are_found_by_name() -> None:
    assert (KINDS["full"], KINDS["hashed"], KINDS["unified"]) == (Full, Hashed, Unified)


def test_the_abstract_configuration_is_no_kind() -> None:
    assert "TableConfig" not in {kind.__name__ for kind in KINDS.values()}


def test_each_kind_is_registered_under_its_literal() -> None:
    for name, kind in KINDS.items():
        settings = {"dim": 4} | ({"num_rows": 5} if name in ("hashed", "unified") else {})
        assert kind(**settings).kind == name


def test_every_kind_is_under_the_contract() -> None:
    """No kind is exempt: a new one without a test class fails here."""
    folder = Path(__file__).parent
    for path in folder.glob("test_*.py"):
        importlib.import_module(f"tests.tables.{path.stem}")
    found, left = set(), [TableContract]
    while left:
        one = left.pop()
        left += one.__subclasses__()
        if one.__name__.startswith("Test"):
            found.add(one.settings["kind"])
    assert found == set(KINDS)


def test_settings_become_fields() -> None:
    config = table_config("ads", {"kind": "hashed", "dim": 8, "num_rows": 9, "num_hashes": 2})
    assert config == Hashed(dim=8, num_rows=9, num_hashes=2)


def test_kind_is_full_unless_told() -> None:
    assert table_config("ads", {"dim": 8}) == Full(dim=8)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(
        RecembError,
        match=r"^table 'ads': kind must be one of \[.*'full', .*'unified'.*\], got 'fulll'$",
    ):
        table_config("ads", {"kind": "fulll", "dim": 8})


def test_misspelt_setting_is_refused() -> None:
    with pytest.raises(
        RecembError,
        match=r"^table 'ads': kind full has no setting 'dimm'; it has \['budget', 'dim', 'init",
    ):
        table_config("ads", {"kind": "full", "dimm": 8})


def test_missing_setting_is_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': kind unified needs 'dim'; set it$"):
        table_config("ads", {"kind": "unified", "num_rows": 8})


def test_missing_dim_is_refused() -> None:
    with pytest.raises(RecembError, match=r"^table 'ads': kind full needs 'dim'; set it$"):
        table_config("ads", {"kind": "full"})


def test_a_number_that_is_none_names_the_table_and_the_setting():
    with pytest.raises(RecembError, match=r"^table 'user': dim must be a number, got 'q'$"):
        table_config("user", {"kind": "full", "dim": "q"})
