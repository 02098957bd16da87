"""Bytes counted by hand, and against what torch.save writes."""

import io

import pytest
import torch
from torch import Tensor, nn

from recemb.accounting import (
    module_bytes,
    nested_tensors,
    table_report,
    tensor_bytes,
    training_bytes,
)
from recemb.embeddings import Embeddings
from recemb.rows.optimizers import Adam
from recemb.tables.full import Full
from recemb.tables.hashed import Hashed
from recemb.tables.unified import Unified
from tests.tables.contract import as_tensor, embeddings, feature, ids


@pytest.fixture
def module() -> Embeddings:
    """Two tables of one width, 50 * 6 + 30 * 6 elements, and one of another, 10 * 4."""
    tables = {
        "own": Full(dim=6),
        "shared": Unified(dim=6, num_rows=30),
        "halves": Hashed(dim=8, num_rows=10, num_hashes=2, combine="concatenate"),
    }
    features = [
        feature("a", "own"),
        feature("b", "shared", lookups=2),
        feature("c", "shared"),
        feature("d", "halves"),
    ]
    return embeddings(tables, features, Adam(learning_rate=0.1))


ROW_ELEMENTS = 50 * 6 + 30 * 6 + 10 * 4


def _saved_bytes(value: object) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return len(file.getvalue())


def test_bytes_are_elements_times_size() -> None:
    tensors = [torch.zeros(3, 5), torch.zeros(7, dtype=torch.int64), torch.zeros(2).bool()]
    assert tensor_bytes(tensors) == 3 * 5 * 4 + 7 * 8 + 2


def test_views_count_once() -> None:
    flat = torch.zeros(10, 4)
    assert tensor_bytes([flat[:3], flat[3:], flat, flat.t()]) == 160


def test_a_view_counts_its_whole_storage() -> None:
    # It keeps all of it alive.
    assert tensor_bytes([torch.zeros(10, 4)[:1]]) == 160


def test_nothing_has_no_bytes() -> None:
    assert tensor_bytes([]) == 0


def test_shared_parameters_count_once() -> None:
    module = nn.ModuleList([nn.Linear(3, 5), nn.Linear(3, 5)])
    module[1].weight = module[0].weight
    assert module_bytes(module) == (3 * 5 + 5 + 5) * 4


def test_buffers_count() -> None:
    module = nn.BatchNorm1d(6)
    # weight, bias, running mean and variance, and an int64 counter.
    assert module_bytes(module) == 4 * 6 * 4 + 8


def test_nested_tensors_are_all_found() -> None:
    one, two, three = (torch.full((), float(n)) for n in (1, 2, 3))
    found = nested_tensors({"a": [one, 5, "text"], "b": ({"c": two}, None), "d": three})
    assert [float(tensor) for tensor in found] == [1, 2, 3]


def test_report_counts_each_tables_own_rows(module: Embeddings) -> None:
    assert table_report(module) == {
        "own": {"kind": "full", "num_rows": 50, "dim": 6, "bytes": 50 * 6 * 4},
        "shared": {"kind": "unified", "num_rows": 30, "dim": 6, "bytes": 30 * 6 * 4},
        "halves": {"kind": "hashed", "num_rows": 10, "dim": 8, "bytes": 10 * 4 * 4},
    }


def test_report_adds_up_to_what_is_saved(module: Embeddings) -> None:
    counted = sum(int(str(one["bytes"])) for one in table_report(module).values())
    assert counted == ROW_ELEMENTS * 4
    # A zip entry of under 1 kB for each of two storages and for each of a few small records.
    assert counted <= _saved_bytes(module.state_dict()) < counted + 8_000


def test_saved_size_follows_a_large_table() -> None:
    tables = {"ads": Unified(dim=16, num_rows=20_000)}
    large = embeddings(tables, [feature("a", "ads", lookups=3)])
    counted = 20_000 * 16 * 4
    assert table_report(large)["ads"]["bytes"] == counted
    assert abs(_saved_bytes(large.state_dict()) / counted - 1) < 0.005


class _Model(nn.Module):
    def __init__(self, module: Embeddings) -> None:
        super().__init__()
        self.embeddings = module
        self.last = nn.Linear(6, 1)

    def forward(self, keys: Tensor) -> Tensor:
        none = ids([])
        got = self.embeddings({"a": keys, "b": none, "c": none, "d": none})
        return self.last(as_tensor(got["a"])).sum()


def test_training_bytes_hold_rows_network_and_both_optimizers(module: Embeddings) -> None:
    model = _Model(module)
    dense = torch.optim.Adam(model.last.parameters())
    model(ids([1, 2])).backward()
    dense.step()
    module.step()
    # Two moments per element of a row, and the int64 step.
    rows_state = 2 * ROW_ELEMENTS * 4 + 8
    # Two moments per weight and an fp32 step for each of weight and bias.
    dense_state = 2 * 7 * 4 + 2 * 4
    # Rows are buffers too; the others are base rows, salts and the like.
    buffers = sum(one.numel() * one.element_size() for one in model.buffers())
    assert ROW_ELEMENTS * 4 < buffers < ROW_ELEMENTS * 4 + 1000
    wanted = 7 * 4 + buffers + rows_state + dense_state
    assert training_bytes(model, module, [dense]) == wanted
