"""Kinds of tables as methods: a table of another kind takes the place, and is trained anew."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from recemb.compress.method import Method, TrainedTable
from recemb.errors import RecembError
from recemb.tables.kind import TableConfig, TableContent
from recemb.tables.registry import table_config

BUDGETS = 1000
"""That are tried for a kind without a single free size."""


class Anew(Method):
    """Size: what a budget chooses of the kind. Vectors start as the kind starts them.

    Args:
        settings: ``kind`` and the fields of that kind; by default as wide as what it replaces.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.name = str(settings.get("kind"))

    def refusal(self, table: TrainedTable) -> str | None:
        """Return what the kind says against a table, such as that it cannot be so narrow."""
        try:
            config = self._asked(table)
            config.check(table.where)
            if has_free_size(config):
                config.free_sizes(table.where, table.spaces)
        except RecembError as error:
            return str(error).removeprefix(f"{table.where}: ")
        return None

    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the values that the kind's free size may take; else budgets that differ."""
        config = self._asked(table)
        if has_free_size(config):
            return config.free_sizes(table.where, table.spaces)
        ratio = table.num_bytes ** (1 / BUDGETS)
        asked = sorted({math.ceil(ratio**place) for place in range(1, BUDGETS + 1)})
        by_bytes: dict[int, int] = {}
        for budget in asked:
            with suppress(RecembError):  # too small for the kind
                by_bytes.setdefault(table.bytes_of(self.config(table, budget)), budget)
        return [by_bytes[count] for count in sorted(by_bytes)]

    def unsized(self) -> Any:
        """Return that the settings have the size."""
        return None

    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return the configuration of the kind; narrower vectors go through a learned matrix."""
        config, width = self._asked(table), table.content.config.dim
        if size is None:
            config = config.solve(table.where, table.spaces)
        elif has_free_size(config):
            config = replace(config, **{config.searched: size})
        else:
            config = replace(config, budget=size).solve(table.where, table.spaces)
        if config.output_dim(table.lookups) != width:
            config = replace(config, project=width)
        config.check(table.where)
        return config

    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Return a configuration that holds nothing yet."""
        return TableContent(config=self.config(table, size), values={}, learned=None)

    def _asked(self, table: TrainedTable) -> TableConfig:
        return table_config(table.name, {"dim": table.content.config.dim, **self.settings})


def has_free_size(config: TableConfig) -> bool:
    """Return whether a budget is solved by one size; other kinds choose several together."""
    return type(config).solve is TableConfig.solve
