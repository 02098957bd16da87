"""Attribute file: what is known of the ids of one column, one row per id."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import torch

from recemb.data.chunk import bags_of
from recemb.data.columns import AttributeFile, Columns, IdColumn, ListColumn
from recemb.data.encode import error_in, ids_of_lists, row_of
from recemb.data.files import TableFile, find
from recemb.data.values import MISSING, IdKind, ValueAtError, as_tensor, raw_ids, refuse_where
from recemb.errors import RecembError
from recemb.schema import Attribute
from recemb.vocabulary import Vocabulary, build_vocabulary


def open_attributes(described: AttributeFile, folder: Path) -> TableFile:
    """Return the open file, which has all columns.

    Args:
        described: What it holds.
        folder: Of its relative path.

    Raises:
        RecembError: If the file or a column is missing.
    """
    file = TableFile(find(folder / described.path))
    named = described.named
    file.require(
        [described.key_in_file, *(column.column or name for name, column in named.items())]
    )
    return file


def read_attributes(
    file: TableFile,
    described: AttributeFile,
    columns: Columns,
    vocabularies: dict[str, Vocabulary],
    kinds: Mapping[str, bool],
) -> dict[str, tuple[Vocabulary, Attribute]]:
    """Return, per attribute, the vocabulary of its values and the values of each owner.

    An attribute's values are ranked by the training counts of the owners that have them, so their
    numbering too is by falling training frequency; or they are ids of a column whose vocabulary the
    attribute shares.

    Args:
        file: Open, with all columns.
        described: What it holds.
        columns: Of the data.
        vocabularies: Of the columns.
        kinds: Whether the ids of each column and attribute are strings.

    Raises:
        RecembError: If the key has no vocabulary, is not distinct, or a value is wrong.
    """
    named = described.named
    if described.key not in vocabularies:
        raise RecembError(
            f"{file.path}: key {described.key!r} is not a column with a vocabulary, which are "
            f"{sorted(vocabularies)}"
        )
    owner = vocabularies[described.key]
    in_files = [described.key_in_file, *(column.column or name for name, column in named.items())]
    frame = pl.concat([file.read(group, in_files) for group in range(len(file.group_sizes))])
    found = {}
    in_file = described.key_in_file
    try:
        is_declared = columns.declared_type(described.key) is not None
        kind = IdKind(owner.is_text, is_declared, file.is_text)
        owner_M = owner.lookup(_keys(frame[in_file].rename(""), kind))
        for name, column in named.items():
            in_file = column.column or name
            shared = _shared(name, column, vocabularies)
            is_declared = column.type is not None or (
                shared is not None and columns.declared_type(shared.name) is not None
            )
            kind = IdKind(kinds[name], is_declared, file.is_text)
            values = frame[in_file].rename("")
            found[name] = _attribute(name, column, kind, values, owner_M, owner, shared)
    except ValueAtError as error:
        raise error_in(file.path, in_file, error) from None
    return found


def _shared(name: str, column: IdColumn, vocabularies: dict[str, Vocabulary]) -> Vocabulary | None:
    """Return the vocabulary of a column that an attribute says it shares, or None."""
    if column.vocabulary is None:
        return None
    if column.vocabulary not in vocabularies:
        raise RecembError(
            f"attribute {name!r}: vocabulary {column.vocabulary!r} is not a column with a "
            f"vocabulary, which are {sorted(vocabularies)}"
        )
    return vocabularies[column.vocabulary]


def _keys(keys: pl.Series, kind: IdKind) -> torch.Tensor:
    """Return the raw ids of the rows of an attribute file."""
    raw = raw_ids(keys, kind)
    refuse_where(keys.is_null(), keys, "a key must not be null")
    refuse_where(keys.is_duplicated(), keys, "keys must be distinct")
    return as_tensor(raw)


def _attribute(
    name: str,
    column: IdColumn,
    kind: IdKind,
    values: pl.Series,
    owner_M: torch.Tensor,
    owner: Vocabulary,
    shared: Vocabulary | None,
) -> tuple[Vocabulary, Attribute]:
    """Return one attribute; ``owner_M`` holds the owner's index of each row of the file."""
    is_list = isinstance(column, ListColumn)
    values, raw, lengths_M = _attribute_ids(column, kind, values)
    known_M = (owner_M >= 0) & (owner_M < owner.num_known)
    vocabulary = shared
    if vocabulary is None:
        weight_M = torch.where(known_M, owner.counts_V[owner_M.clamp(0, owner.num_known - 1)], 0)
        # An owner that only other files have is seen too, though training never counted it.
        seen_M = torch.where(known_M, weight_M.clamp(min=1), 0)
        weight_N, seen_N = torch.stack([weight_M, seen_M]).repeat_interleave(lengths_M, 1).numpy()
        distinct = values.cast(pl.String) if kind.is_text else raw
        counts = pl.DataFrame({"value": distinct, "count": weight_N, "seen": seen_N})
        counts = counts.drop_nulls().group_by("value").agg(pl.col("count", "seen").sum())
        if counts.is_empty():
            what = "every list is empty" if is_list else "every value is null"
            raise ValueAtError(f"{what}; leave the attribute out, or fill it")
        vocabulary = build_vocabulary(name, counts, column.vocabulary_config)
    index_N = vocabulary.lookup(as_tensor(raw.fill_null(MISSING)))
    if bool((index_N < 0).any()):
        place = int((index_N < 0).int().argmax())
        raise ValueAtError(
            f"value {values[place]!r} is of no id seen in training; set unknown to 'own'",
            row_of(place, lengths_M),
        )
    # One bag more than the file has rows, for owners that it does not describe: empty in a list,
    # the unknown value otherwise.
    nothing = index_N.new_tensor([] if is_list else [vocabulary.num_known])
    bags = bags_of(
        torch.cat([index_N, nothing]), torch.cat([lengths_M, lengths_M.new_tensor([len(nothing)])])
    )
    row_V = torch.full((owner.num_ids,), len(lengths_M), dtype=torch.int64)
    row_V[owner_M[known_M]] = torch.arange(len(lengths_M))[known_M]
    if vocabulary.config.unknown == "error" and not is_list and len(lengths_M) in row_V:
        raise ValueAtError(
            f"not every id of {owner.name!r} has a row (unknown ones never do); set unknown to "
            "'own'"
        )
    own = bags.take(row_V)
    return vocabulary, Attribute(owner.name, vocabulary.name, is_list, own.values, own.offsets)


def _attribute_ids(
    column: IdColumn, kind: IdKind, values: pl.Series
) -> tuple[pl.Series, pl.Series, torch.Tensor]:
    """Return the values one after the other, their raw ids, and how many each row has."""
    if isinstance(column, ListColumn):
        padding_fits(column, kind.is_text)
        return ids_of_lists(values, column, kind)
    return values, raw_ids(values, kind), torch.ones(len(values), dtype=torch.int64)


def padding_fits(column: ListColumn, text: bool) -> None:
    """Raise a :class:`ValueAtError` if padding is a string among integers, or the reverse."""
    if column.padding is not None and isinstance(column.padding, str) != text:
        kind = "a string" if text else "an integer"
        raise ValueAtError(f"padding must be {kind} as the ids are, got {column.padding!r}")
