"""The deep hash kind: a network over many hashes of an id, and no table."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.hashing import salt_of
from recemb.tables.deep_hash import DeepHash, hash_codes
from tests.tables.contract import TableContract, as_tensor, bags, embeddings, feature, ids
from tests.tables.helpers import Stored, mixed, stored

PRIME = 2**31 - 1


def code_of(key: int, place: int, num_buckets: int) -> int:
    """Return the bucket that hash ``place`` of a mixed id falls in, in plain integers."""
    a, b, c = (((mixed(3 * place + n) >> 33) & (2**30 - 1)) | 1 for n in range(3))
    low, high = key & PRIME, (key >> 31) & PRIME
    return (low * a + high * b + c) % PRIME % num_buckets


class DeepHashContract(TableContract):
    """The contract with the oracle of the kind.

    A batch norm makes a vector of a training batch depend on the batch, so vectors and gradients
    are those of evaluation, where moving averages serve; training has tests of its own below.
    """

    modes = (False,)
    trains_in = False
    num_rows = 0
    takes_raw = True
    is_fine = False
    """At 3 %, a unit of width more is 14 %."""
    served_bytes = (12 * 5 + 4 * 5 * 5 + 5 * 4 * 5 + 5 * 6 + 6) * 4 + 5 * 8
    """Five linear layers and norms of 4 vectors, the output, and five int64 counters."""
    bad = [
        ({"width": 0}, "width must be in 1..65536, got 0"),
        ({"num_hashes": 0}, "num_hashes must be in 1..1048576, got 0"),
        ({"num_buckets": 1}, "num_buckets must be in 2..2147483646, got 1"),
        ({"num_buckets": 2**31}, "num_buckets must be in 2..2147483646, got 2147483648"),
        (
            {"codes": "normal", "num_hashes": 7},
            "normal codes come in pairs, so num_hashes must be even, got 7",
        ),
        (
            {"precision": "int8"},
            "kind deep_hash stores no rows, so it has no precision, got 'int8'",
        ),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {}

    def codes(self, key: int) -> list[float]:
        """Return the network's inputs for a mixed id."""
        k, m = self.settings["num_hashes"], self.settings.get("num_buckets", 10**6)
        uniform = [code_of(key, place, m) / (m - 1) for place in range(k)]
        if self.settings.get("codes", "uniform") == "uniform":
            return [2 * one - 1 for one in uniform]
        pairs = list(zip(uniform[: k // 2], uniform[k // 2 :], strict=True))
        radius = [math.sqrt(-2 * math.log(max(one, 1e-7))) for one, _ in pairs]
        angle = [2 * math.pi * two for _, two in pairs]
        both = list(zip(radius, angle, strict=True))
        return [r * math.cos(a) for r, a in both] + [r * math.sin(a) for r, a in both]

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        state = held.learned
        values = torch.tensor(self.codes(mixed(key + salt_of(table, space))))
        for layer in range(5):
            norm = {
                name: state[f"norms.{layer}.{name}"]
                for name in ("running_mean", "running_var", "weight", "bias")
            }
            values = state[f"linears.{layer}.weight"] @ values
            values = (values - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt()
            values = values * norm["weight"] + norm["bias"]
            values = values * torch.tanh(torch.log1p(values.exp()))
        return state["output.weight"] @ values + state["output.bias"]

    def prepared(self, module: Embeddings) -> Embeddings:
        """Give the norms the averages of all ids; fresh ones are 0 and 1."""
        for norm in module.modules():
            if isinstance(norm, torch.nn.BatchNorm1d):
                norm.momentum = None
        keys = {one.name: list(range(one.space.num_ids or 9)) for one in module.features}
        lists = [one.name for one in module.features if one.is_list]
        module.train()(
            {name: bags([own]) if name in lists else ids(own) for name, own in keys.items()}
        )
        return module


class TestUniform(DeepHashContract):
    settings = {"kind": "deep_hash", "dim": 6, "width": 5, "num_hashes": 12}


class TestNormal(DeepHashContract):
    settings = {
        "kind": "deep_hash",
        "dim": 6,
        "width": 5,
        "num_hashes": 12,
        "codes": "normal",
        "num_buckets": 1000,
    }


@pytest.mark.parametrize("num_buckets", [2, 10, 10**6, 2**31 - 2])
def test_codes_stay_in_range_for_huge_ids(num_buckets: int) -> None:
    """A public port multiplies in 32 bits, overflows, and leaves -1..1."""
    config = DeepHash(dim=4, num_hashes=64, num_buckets=num_buckets)
    edges = [0, 1, -1, 2**31 - 1, 2**31, 2**32, -(2**63), 2**63 - 1, -(2**62), 2**62 - 1]
    codes = hash_codes(ids(edges), config)
    assert codes.shape == (10, 64)
    assert (codes.abs() <= 1).all()
    for place, key in enumerate(edges):
        wanted = [2 * code_of(key, j, num_buckets) / (num_buckets - 1) - 1 for j in range(64)]
        torch.testing.assert_close(codes[place], torch.tensor(wanted), rtol=1e-6, atol=1e-6)


def test_hash_constants_leave_room_for_the_sum_of_products() -> None:
    for place in range(3 * 1024):
        constant = ((mixed(place) >> 33) & (2**30 - 1)) | 1
        assert 0 < constant < 2**30
    # Two products of 31 and 30 bits and a constant.
    assert 2 * (2**31 - 1) * (2**30 - 1) + 2**30 < 2**63


def test_codes_spread_evenly_and_independently() -> None:
    keys = ids([mixed(key) - 2**63 for key in range(4000)])
    codes = hash_codes(keys, DeepHash(dim=4, num_hashes=16))
    # Uniform in -1..1: mean 0 and variance 1 / 3, correlations of about 1 / sqrt(4000).
    assert codes.mean(0).abs().max() < 0.05
    assert (codes.var(0) - 1 / 3).abs().max() < 0.03
    correlation = torch.corrcoef(codes.T) - torch.eye(16)
    assert correlation.abs().max() < 0.08
    normal = hash_codes(keys, DeepHash(dim=4, num_hashes=16, codes="normal"))
    assert normal.mean(0).abs().max() < 0.08
    assert (normal.var(0) - 1).abs().max() < 0.12
    assert (torch.corrcoef(normal.T) - torch.eye(16)).abs().max() < 0.08


def test_training_normalises_over_distinct_ids() -> None:
    config = DeepHash(dim=6, width=5, num_hashes=12)
    once = embeddings({"ads": config}, [feature("one", "ads")]).train()
    often = embeddings({"ads": config}, [feature("one", "ads")]).train()
    few = as_tensor(once({"one": ids([3, 8, 21])})["one"])
    many = as_tensor(often({"one": ids([8, 3, 3, 21, 3, 8])})["one"])
    torch.testing.assert_close(many, few[[1, 0, 0, 2, 0, 1]], rtol=1e-5, atol=1e-7)
    for name, buffer in stored(once).learned.items():
        torch.testing.assert_close(stored(often).learned[name], buffer, rtol=1e-5, atol=1e-7)


def test_training_uses_the_batchs_own_statistics() -> None:
    module = embeddings({"ads": DeepHash(dim=6, width=5, num_hashes=12)}, [feature("one", "ads")])
    held = stored(module).learned
    keys = [3, 8, 21, 40]
    got = as_tensor(module.train()({"one": ids(keys)})["one"])
    salt = salt_of("ads", "item")
    values = torch.tensor(
        [
            [2 * code_of(mixed(k + salt), j, 10**6) / (10**6 - 1) - 1 for j in range(12)]
            for k in keys
        ]
    )
    for layer in range(5):
        values = values @ held[f"linears.{layer}.weight"].T
        values = (values - values.mean(0)) / (values.var(0, correction=0) + 1e-5).sqrt()
        values = values * torch.tanh(torch.log1p(values.exp()))
    wanted = values @ held["output.weight"].T + held["output.bias"]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_training_batch_of_one_id_is_finite_and_moves_no_average() -> None:
    module = embeddings(
        {"ads": DeepHash(dim=6, width=5, num_hashes=12)}, [feature("b", "ads", pooling="sum")]
    )
    before = stored(module).learned
    got = as_tensor(module.train()({"b": bags([[7, 7], []])})["b"])
    assert got.isfinite().all()
    got.sum().backward()
    for name, value in stored(module).learned.items():
        assert torch.equal(value, before[name]), name


def test_nothing_is_stored_per_id() -> None:
    module = embeddings({"ads": DeepHash(dim=6, width=5, num_hashes=12)}, [feature("one", "ads")])
    assert module.rows.tables() == {}
