"""The kind of candidate dims: rows read at several widths, and the heaviest width alone."""

import functools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from recemb.batch_norm import BatchNorm
from recemb.embeddings import Embeddings
from recemb.tables.candidate_dims import CandidateDims
from recemb.tables.kind import TableConfig
from recemb.tables.registry import table_config
from tests.tables.contract import TableContract, as_tensor, embeddings, feature, ids
from tests.tables.contract_bytes import DIM
from tests.tables.helpers import Stored


class CandidateDimsContract(TableContract):
    """The contract with the oracle of the kind.

    A batch norm makes a vector of a training batch depend on the batch, so here moving
    averages serve in training too; training has a test of its own below.
    """

    num_rows = 70
    is_fine = False
    """An element more of 8,000 ids is 3 % of the smallest budget, and a matrix more."""
    too_small = (0.03,)
    bad = [
        ({"candidates": [4, 2]}, "candidates must be widths in 1..6, ascending, got [4, 2]"),
        ({"candidates": [2, 7]}, "candidates must be widths in 1..6, ascending, got [2, 7]"),
        ({"candidates": []}, "candidates must be widths in 1..6, ascending, got []"),
    ]

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        return {"rows": [self.number(space, key)]}

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        (row,) = rows["rows"]
        state = held.learned
        weights = state["weight_K"].tolist()
        chosen = weights.index(max(weights))
        width = self.widths[chosen]
        values = state[f"maps.{chosen}.weight"] @ row[:width]
        mean, variance = (state[f"norms.{chosen}.running_{one}"] for one in ("mean", "var"))
        return (values - mean) / (variance + 1e-5).sqrt()

    def larger(self, config: TableConfig) -> list[TableConfig]:
        return super().larger(config) if config.dim < DIM else []

    def prepared(self, module: Embeddings) -> Embeddings:
        for one in module.learned.values():
            one.weight_K[self.chosen] = 1
            for norm in one.norms:
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(0.5, 2)
                # Its averages serve in training too, as in a batch that is too small.
                norm.forward = functools.partial(BatchNorm._by_moving_averages, norm)
        return module

    def test_vectors_start_in_the_scale(self) -> None:
        """Whatever that of the rows is, the norms give every element a deviation of 1."""
        for scale in (0.5, 0.05):
            config = table_config("ads", {**self.settings, "init_scale": scale})
            module = embeddings({"ads": config}, self.features()).train()
            vectors = as_tensor(module(self.asked(list(range(50))))["one"]).detach()
            assert float(vectors.std(correction=0)) == pytest.approx(1, abs=0.1)

    def test_everything_that_is_stored_is_trained(self, module: Embeddings) -> None:
        """In a search: otherwise the chosen candidate is all that is read."""
        for one in module.learned.values():
            one.temperature = 1.0
        super().test_everything_that_is_stored_is_trained(module)


class TestAllWidths(CandidateDimsContract):
    settings = {"kind": "candidate_dims", "dim": 6}
    widths = [2, 4, 6]
    chosen = 1
    served_bytes = 70 * 6 * 4 + (2 + 4 + 6) * 6 * 4 + 3 * (2 * 6 * 4 + 8) + 3 * 4


class TestGivenWidths(CandidateDimsContract):
    settings = {"kind": "candidate_dims", "dim": 6, "candidates": [1, 5]}
    widths = [1, 5]
    chosen = 0
    too_small = (0.03, 0.1)
    served_bytes = 70 * 6 * 4 + (1 + 5) * 6 * 4 + 2 * (2 * 6 * 4 + 8) + 2 * 4


def test_widths_by_default() -> None:
    assert CandidateDims(dim=64).widths == [2, 4, 8, 16, 32, 64]
    assert CandidateDims(dim=12).widths == [2, 4, 8, 12]
    assert CandidateDims(dim=1).widths == [1]


def test_a_search_mixes_normalised_candidates() -> None:
    module = embeddings({"t": CandidateDims(dim=4)}, [feature("one", "t")]).train()
    one = module.learned["table_t"]
    keys = list(range(50))
    rows = module.content("t").values["rows"].detach()
    candidates = []
    for width, linear in zip((2, 4), one.maps, strict=True):
        values = rows[:, :width] @ linear.weight.detach().T
        spread = (values.square().mean(0) - values.mean(0).square() + 1e-5).sqrt()
        candidates.append((values - values.mean(0)) / spread)
    one.temperature = 1.0
    shares = []
    for seed in range(400):
        torch.manual_seed(seed)
        with torch.no_grad():
            got = as_tensor(module({"one": ids(keys)})["one"])
        # got = p c1 + (1 - p) c2, solved for p by least squares.
        apart = candidates[0] - candidates[1]
        share = float(((got - candidates[1]) * apart).sum() / apart.square().sum())
        torch.testing.assert_close(
            got, share * candidates[0] + (1 - share) * candidates[1], atol=1e-3, rtol=1e-3
        )
        shares.append(share)
    # Equal weights: a logistic law around one half, and all of (0, 1).
    assert sum(shares) / 400 == pytest.approx(0.5, abs=0.05)
    assert min(shares) < 0.1
    assert max(shares) > 0.9
    one.weight_K.copy_(torch.tensor([3.0, 0.0]))
    with torch.no_grad():
        module({"one": ids(keys)})
    one.temperature = None
    with torch.no_grad():
        got = as_tensor(module({"one": ids(keys)})["one"])
    torch.testing.assert_close(got, candidates[0], atol=1e-4, rtol=1e-4)
