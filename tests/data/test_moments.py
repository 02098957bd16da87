"""Moments of a number column: merged over row groups, in their order."""

import math
from pathlib import Path

import polars as pl
import pytest

from recemb.data.columns import Columns, IdColumn, NumberColumn
from recemb.data.files import TableFile
from recemb.data.schema import build_schema


@pytest.mark.parametrize("rows_per_group", [1, 2, 5, 100])
def test_moments_are_those_of_all_rows(rows_per_group: int, tmp_path: Path) -> None:
    # Mean 4; deviations 3, 2, 1, 0 and 6, whose squares have a mean of 10.
    rows = {"y": [0, 1, 0, 1, 0, 1], "u": [1, 2, 3, 4, 5, 6], "x": [1.0, 2.0, None, 3.0, 4.0, 10.0]}
    path = tmp_path / "train.parquet"
    pl.DataFrame(rows).write_parquet(path, row_group_size=rows_per_group)
    columns = Columns(
        label="y", categorical={"u": IdColumn()}, lists={}, dense={"x": NumberColumn()}
    )
    found = build_schema(TableFile(path), columns, None, tmp_path).dense["x"]
    assert found.mean == pytest.approx(4.0, rel=1e-15)
    assert found.scale == pytest.approx(math.sqrt(10.0), rel=1e-15)
