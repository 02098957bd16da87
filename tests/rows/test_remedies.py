"""Remedies against arithmetic: each is the least that fits, and none is said that does not."""

from typing import Any

import pytest

from recemb.physical import PhysicalTable, zeros
from recemb.rows.optimizers import SGD, Adam
from recemb.rows.remedies import fits, remedies
from recemb.rows.world import RATES, World

GB = 10**9


def table(num_rows: int, **settings: Any) -> PhysicalTable:
    defaults: dict[str, Any] = {"dim": 25, "initializer": zeros, "reads": 1e-6}
    return PhysicalTable(num_rows=num_rows, **{**defaults, **settings})


def world(size: int, memory: int, local_size: int | None = None) -> World:
    return World(
        size=size,
        local_size=local_size or size,
        batch_size=1000,
        rates=RATES["cuda"],
        memory_bytes=memory,
        share=1.0,
    )


def test_more_processes():
    # 100 bytes a row; 100 GB over 30 GB each: 4 processes, and 2 machines of 3 are 6.
    physical = {"user": table(GB)}
    assert remedies(physical, SGD(), world(2, 30 * GB))[0] == "4 processes"
    assert remedies(physical, SGD(), world(3, 30 * GB, local_size=1))[0] == "4 processes"
    assert remedies(physical, SGD(), world(2, 15 * GB, local_size=1))[0] == "7 processes"
    assert remedies(physical, SGD(), world(6, 15 * GB, local_size=3))[0] == "9 processes"


def test_a_forced_sharding():
    physical = {"user": table(GB, sharding="table_wise"), "item": table(10, sharding="row_wise")}
    found = remedies(physical, SGD(), world(4, 30 * GB))
    assert found[0] == "sharding row_wise of table 'user' and not table_wise"
    assert not any("processes" in one for one in found)


def test_several_forced_shardings():
    physical = {name: table(GB, sharding="table_wise") for name in ("user", "item", "shop")}
    # 300 GB over 4 processes of 80 GB: none of the three may stay whole.
    found = remedies(physical, SGD(), world(4, 80 * GB))
    assert found[0].count("and not table_wise") == 3


def test_one_number_of_state_per_row():
    # 100 bytes of rows, 200 of moments or 4: 300 GB, or 104 GB, over 110 GB.
    found = remedies({"user": table(GB)}, Adam(), world(1, 110 * GB))
    assert "rows_optimizer of kind rowwise_adagrad, with one number per row" in found
    found = remedies({"user": table(GB)}, Adam(), world(1, 100 * GB))
    assert not any("rowwise" in one for one in found)


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (60, "precision fp16 of table 'user'"),  # 50 bytes a row
        (40, "precision int8, step row, of table 'user'"),  # 25 and 4
        (20, "precision int4, step row, of table 'user'"),  # 13 and 4
    ],
)
def test_the_precision_that_changes_least(memory, said):
    physical = {"user": table(GB), "item": table(1000)}
    assert said in remedies(physical, SGD(), world(1, memory * GB))


def test_the_precision_of_all_tables_where_one_is_not_enough():
    physical = {"user": table(GB), "item": table(GB - 1)}
    found = remedies(physical, SGD(), world(1, 101 * GB))
    assert "precision fp16 of all tables" in found


def test_fewer_rows():
    found = remedies({"user": table(GB)}, SGD(), world(1, 50 * GB))
    (said,) = [one for one in found if "budget" in one]
    assert said.startswith("a kind with fewer rows for table 'user': a budget of 49.9")
    assert "(now 1,000,000,000)" in said


def test_all_together_where_nothing_alone_is_enough():
    # 600 TB over processes of 2 GB: 17 bytes and 4 of state a row are 42 TB, 21,000 processes.
    assert remedies({"user": table(2_000 * GB)}, Adam(), world(1, 1)) == []
    found = remedies({"user": table(100 * GB), "item": table(100 * GB)}, Adam(), world(1, 2 * GB))
    # 2 x 100 G x 21 bytes / 2 GB = 2,100; a batch takes a few bytes more.
    assert found == [
        "precision int4, step row, of all tables with rows_optimizer rowwise_adagrad and 2101 "
        "processes together"
    ]


def test_the_network_takes_room_too():
    physical = {"user": table(GB)}
    assert fits(physical, SGD(), world(1, 110 * GB), dense_bytes=5 * GB)
    assert not fits(physical, SGD(), world(1, 110 * GB), dense_bytes=15 * GB)
