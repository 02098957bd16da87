"""Schema: what a batch holds, as the data says it: the contract between data, model and export.

The data module builds it from the training file; the model reads from it how many ids a feature
has; a checkpoint carries it; the exported program embeds it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from recemb.errors import RecembError
from recemb.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One input column of ids."""

    is_list: bool
    """Whether a sample holds a bag of ids (else exactly one)."""
    vocabulary: str | None
    """The id space whose indices the column holds; None: the raw 64-bit values themselves."""
    padding: int | None = None
    """A raw value that stands for nothing and is dropped from lists."""
    is_text: bool = False
    """Whether the column of the file holds strings, of which the raw value is the hash."""
    mean_length: float = 1.0
    """Ids per row of the training file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseColumn:
    """One input column of numbers; the model sees ``(x - mean) / scale``."""

    mean: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Attribute:
    """What is known of each id of another feature: a bag of ids per owner, looked up, not sent.

    Attributes:
        owner: The id space that it describes (its unknown ids have empty bags).
        vocabulary: The id space of the values.
        is_list: Whether an owner may have several values (or none).
        values_M: All values, owner by owner, int64.
        offsets_V: (num_ids of the owner + 1,) where each owner's values start; int64.
    """

    owner: str
    vocabulary: str
    is_list: bool
    values_M: Tensor
    offsets_V: Tensor

    @property
    def mean_length(self) -> float:
        """Values per owner, each owner counted once."""
        return self.values_M.shape[0] / max(1, self.offsets_V.shape[0] - 1)


class Schema:
    """Columns, dense columns, vocabularies and attributes of a data set, each by name.

    No dataclass: the command line would take one for settings that a user could write.
    """

    def __init__(
        self,
        *,
        columns: Mapping[str, Column],
        vocabularies: Mapping[str, Vocabulary],
        dense: Mapping[str, DenseColumn] | None = None,
        attributes: Mapping[str, Attribute] | None = None,
    ) -> None:
        self.columns = columns
        self.vocabularies = vocabularies
        self.dense = dense or {}
        self.attributes = attributes or {}

    def id_space(self, feature: str) -> str:
        """Return the name under which the ids of a feature are numbered; itself where raw.

        Raises:
            RecembError: If neither a column nor an attribute has that name.
        """
        if feature in self.attributes:
            return self.attributes[feature].vocabulary
        if feature not in self.columns:
            known = sorted([*self.columns, *self.attributes])
            raise RecembError(
                f"feature {feature!r} is not in the data, which has {known}; rename it or add it "
                "to the data's columns"
            )
        return self.columns[feature].vocabulary or feature

    def num_ids(self, feature: str) -> int | None:
        """Return how many ids a feature has, or None where raw 64-bit values are its ids."""
        space = self.id_space(feature)
        if feature not in self.attributes and self.columns[feature].vocabulary is None:
            return None
        return self.vocabularies[space].num_ids

    def is_list(self, feature: str) -> bool:
        """Return whether a sample (or an attribute's owner) may hold any number of ids."""
        source = self.attributes if feature in self.attributes else self.columns
        return source[feature].is_list

    def with_copies(self, copies: Mapping[str, str]) -> "Schema":
        """Return the schema with further names for features: ids that are read a second time.

        Args:
            copies: By new name, the feature whose ids it has.

        Raises:
            RecembError: If a new name is taken, or a feature is not in the data.
        """
        columns, attributes = dict(self.columns), dict(self.attributes)
        for name, original in copies.items():
            if name in columns or name in attributes:
                raise RecembError(
                    f"feature {name!r}: the model reads {original!r} a second time under that "
                    "name; rename the data's own"
                )
            if original in self.attributes:
                attributes[name] = self.attributes[original]
            else:
                self.id_space(original)  # refuses a feature that is not in the data
                columns[name] = self.columns[original]
        return Schema(
            columns=columns,
            vocabularies=self.vocabularies,
            dense=self.dense,
            attributes=attributes,
        )

    def state(self) -> dict[str, object]:
        """Return everything as plain values and tensors, safe to load without running code."""
        return {
            "columns": {
                name: {
                    "is_list": column.is_list,
                    "vocabulary": column.vocabulary,
                    "padding": column.padding,
                    "is_text": column.is_text,
                    "mean_length": column.mean_length,
                }
                for name, column in self.columns.items()
            },
            "dense": {name: (d.mean, d.scale) for name, d in self.dense.items()},
            "vocabularies": [vocabulary.state() for vocabulary in self.vocabularies.values()],
            "attributes": {
                name: (a.owner, a.vocabulary, a.is_list, a.values_M, a.offsets_V)
                for name, a in self.attributes.items()
            },
        }

    @classmethod
    def from_state(cls, state: dict[str, object]) -> "Schema":
        """Return the schema that :meth:`state` described."""
        parts: dict = state  # type: ignore[type-arg]
        vocabularies = [Vocabulary.from_state(one) for one in parts["vocabularies"]]
        return cls(
            columns={name: Column(**column) for name, column in parts["columns"].items()},
            dense={name: DenseColumn(mean=m, scale=s) for name, (m, s) in parts["dense"].items()},
            vocabularies={vocabulary.name: vocabulary for vocabulary in vocabularies},
            attributes={name: Attribute(*one) for name, one in parts["attributes"].items()},
        )
