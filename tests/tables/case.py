"""What a kind's test class says of the kind: its settings and, in plain Python, its maths."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from recemb.embeddings import Embeddings
from recemb.features import ResolvedFeature
from recemb.jagged import Ids
from recemb.rows.optimizers import SGD
from recemb.tables.kind import TableConfig
from recemb.tables.registry import table_config
from tests.tables.helpers import SPACES, Stored, bags, embeddings, feature, ids, stored


class Case:
    """Fill in the first block; the fixtures are those of the contract's tests.

    Every expected value of the contract comes from :meth:`vector`, which turns one id into a vector
    by plain indexing of what the table holds.
    """

    settings: Mapping[str, Any]
    """Settings of table ``ads`` with every size given; spaces ``item`` and ``user`` read it."""
    num_rows: int
    """Rows of all its parts, in training."""
    served_bytes: int
    """Of what is served, by hand."""
    lookups: int = 1
    """Of every feature of the contract."""
    takes_raw: bool = False
    """Whether ids may be any 64-bit number (otherwise they are numbered and checked)."""
    modes: Sequence[bool] = (True, False)
    """Modes, training and evaluation, in which an id's vector is a function of the id alone."""
    rate: float = 1.0
    """Of SGD on rows. In low precision it is small, so that values stay within the limits."""

    def rows_of_id(self, table: str, held: Stored, space: str, key: int) -> dict[str, list[int]]:
        """Return the rows of each part that an id reads, in order."""
        raise NotImplementedError

    def compose(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        """Return the vector that the rows of an id make, before any projection."""
        raise NotImplementedError

    def compose_in_training(
        self, table: str, held: Stored, space: str, key: int, rows: Mapping[str, list[Tensor]]
    ) -> Tensor:
        """Return a vector whose gradient is that of training, where that is not the vector's."""
        return self.compose(table, held, space, key, rows)

    def prepared(self, module: Embeddings) -> Embeddings:
        """Return a module in the state that the class is about; by default as it begins."""
        return module

    # What follows from it

    @staticmethod
    def number(space: str, key: int) -> int:
        """Return the number of an id of table ``ads``, which space ``user`` reads first."""
        return key if space == "user" else SPACES["user"] + key

    def vector(
        self,
        held: Stored,
        key: int,
        space: str = "item",
        table: str = "ads",
        in_training: bool = False,
    ) -> Tensor:
        """Return the vector of one id."""
        rows = {
            part: [held.rows[part][row] for row in numbers]
            for part, numbers in self.rows_of_id(table, held, space, key).items()
        }
        compose = self.compose_in_training if in_training else self.compose
        vector = compose(table, held, space, key, rows)
        return vector if held.projection is None else held.projection @ vector

    def vectors(self, module: Embeddings, keys: Sequence[int], space: str = "item") -> Tensor:
        """Return the vectors of some ids of table ``ads``."""
        held = stored(module)
        return torch.stack([self.vector(held, key, space) for key in keys])

    @property
    def width(self) -> int:
        """Elements that the model sees."""
        width: int = self.settings.get("project") or self.settings["dim"] * self.lookups
        return width

    def features(self) -> list[ResolvedFeature]:
        """Return a feature of another id space, a plain one, and a list feature per pooling."""
        features = [
            feature("who", "ads", space="user", lookups=self.lookups),
            feature("one", "ads", lookups=self.lookups),
        ]
        for pooling in ("sum", "mean", "max", "none"):
            features.append(feature(pooling, "ads", pooling=pooling, lookups=self.lookups))
        return features

    def asked(
        self,
        one: Sequence[int] = (),
        lists: Sequence[Sequence[int]] = (),
        who: Sequence[int] = (),
    ) -> dict[str, Ids]:
        """Return a batch for :meth:`features`."""
        names = ("sum", "mean", "max", "none")
        return {"who": ids(who), "one": ids(one), **{name: bags(lists) for name in names}}

    @pytest.fixture
    def config(self) -> TableConfig:
        """The table of :attr:`settings`."""
        return table_config("ads", self.settings)

    @pytest.fixture
    def module(self, config: TableConfig) -> Embeddings:
        """A table ``ads`` read by all :meth:`features`."""
        rule = SGD(learning_rate=self.rate)
        return self.prepared(embeddings({"ads": config}, self.features(), rule))
