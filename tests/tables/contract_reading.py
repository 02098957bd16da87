"""Part of the contract of table kinds: every id gets the vector that the kind's maths says."""

import pytest
import torch

from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.jagged import Jagged
from recemb.rows.optimizers import SGD
from recemb.tables.kind import TableConfig
from tests.tables.case import Case
from tests.tables.helpers import SPACES, as_tensor, embeddings, feature, ids, stored

ALL = list(range(SPACES["item"]))
CLOSE = {"rtol": 1e-5, "atol": 1e-7}
"""A handful of fp32 operations in another order, on numbers below about 1."""


class ReadingContract(Case):
    """Reading: alone, in batches, in bags, in several features and tables."""

    def test_vectors_equal_the_oracle(self, module: Embeddings) -> None:
        users = list(range(SPACES["user"]))
        for mode in self.modes:
            got = module.train(mode)(self.asked(ALL, [], users))
            for name, space, keys in (("one", "item", ALL), ("who", "user", users)):
                wanted = self.vectors(module, keys, space)
                torch.testing.assert_close(as_tensor(got[name]), wanted, **CLOSE)

    def test_a_batch_equals_one_id_at_a_time(self, module: Embeddings) -> None:
        keys = [7, 0, 49, 7, 31]
        for mode in self.modes:
            module.train(mode)
            together = as_tensor(module(self.asked(keys))["one"])
            alone = [as_tensor(module(self.asked([key]))["one"]) for key in keys]
            torch.testing.assert_close(together, torch.cat(alone), **CLOSE)

    def test_features_with_equally_many_ids_equal_the_oracle(self, module: Embeddings) -> None:
        # They are encoded as a matrix and not one after the other.
        keys, users = [49, 3, 3, 0], [19, 0, 7, 7]
        batch = self.asked(keys, [[3], [49, 0], [], [21]], users)
        for mode in self.modes:
            got = module.train(mode)(batch)
            for name, space, wanted in (
                ("one", "item", keys),
                ("who", "user", users),
                ("none", "item", [3, 49, 0, 21]),
            ):
                vectors = got[name].values if isinstance(got[name], Jagged) else got[name]
                torch.testing.assert_close(vectors, self.vectors(module, wanted, space), **CLOSE)

    def test_duplicate_ids_get_one_vector(self, module: Embeddings) -> None:
        # In training too, whatever the kind: duplicates of a batch are one id.
        for mode in (True, False):
            vectors = as_tensor(module.train(mode)(self.asked([3, 8, 3, 21]))["one"])
            torch.testing.assert_close(vectors[0], vectors[2], **CLOSE)
            # Another id has another vector (two may share their rows or codes by chance).
            assert not torch.allclose(vectors[[0, 0]], vectors[[1, 3]])

    def test_vectors_are_as_wide_as_announced(self, module: Embeddings) -> None:
        vectors = module.eval()(self.asked([3], [[3]], [3]))
        for name in ("who", "one", "sum", "mean", "max"):
            assert as_tensor(vectors[name]).shape == (1, self.width)
        assert set(module.dims.values()) == {self.width}

    def test_unknown_values_have_a_vector(self, module: Embeddings) -> None:
        # The last index of an id space stands for them.
        got = module.eval()(self.asked([49], [[49, 49]], [19]))
        assert as_tensor(got["one"]).isfinite().all()
        for name, space, key in (("one", "item", 49), ("mean", "item", 49), ("who", "user", 19)):
            wanted = self.vectors(module, [key], space)
            torch.testing.assert_close(as_tensor(got[name]), wanted, **CLOSE)

    # Bags

    def test_bags_equal_a_loop_over_their_ids(self, module: Embeddings) -> None:
        lists = [[4, 4, 9], [], [0], [12, 49, 3, 27], [], ALL]
        held = stored(module)
        for mode in self.modes:
            got = module.train(mode)(self.asked([], lists))
            for row, bag in enumerate(lists):
                vectors = [self.vector(held, key) for key in bag]
                stacked = torch.stack(vectors) if vectors else torch.zeros(1, self.width)
                for name, wanted in (
                    ("sum", stacked.sum(0)),
                    ("mean", stacked.mean(0)),
                    ("max", stacked.max(0).values),
                ):
                    # Sums of up to fifty small numbers, in another order.
                    torch.testing.assert_close(
                        as_tensor(got[name])[row], wanted, rtol=1e-5, atol=1e-6
                    )

    def test_unpooled_bags_keep_every_vector(self, module: Embeddings) -> None:
        lists = [[4, 4], [], [9], ALL]
        for mode in self.modes:
            got = module.train(mode)(self.asked([], lists))["none"]
            assert isinstance(got, Jagged)
            wanted = self.vectors(module, [key for bag in lists for key in bag])
            torch.testing.assert_close(got.values, wanted, **CLOSE)
            assert got.lengths.tolist() == [2, 0, 1, 50]

    def test_empty_bags_are_zeros(self, module: Embeddings) -> None:
        for mode in (True, False):
            got = module.train(mode)(self.asked([], [[], []]))
            for name in ("sum", "mean", "max"):
                assert as_tensor(got[name]).tolist() == [[0.0] * self.width] * 2

    def test_a_batch_without_samples_keeps_its_width(self, module: Embeddings) -> None:
        for mode in (True, False):
            got = module.train(mode)(self.asked())
            assert as_tensor(got["one"]).shape == (0, self.width)
            assert as_tensor(got["mean"]).shape == (0, self.width)

    # Sharing

    def test_features_of_one_space_and_table_share_vectors(self, module: Embeddings) -> None:
        got = module.eval()(self.asked([3, 17], [[3], [17]]))
        torch.testing.assert_close(as_tensor(got["one"]), as_tensor(got["sum"]), **CLOSE)

    def test_id_spaces_of_one_table_keep_apart(self, module: Embeddings) -> None:
        keys = list(range(SPACES["user"]))
        got = module.eval()(self.asked(keys, [], keys))
        same = (as_tensor(got["one"]) == as_tensor(got["who"])).all(1)
        # Hashed ids may meet by chance.
        assert same.sum() < 5

    def test_several_tables_of_the_kind_keep_apart(self, config: TableConfig) -> None:
        features = [
            feature(name, table, space=space, lookups=self.lookups)
            for name, table, space in (
                ("who", "ads", "user"),
                ("one", "ads", "item"),
                ("who2", "more", "user"),
                ("two", "more", "item"),
            )
        ]
        module = embeddings({"ads": config, "more": config}, features, SGD(learning_rate=self.rate))
        module = self.prepared(module).eval()
        keys = [31, 2, 49]
        got = module({"who": ids([5]), "one": ids(keys), "who2": ids([7]), "two": ids(keys)})
        for name, table in (("one", "ads"), ("two", "more")):
            held = stored(module, table)
            wanted = torch.stack([self.vector(held, key, "item", table) for key in keys])
            torch.testing.assert_close(as_tensor(got[name]), wanted, **CLOSE)
        assert not torch.equal(as_tensor(got["one"]), as_tensor(got["two"]))
        wanted = self.vector(stored(module, "more"), 7, "user", "more")
        torch.testing.assert_close(as_tensor(got["who2"])[0], wanted, **CLOSE)

    # Ids outside of their space

    @pytest.mark.parametrize("key", [50, -1, 2**40])
    def test_ids_outside_their_space_are_refused(self, module: Embeddings, key: int) -> None:
        if self.takes_raw:
            # Any 64-bit number is an id there.
            vector = as_tensor(module.eval()(self.asked([key]))["one"])
            torch.testing.assert_close(vector, self.vectors(module, [key]), **CLOSE)
            return
        # Without the check the row of another id space, or of another table, would be read.
        of_item = "one|sum|mean|max|none"
        message = rf"^feature '({of_item})': ids of table 'ads' must be in 0\.\.49, got {key}$"
        with pytest.raises(RecembError, match=message):
            module(self.asked([0, key, 1]))
        with pytest.raises(RecembError, match=message):
            module.eval()(self.asked([], [[0, key]]))
        if key == 50:
            # As large as that may be in the other space.
            with pytest.raises(RecembError, match=r"^feature 'who': .* in 0\.\.19, got 20$"):
                module(self.asked([0], [], [20]))

    def test_raw_ids(self, config: TableConfig) -> None:
        features = [feature("url", "ads", space="url", lookups=self.lookups)]
        if not self.takes_raw:
            message = r"^table 'ads': .* got raw ids (or no counts )?of 'url'; set raw=false on the"
            with pytest.raises(RecembError, match=message):
                embeddings({"ads": config}, features)
            return
        module = embeddings({"ads": config}, features).eval()
        keys = [-(2**63), -1, 0, 2**63 - 1]
        wanted = self.vectors(module, keys, "url")
        torch.testing.assert_close(as_tensor(module({"url": ids(keys)})["url"]), wanted, **CLOSE)
