"""Feature task: a ranking task whose network reads one vector per feature.

A feature is a column of the batch or an attribute of one: the genres of a movie are looked up in
the model, not sent. What every such model does before its own layers is here, once.

Shapes: B samples, D elements of a feature's vector, K dense columns.
"""

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from recemb.attributes import AttributeLookup
from recemb.errors import RecembError
from recemb.features import FeatureConfig
from recemb.jagged import Ids
from recemb.models.task import RankingTask
from recemb.rows.optimizers import UpdateRule
from recemb.schema import Schema
from recemb.tables.kind import TableConfig


class FeatureTask(RankingTask):
    """A ranking task that looks attributes up and embeds every feature.

    Args:
        schema: What the data holds.
        tables: Tables by name.
        features: Features by name: columns with one id, multi-hot columns, and attributes of
            columns with one id.
        learning_rate: Of Adam on everything but the tables' rows.
        rows_optimizer: Of the tables' rows.
        histories: By feature, a list column whose ids are read as that feature's too.
        copies: By feature, another one whose ids it reads once more, from a table of its own.

    Raises:
        RecembError: If a name does not fit the data, or a setting is out of range.

    Attributes:
        attributes: Those that are features.
        names: All features but copies, in order.
        columns: Those of them that are columns of the batch, in order.
    """

    def __init__(
        self,
        schema: Schema,
        tables: Mapping[str, TableConfig],
        features: Mapping[str, FeatureConfig],
        learning_rate: float = 0.001,
        rows_optimizer: UpdateRule | None = None,
        histories: Mapping[str, str] | None = None,
        copies: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(schema, tables, features, learning_rate, rows_optimizer, histories, copies)
        features = {name: one for name, one in features.items() if name not in (copies or {})}
        check_features(features, schema)
        own = {name: one for name, one in schema.attributes.items() if name in features}
        self.attributes = AttributeLookup(own)
        self.columns = [name for name in features if name not in own]
        self.names = list(features)

    def described(self, ids: Mapping[str, Ids]) -> dict[str, Ids]:
        """Return the ids of columns, and those of what is known of each single id."""
        described = dict(ids)
        for name, own in ids.items():
            if isinstance(own, Tensor):
                described |= self.attributes(self.schema.id_space(name), own)
        return described

    def vectors(self, ids: Mapping[str, Ids]) -> list[Tensor]:
        """Return the (B, D) vectors of all features, in their order."""
        asked = self.described({name: ids[name] for name in self.columns})
        found = cast(dict[str, Tensor], self.embeddings(asked))
        return [found[name] for name in self.names]


def check_features(features: Mapping[str, FeatureConfig], schema: Schema) -> None:
    """Raise a :class:`RecembError` if a feature would have no vector, or more than one."""
    for name, config in features.items():
        if config.pooling == "none" and schema.is_list(name):
            raise RecembError(
                f"feature {name!r}: its bags must be pooled into one vector, got pooling 'none'; "
                "use sum, mean or max"
            )
    single = [name for name in features if name in schema.columns and not schema.is_list(name)]
    spaces = [schema.id_space(name) for name in single]
    for name, attribute in schema.attributes.items():
        if name in features and spaces.count(attribute.owner) != 1:
            readers = [one for one in single if schema.id_space(one) == attribute.owner]
            raise RecembError(
                f"feature {name!r}: its owner {attribute.owner!r} must be exactly one feature, got "
                f"{readers}"
            )


def common_dim(model: str, dims: Mapping[str, int]) -> int:
    """Return the D that all features share.

    Args:
        model: Its name starts the message of an error.
        dims: D by feature, at least one.

    Raises:
        RecembError: At the first feature whose vectors are not as wide as the first one's.
    """
    first, wanted = next(iter(dims.items()))
    for name, dim in dims.items():
        if dim != wanted:
            raise RecembError(
                f"{model}: the vectors of all features must be equally wide, got {dim} for feature "
                f"{name!r} and {wanted} for {first!r}; give their tables one dim (times lookups)"
            )
    return wanted
