"""Differentiable product quantisation: codes and codebook learned together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from recemb.rows.optimizers import SGD
from recemb.tables.dpq import DPQ
from recemb.tables.kind import TableConfig
from tests.tables.contract import TableContract, as_tensor, bags, embeddings, feature, ids
from tests.tables.contract_training import KEYS, LISTS, USERS
from tests.tables.helpers import Stored, grads_of, stored


def nearest(query: Tensor, keys: Tensor) -> int:
    """Return which key has the smallest squared distance."""
    query, keys = query.detach(), keys.detach()
    distances = [float(((query - key) ** 2).sum()) for key in keys]
    return distances.index(min(distances))


class DPQContract(TableContract):
    """The contract with the oracle of the kind; three parts of two elements, eight keys."""

    num_rows = 70
    served_bytes = 70 * 2 + 3 * 8 * 2 * 4
    """Nine bits are two bytes."""
    is_fine = False
    """Codes take whole bytes: a byte more of 8,000 ids is 8 kB."""
    bad: Sequence[Any] = [
        ({"num_parts": 4}, "num_parts must divide dim=6, got 4; possible are [1, 2, 3, 6]"),
        ({"num_keys": 12}, "num_keys must be a power of two in 2..256, got 12"),
        ({"num_keys": 1}, "num_keys must be a power of two in 2..256, got 1"),
        ({"commitment": -0.1}, "commitment must be at least 0, got -0.1"),
    ]
    key_counts = [2**bits for bits in range(1, 9)]
    """That a budget may choose among."""

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"queries": [self.number(space, key)]}

    def budget_settings(self) -> Mapping[str, Any]:
        settings = dict(super().budget_settings())
        settings.pop("num_keys")
        return settings

    def larger(self, config: TableConfig) -> list[TableConfig]:
        """Return all whose codes have more bits, however cut in parts."""
        assert isinstance(config, DPQ)
        return [
            option
            for parts in (1, 2, 4, 8, 16, 32)
            for keys in self.key_counts
            if (option := replace(config, num_parts=parts, num_keys=keys)).code_bits
            > config.code_bits
        ]


class TestVQ(DPQContract):
    settings = {"kind": "dpq", "dim": 6, "num_parts": 3, "num_keys": 8}
    left_loss = 0.5
    """Keys follow the queries by the loss alone."""

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (query,) = rows["queries"]
        keys = held.learned["keys_PKd"]
        cut = query.reshape(len(keys), -1)
        return torch.cat([keys[p, nearest(cut[p], keys[p])] for p in range(len(keys))])

    def compose_in_training(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        # The gradient passes straight through to the query; keys learn by the loss alone.
        (query,) = rows["queries"]
        value = self.compose(table, held, space, key, rows)
        return query + (value - query).detach()


class TestVQOfSingleElements(TestVQ):
    """Parts of one element, whose nearest key is found by halving."""

    settings = {"kind": "dpq", "dim": 6, "num_parts": 6, "num_keys": 8}
    served_bytes = 70 * 3 + 6 * 8 * 4
    """18 bits are three bytes."""


class TestVQInt8(TestVQ):
    """Queries in low precision; what is served is the same."""

    settings = {"kind": "dpq", "dim": 6, "num_parts": 3, "num_keys": 8, "precision": "int8"}
    rate = 0.02


class TestSX(DPQContract):
    """Responses are normalised over the training batch, so vectors are those of evaluation."""

    modes = (False,)
    settings = {"kind": "dpq", "dim": 6, "num_parts": 3, "num_keys": 8, "response": "sx"}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (query,) = rows["queries"]
        keys, own = held.learned["keys_PKd"], held.learned["own_PKd"]
        mean = held.learned["norm.running_mean"].reshape(3, 8)
        variance = held.learned["norm.running_var"].reshape(3, 8)
        parts = []
        for p in range(3):
            dots = [float(query[2 * p : 2 * p + 2] @ keys[p, k]) for k in range(8)]
            scores = [
                (dot - float(mean[p, k])) / (float(variance[p, k]) + 1e-5) ** 0.5
                for k, dot in enumerate(dots)
            ]
            parts.append(own[p, scores.index(max(scores))])
        return torch.cat(parts)

    def expected_loss(self, held: Stored) -> Tensor:
        """Return the loss of training: hard forward, the gradient of the softmax."""
        singles = [("item", key) for key in KEYS] + [("user", key) for key in USERS]
        one = self.trained(held, singles)
        pooled = self.trained(held, [("item", key) for bag in LISTS for key in bag])
        means, start = [], 0
        for bag in LISTS:
            means.append(pooled[start : start + len(bag)].sum(0) / max(1, len(bag)))
            start += len(bag)
        return ((one[:3] + torch.stack(means) - one[3:]) * self.weights()).sum()

    def trained(self, held: Stored, ids_of_spaces: list[tuple[str, int]]) -> Tensor:
        """Return the vectors of ids that are normalised together."""
        queries = torch.stack([held.rows["queries"][self.number(*one)] for one in ids_of_spaces])
        parts = []
        for p in range(3):
            dots = queries[:, 2 * p : 2 * p + 2] @ held.learned["keys_PKd"][p].T
            centered = dots - dots.mean(0)
            scores = centered / (centered.square().mean(0) + 1e-5).sqrt()
            soft = scores.exp() / scores.exp().sum(1, keepdim=True)
            hard = torch.zeros_like(soft)
            hard[range(len(soft)), soft.argmax(1)] = 1
            parts.append((soft + (hard - soft).detach()) @ held.learned["own_PKd"][p])
        return torch.cat(parts, 1)


def test_loss_draws_keys_and_queries_together() -> None:
    module = embeddings(
        {"ads": DPQ(dim=6, num_parts=3, num_keys=8, commitment=0.25)},
        [feature("one", "ads")],
        SGD(learning_rate=1.0),
    )
    before = stored(module)
    keys, chosen = [3, 8, 3], []
    module({"one": ids(keys)})
    loss = module.loss()
    queries, codebook = before.rows["queries"], before.learned["keys_PKd"]
    values = torch.zeros(3, 6)
    for row, key in enumerate(keys):
        for p in range(3):
            code = nearest(queries[key, 2 * p : 2 * p + 2], codebook[p])
            values[row, 2 * p : 2 * p + 2] = codebook[p, code]
            chosen.append((row, p, code))
    difference = values - queries[keys]
    # Mean over all 18 elements; the distance counts once for the keys, a quarter for the queries.
    torch.testing.assert_close(loss, 1.25 * difference.square().mean())
    assert isinstance(loss, Tensor)
    loss.backward()
    module.step()
    wanted = torch.zeros_like(codebook)
    for row, p, code in chosen:
        wanted[p, code] += 2 * difference[row, 2 * p : 2 * p + 2] / 18
    torch.testing.assert_close(grads_of(module)["keys_PKd"], wanted)
    moved = torch.zeros_like(queries)
    for row, key in enumerate(keys):
        moved[key] += 0.25 * 2 * difference[row] / 18
    torch.testing.assert_close(stored(module).rows["queries"], queries + moved)


def test_loss_is_told_once_and_in_training_only() -> None:
    module = embeddings({"ads": DPQ(dim=6, num_parts=3, num_keys=8)}, [feature("one", "ads")])
    with torch.no_grad():
        module({"one": ids([3])})
        assert module.loss() > 0
        assert module.loss() == 0
        module.eval()({"one": ids([3])})
        assert module.loss() == 0


@pytest.mark.parametrize("response", ["vq", "sx"])
def test_a_batch_without_ids_has_no_loss(response: str) -> None:
    config = DPQ(dim=6, num_parts=3, num_keys=8, response=response)  # type: ignore[arg-type]
    module = embeddings({"ads": config}, [feature("list", "ads", pooling="sum")])
    got = as_tensor(module({"list": bags([[], []])})["list"])
    assert got.tolist() == [[0.0] * 6] * 2
    assert torch.as_tensor(module.loss()).item() == 0


@pytest.mark.parametrize("response", ["vq", "sx"])
def test_every_row_is_encoded_anew_for_serving(response: str) -> None:
    """A public implementation writes the codes of ids that were met since the last update."""
    config = DPQ(dim=6, num_parts=3, num_keys=8, response=response)  # type: ignore[arg-type]
    module = embeddings(
        {"ads": config}, [feature("one", "ads"), feature("who", "ads", space="user")]
    )
    module.served()
    # Keys move although most ids are never met.
    for _ in range(20):
        got = module({"one": ids([0, 1, 2]), "who": ids([0])})
        (as_tensor(got["one"]).sum() + module.loss()).backward()
        module.step()
    learned = module.learned["table_ads"]
    with torch.no_grad():
        learned.keys_PKd.copy_(learned.keys_PKd.roll(1, 1) + 0.01)
    module.eval()
    everything = {"one": ids(range(50)), "who": ids(range(20))}
    wanted, got = module(everything), module.served()(everything)
    for name, vectors in wanted.items():
        assert torch.equal(as_tensor(got[name]), as_tensor(vectors))
    assert len(as_tensor(wanted["one"]).unique(dim=0)) > 20


@pytest.mark.parametrize("response", ["vq", "sx"])
def test_many_rows_are_encoded_in_chunks(
    response: Literal["vq", "sx"], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DPQ(dim=6, num_parts=3, num_keys=8, response=response)
    module = embeddings(
        {"ads": config}, [feature("one", "ads"), feature("who", "ads", space="user")]
    )
    whole = module.served().rows.tables()["ads"].clone()
    monkeypatch.setattr("recemb.tables.dpq.CHUNK_RESPONSES", 7 * 24)
    assert torch.equal(module.served().rows.tables()["ads"], whole)


def test_vq_trained_and_served_sizes() -> None:
    module = embeddings({"ads": DPQ(dim=32, num_parts=8)}, [feature("one", "ads", space="items")])
    assert module.tables["ads"].num_keys == 256  # type: ignore[attr-defined]
    # Trained: the full table; served: a byte per part and 256 keys.
    assert module.rows.tables()["ads"].shape == (5000, 32)
    assert module.served().rows.tables()["ads"].shape == (5000, 8)
