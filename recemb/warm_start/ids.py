"""Ids: which ids of an old and a new id space are the same, by their raw values.

Indices are ranks by frequency, so the same raw id has another index wherever the data has changed;
what stays is the raw value. Indices of unknown values correspond where there are equally many of
them, and all come from the old one where there was only one.

Shapes: K pairs of an old and a new id, V known values of a vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recemb.errors import RecembError
from recemb.schema import Schema
from recemb.vocabulary import Vocabulary

TrainingIds = Callable[[str], tuple[Tensor, Tensor]]
"""Returns the distinct raw ids of a column in the training file, and their counts."""


@dataclass(frozen=True, slots=True)
class Space:
    """The ids that a feature has: a vocabulary, or (None) raw 64-bit values."""

    vocabulary: Vocabulary | None
    is_text: bool

    @classmethod
    def of(cls, schema: Schema, feature: str) -> "Space":
        """Return the id space of a feature."""
        if schema.num_ids(feature) is None:
            return cls(None, schema.columns[feature].is_text)
        vocabulary = schema.vocabularies[schema.id_space(feature)]
        return cls(vocabulary, vocabulary.is_text)

    def is_same(self, other: "Space") -> bool:
        """Return whether every id means the same in both."""
        old, new = self.vocabulary, other.vocabulary
        if self.is_text != other.is_text or (old is None) != (new is None):
            return False
        if old is None or new is None:
            return True
        same = (old.num_ids, old.config.unknown) == (new.num_ids, new.config.unknown)
        return (
            same and torch.equal(old.keys_V, new.keys_V) and torch.equal(old.index_V, new.index_V)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Ids that an old and a new id space have in common.

    Attributes:
        old_K: As the old table is asked for them.
        new_K: As the new table is.
        weight_K: How much each counts: its training count, at least 1.
        num_known: Raw ids among them.
        num_ids: Raw ids of the new space.
        num_dropped: Raw ids of the old space that the new one lacks.
    """

    old_K: Tensor
    new_K: Tensor
    weight_K: Tensor
    num_known: int
    num_ids: int
    num_dropped: int


def pair(old: Space, new: Space, feature: str, training_ids: TrainingIds | None) -> Pairs:
    """Return the ids that two spaces have in common.

    Args:
        old: Of the checkpoint.
        new: Of the new data.
        feature: A feature that reads both.
        training_ids: Where the ids come from if both spaces are raw.

    Raises:
        RecembError: If there is no way to tell; the message is the reason alone.
    """
    if old.is_text != new.is_text:
        kinds = ("strings", "integers") if old.is_text else ("integers", "strings")
        raise RecembError(f"ids were {kinds[0]} there and are {kinds[1]} here")
    if old.vocabulary is not None and new.vocabulary is not None:
        return _of_vocabularies(old.vocabulary, new.vocabulary)
    if new.vocabulary is not None:
        keys_K, index_K, count_K = _known(new.vocabulary)
        return _all(keys_K, index_K, count_K)
    if old.vocabulary is not None:
        keys_K, index_K, count_K = _known(old.vocabulary)
        return _all(index_K, keys_K, count_K)
    if training_ids is None:
        raise RecembError(
            f"ids of {feature!r} are raw, and the data module does not list those of training"
        )
    raw_K, count_K = training_ids(feature)
    return _all(raw_K, raw_K, count_K)


def _known(vocabulary: Vocabulary) -> tuple[Tensor, Tensor, Tensor]:
    """Return raw values, indices and counts."""
    index_V = vocabulary.index_V
    return vocabulary.keys_V, index_V, vocabulary.counts_V[index_V]


def _all(old_K: Tensor, new_K: Tensor, count_K: Tensor) -> Pairs:
    """Return pairs of which every one is known."""
    number = len(old_K)
    return Pairs(
        old_K=old_K,
        new_K=new_K,
        weight_K=count_K.clamp(min=1).to(torch.float32),
        num_known=number,
        num_ids=number,
        num_dropped=0,
    )


def _of_vocabularies(old: Vocabulary, new: Vocabulary) -> Pairs:
    place_V = torch.searchsorted(old.keys_V, new.keys_V).clamp(max=old.num_known - 1)
    known_V = old.keys_V[place_V] == new.keys_V
    old_K, new_K = old.index_V[place_V[known_V]], new.index_V[known_V]
    weight_K = new.counts_V[new_K].clamp(min=1)
    old_unknown, new_unknown = old.num_ids - old.num_known, new.num_ids - new.num_known
    if old_unknown in (1, new_unknown):
        place_U = torch.arange(new_unknown)
        old_K = torch.cat([old_K, old.num_known + place_U.clamp(max=old_unknown - 1)])
        new_K = torch.cat([new_K, new.num_known + place_U])
        weight_K = torch.cat([weight_K, torch.ones_like(place_U)])
    known = int(known_V.sum())
    return Pairs(
        old_K=old_K,
        new_K=new_K,
        weight_K=weight_K.to(torch.float32),
        num_known=known,
        num_ids=new.num_known,
        num_dropped=old.num_known - known,
    )
