"""What every table kind must do, whatever it stores.

A kind's test class inherits :class:`TableContract`, says how its settings are written and, in plain
Python, which rows an id reads (``rows_of_id``) and what it makes of them (``compose``). From these
two the contract derives every expected value: :func:`expected` walks over ids one by one and
indexes the stored tables.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.accounting import table_report
from recemb.embeddings import Embeddings, Ids, Vectors
from recemb.errors import RecembError
from recemb.features import Feature, FeatureConfig
from recemb.jagged import Jagged
from recemb.pooling import Pooling
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import SGD, RowsOptimizer
from recemb.tables.kind import IdSpace, TableConfig
from recemb.tables.registry import table_config

SPACES = {"item": 50, "user": 20}
"""Id spaces and their numbers of ids."""


def feature(
    name: str,
    table: str,
    *,
    space: str = "item",
    pooling: Pooling | None = None,
    lookups: int = 1,
) -> Feature:
    """Return a feature; with a pooling it is a list, without one it has one id per sample."""
    config = FeatureConfig(table=table, pooling=pooling or "mean", lookups=lookups)
    return Feature(name, config, IdSpace(space, SPACES.get(space)), pooling is not None)


def embeddings(
    tables: Mapping[str, TableConfig],
    features: Sequence[Feature],
    optimizer: RowsOptimizer | None = None,
    seed: int = 1,
) -> Embeddings:
    """Return embeddings over a local store, drawn from ``seed``; the global generator is kept."""
    rule = optimizer or SGD(learning_rate=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Embeddings(tables, features, lambda physical: LocalRowsStore(physical, rule))


def ids(values: Sequence[int]) -> Tensor:
    """Return one id per sample."""
    return torch.tensor(values, dtype=torch.int64)


def bags(values: Sequence[Sequence[int]]) -> Jagged:
    """Return a bag of ids per sample."""
    flat = [one for bag in values for one in bag]
    return Jagged(ids(flat), ids([len(bag) for bag in values]))


def as_tensor(vectors: Vectors) -> Tensor:
    """Return the vectors of a feature that is pooled or has one id per sample."""
    assert isinstance(vectors, Tensor)
    return vectors


class TableContract:
    """Inherit, fill in the first block, and give a fixture ``bad`` of refused settings."""

    settings: Mapping[str, Any]
    """Settings of a table of some ``dim`` and not more than 40 rows."""
    num_rows: int
    """Rows that :attr:`settings` give a table that the id space ``item`` reads."""
    width: int
    """Elements per stored row."""
    lookups: int = 1
    """Of every feature of the contract."""

    def rows_of_id(
        self, settings: Mapping[str, Any], table: str, space: str, key: int, lookups: int
    ) -> list[int]:
        """Return the rows that an id reads, in order."""
        raise NotImplementedError

    def compose(self, settings: Mapping[str, Any], rows: Sequence[Tensor]) -> Tensor:
        """Return the vector that the rows of an id make."""
        raise NotImplementedError

    @pytest.fixture
    def config(self) -> TableConfig:
        """The table of :attr:`settings`."""
        return table_config("ads", self.settings)

    @pytest.fixture
    def module(self, config: TableConfig) -> Embeddings:
        """A table ``ads`` read by a plain feature and by a list feature of every pooling."""
        features = [feature("one", "ads", lookups=self.lookups)]
        for pooling in ("sum", "mean", "max", "none"):
            features.append(feature(pooling, "ads", pooling=pooling, lookups=self.lookups))
        return embeddings({"ads": config}, features)

    def expected(self, module: Embeddings, key: int, space: str = "item") -> Tensor:
        """Return the vector of one id of table ``ads``, from the stored rows."""
        rows = self.rows_of_id(self.settings, "ads", space, key, self.lookups)
        return self.compose(self.settings, [module.rows.tables()["ads"][row] for row in rows])

    def asked(self, one: Sequence[int], lists: Sequence[Sequence[int]]) -> dict[str, Ids]:
        """Return a batch for :meth:`module`."""
        names = ("sum", "mean", "max", "none")
        return {"one": ids(one), **{name: bags(lists) for name in names}}

    # Reading

    def test_vectors_equal_the_oracle(self, module: Embeddings) -> None:
        keys = list(range(SPACES["item"]))
        got = as_tensor(module(self.asked(keys, []))["one"])
        wanted = torch.stack([self.expected(module, key) for key in keys])
        # A mean of k rows may be a division or a product: one rounding.
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8)

    def test_a_batch_equals_one_id_at_a_time(self, module: Embeddings) -> None:
        keys = [7, 0, 49, 7, 31]
        together = as_tensor(module(self.asked(keys, []))["one"])
        alone = [as_tensor(module(self.asked([key], []))["one"]) for key in keys]
        assert torch.equal(together, torch.cat(alone))

    def test_duplicate_ids_get_one_vector(self, module: Embeddings) -> None:
        vectors = as_tensor(module(self.asked([3, 8, 3, 3], []))["one"])
        assert torch.equal(vectors[[0, 0]], vectors[[2, 3]])
        assert not torch.equal(vectors[0], vectors[1])

    def test_vectors_are_as_wide_as_announced(self, module: Embeddings) -> None:
        vectors = module(self.asked([3], [[3]]))
        widths = {name: as_tensor(vectors[name]).shape[1] for name in ("one", "sum", "mean", "max")}
        assert widths == {name: module.dims[name] for name in widths}
        assert module.dims["one"] == self.expected(module, 3).numel()

    def test_bags_equal_a_loop_over_their_ids(self, module: Embeddings) -> None:
        lists = [[4, 4, 9], [], [0], [12, 49, 3, 27], []]
        got = module(self.asked([], lists))
        for row, bag in enumerate(lists):
            vectors = [self.expected(module, key) for key in bag]
            stacked = torch.stack(vectors) if vectors else torch.zeros(1, module.dims["one"])
            # Sums of up to four small numbers, in another order.
            for name, wanted in (
                ("sum", stacked.sum(0)),
                ("mean", stacked.mean(0)),
                ("max", stacked.max(0).values),
            ):
                torch.testing.assert_close(as_tensor(got[name])[row], wanted, rtol=1e-6, atol=1e-7)

    def test_unpooled_bags_keep_every_vector(self, module: Embeddings) -> None:
        got = module(self.asked([], [[4, 4], [], [9]]))["none"]
        assert isinstance(got, Jagged)
        wanted = torch.stack([self.expected(module, key) for key in (4, 4, 9)])
        torch.testing.assert_close(got.values, wanted, rtol=1e-6, atol=1e-8)
        assert got.lengths.tolist() == [2, 0, 1]

    def test_empty_bags_are_zeros(self, module: Embeddings) -> None:
        got = module(self.asked([], [[], []]))
        for name in ("sum", "mean", "max"):
            assert as_tensor(got[name]).tolist() == [[0.0] * module.dims[name]] * 2

    def test_a_batch_without_samples_keeps_its_width(self, module: Embeddings) -> None:
        got = module(self.asked([], []))
        assert as_tensor(got["one"]).shape == (0, module.dims["one"])
        assert as_tensor(got["mean"]).shape == (0, module.dims["mean"])

    # Training

    def test_a_step_changes_the_rows_asked_for_and_no_other(self, module: Embeddings) -> None:
        before = module.rows.tables()["ads"].clone()
        keys = [5, 21, 5]
        as_tensor(module(self.asked(keys, [[8]]))["one"]).sum().backward()
        module.rows.step()
        changed = (module.rows.tables()["ads"] != before).any(1).nonzero().flatten().tolist()
        wanted = {
            row
            for key in keys
            for row in self.rows_of_id(self.settings, "ads", "item", key, self.lookups)
        }
        # The feature of id 8 is read but gets no gradient: an update by zero.
        assert changed == sorted(wanted)

    def test_gradient_equals_that_of_the_oracle(self, module: Embeddings) -> None:
        keys, lists = [5, 21, 5], [[1, 2, 1], [], [5]]
        weights = torch.randn(3, module.dims["one"], generator=torch.Generator().manual_seed(2))
        before = module.rows.tables()["ads"].clone()
        got = module(self.asked(keys, lists))
        ((as_tensor(got["one"]) + as_tensor(got["mean"])) * weights).sum().backward()
        module.rows.step()

        table = before.clone().requires_grad_()

        def vector(key: int) -> Tensor:
            rows = self.rows_of_id(self.settings, "ads", "item", key, self.lookups)
            return self.compose(self.settings, [table[row] for row in rows])

        loss = sum((vector(key) * weights[n]).sum() for n, key in enumerate(keys))
        for n, bag in enumerate(lists):
            for key in bag:
                loss = loss + (vector(key) * weights[n]).sum() / len(bag)
        assert isinstance(loss, Tensor)
        loss.backward()
        assert table.grad is not None
        # SGD with rate 1: the step is the gradient. Some ten terms of about 1, summed in fp32.
        torch.testing.assert_close(
            module.rows.tables()["ads"], before - table.grad, rtol=1e-5, atol=1e-6
        )

    def test_training_moves_a_loss_down(self, config: TableConfig) -> None:
        module = embeddings(
            {"ads": config},
            [feature("one", "ads", lookups=self.lookups)],
            SGD(learning_rate=0.05),
        )
        batch = {"one": ids(range(10))}
        losses = []
        for _ in range(60):
            # All vectors shall be ones, which colliding rows can be too.
            loss = ((as_tensor(module(batch)["one"]) - 1) ** 2).sum()
            loss.backward()
            module.rows.step()
            losses.append(loss.item())
        assert losses[-1] < 0.01 * losses[0]

    # Saving and counting

    def test_state_dict_round_trip(self, config: TableConfig) -> None:
        features = [feature("one", "ads", lookups=self.lookups)]
        saved = embeddings({"ads": config}, features, seed=1)
        other = embeddings({"ads": config}, features, seed=2)
        batch = {"one": ids([0, 7, 49])}
        assert not torch.equal(as_tensor(other(batch)["one"]), as_tensor(saved(batch)["one"]))
        other.load_state_dict(saved.state_dict())
        assert torch.equal(as_tensor(other(batch)["one"]), as_tensor(saved(batch)["one"]))

    def test_report_counts_the_stored_rows(self, module: Embeddings) -> None:
        assert table_report(module)["ads"] == {
            "kind": self.settings["kind"],
            "num_rows": self.num_rows,
            "dim": self.settings["dim"],
            "bytes": self.num_rows * self.width * 4,
        }

    def test_rows_start_uniform_in_the_scale(self) -> None:
        config = table_config("ads", {**self.settings, "init_scale": 0.5})
        module = embeddings({"ads": config}, [feature("one", "ads", lookups=self.lookups)])
        rows = module.rows.tables()["ads"]
        # U(-a, a) has variance a^2 / 3; 40 and more elements give it within a factor of two.
        assert 0.4 < rows.abs().max() <= 0.5
        assert 0.5 < rows.var() / (0.25 / 3) < 2

    # Sharing

    def test_features_of_one_space_and_table_share_vectors(self, module: Embeddings) -> None:
        got = module(self.asked([3, 17], [[3], [17]]))
        assert torch.equal(as_tensor(got["one"]), as_tensor(got["sum"]))

    def test_several_tables_of_the_kind_keep_apart(self, config: TableConfig) -> None:
        features = [
            feature("one", "ads", lookups=self.lookups),
            feature("two", "more", lookups=self.lookups),
        ]
        module = embeddings({"ads": config, "more": config}, features)
        rows = {
            name: self.rows_of_id(self.settings, name, "item", 31, self.lookups)
            for name in ("ads", "more")
        }
        got = module({"one": ids([31]), "two": ids([31])})
        for name, table in (("one", "ads"), ("two", "more")):
            stored = module.rows.tables()[table]
            wanted = self.compose(self.settings, [stored[row] for row in rows[table]])
            torch.testing.assert_close(as_tensor(got[name])[0], wanted, rtol=1e-6, atol=1e-8)

    # Settings

    @pytest.fixture
    def bad(self, request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
        """Settings to be changed, and how the message goes on after the table's name."""
        raise NotImplementedError

    def test_bad_settings_are_refused_by_the_tables_name(
        self, bad: tuple[dict[str, Any], str]
    ) -> None:
        change, message = bad
        with pytest.raises(RecembError, match=f"^table 'ads': {re.escape(message)}"):
            table_config("ads", {**self.settings, **change})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dim": 0}, "dim must be at least 1, got 0"),
            ({"init_scale": 0.0}, "init_scale must be above 0, got 0.0"),
            ({"init_scale": float("nan")}, "init_scale must be above 0, got nan"),
        ],
    )
    def test_common_settings_are_checked(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(RecembError, match=f"^table 'ads': {re.escape(message)}$"):
            table_config("ads", {**self.settings, **change})
