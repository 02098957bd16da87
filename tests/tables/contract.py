"""What every table kind must do, whatever it stores.

A kind's test class inherits :class:`TableContract` and says, in plain Python, which rows an id
reads and what they make (:class:`tests.tables.case.Case`). From these two every expected value
follows.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from recemb.errors import RecembError
from recemb.tables.registry import KINDS, table_config
from tests.tables.contract_bytes import BytesContract
from tests.tables.contract_device import DeviceContract
from tests.tables.contract_reading import ReadingContract
from tests.tables.contract_serving import ServingContract
from tests.tables.contract_training import TrainingContract
from tests.tables.helpers import SPACES, as_tensor, bags, embeddings, feature, ids

__all__ = ["SPACES", "TableContract", "as_tensor", "bags", "embeddings", "feature", "ids"]

Bad = Sequence[tuple[Mapping[str, Any], str]]
"""Changes of settings, and how the message goes on after the table's name."""


class SettingsContract:
    """Settings out of range are refused by the table's name."""

    settings: Mapping[str, Any]
    bad: Bad = ()
    """Refused settings of the kind, and how the message goes on after the table's name."""

    def test_bad_settings_are_refused_by_the_tables_name(self) -> None:
        unknown = ({"hight": 3}, f"kind {self.settings['kind']} has no setting 'hight'; it has [")
        for change, message in [*self.bad, unknown]:
            with pytest.raises(RecembError, match=f"^table 'ads': {re.escape(message)}"):
                table_config("ads", {**self.settings, **change})

    def test_common_settings_are_checked(self) -> None:
        for change, message in (
            ({"dim": 0}, "dim must be at least 1, got 0"),
            ({"init_scale": 0.0}, "init_scale must be above 0, got 0.0"),
            ({"init_scale": math.nan}, "init_scale must be above 0, got nan"),
            ({"precision": "int3"}, "precision must be one of ['fp32', 'fp16', 'bf16', 'int16', "),
            ({"precision": "uint8"}, "precision must be one of ['fp32', "),
            ({"step": "column"}, "step must be one of ['table', 'row', 'learned'], got 'column'"),
            ({"precision": "fp16", "step": "row"}, "step='row' needs one of the precisions ['int1"),
            ({"project": 0}, "project must be at least 1, got 0"),
            ({"sharding": "rows"}, "sharding must be one of ['data_parallel', 'row_wise', "),
            (
                {"share": 0.5, "budget": "1 kB"},
                "give a budget or a share and not both, got budget='1 kB' and share=0.5",
            ),
        ):
            with pytest.raises(RecembError, match=f"^table 'ads': {re.escape(message)}"):
                table_config("ads", {**self.settings, **change})

    def test_budgets_out_of_range_are_refused(self) -> None:
        searched = KINDS[self.settings["kind"]].searched
        settings = {name: one for name, one in self.settings.items() if name != searched}
        settings["dim"] = self.settings["dim"]
        for change, message in (
            ({"share": 0.0}, "share must be above 0 and at most 1, got 0.0"),
            ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
            ({"share": math.nan}, "share must be above 0 and at most 1, got nan"),
            ({"budget": "ten"}, "a budget must be a number of bytes of at least 1, such as 160000"),
            ({"budget": 0}, "a budget must be a number of bytes of at least 1, such as 160000"),
            ({"budget": "0.5 B"}, "a budget must be a number of bytes of at least 1, such as 160"),
        ):
            with pytest.raises(RecembError, match=f"^table 'ads': {re.escape(message)}"):
                table_config("ads", {**settings, **change})

    def test_a_size_and_a_budget_are_too_much(self) -> None:
        searched = KINDS[self.settings["kind"]].searched
        if searched == "dim" or searched not in self.settings:
            return
        for change in ({"share": 0.5}, {"budget": "1 MB"}):
            message = f"takes {searched} or the share or budget that chooses it, got {searched}="
            with pytest.raises(RecembError, match=f"^table 'ads': kind .* {re.escape(message)}"):
                table_config("ads", {**self.settings, **change})


class TableContract(
    ReadingContract,
    TrainingContract,
    BytesContract,
    ServingContract,
    DeviceContract,
    SettingsContract,
):
    """The whole of it."""
