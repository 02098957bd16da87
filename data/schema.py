"""Schema: read a training file once to learn its vocabularies, number scales and attributes."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import torch
from tqdm import tqdm

from data.chunk import bags_of
from data.columns import AttributeFile, Columns, IdColumn, ListColumn, NumberColumn
from data.encode import flatten, row_of
from data.files import PROGRESS_ROWS, TableFile
from data.values import MISSING, ValueAtError, as_tensor, is_text, raw_ids, refuse_where
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.schema import Attribute, Column, DenseColumn, Schema
from recemb.vocabulary import Vocabulary, build_vocabulary


def build_schema(
    file: TableFile,
    columns: Columns,
    attributes: AttributeFile | None,
    folder: Path,
    others: Sequence[TableFile] = (),
) -> Schema:
    """Return what ``file`` (training) and the attribute file say of the columns.

    Args:
        file: The training file.
        columns: Its columns.
        attributes: What is known of the ids of one column, or None.
        folder: Of the attribute file's relative path.
        others: Files whose ids are known too: after those of training, with a count of 0.

    Raises:
        RecembError: If a column is missing or of a type that cannot hold what it should.
    """
    columns.check()
    for name in attributes.named if attributes else ():
        if name in columns.ids or name in columns.dense:
            raise RecembError(f"attribute {name!r} is also a column; give each its own name")
    named: dict[str, IdColumn | NumberColumn] = {**columns.ids, **columns.dense}
    for one in (file, *others):
        one.require([*(column.column or name for name, column in named.items()), columns.label])
    kinds = {name: _check_type(file, name, column) for name, column in columns.ids.items()}
    for name, lists in columns.lists.items():
        try:
            _padding_fits(lists, kinds[name])
        except ValueAtError as error:
            raise RecembError(
                f"{file.path}: column {lists.column or name!r}: {error.rule}"
            ) from None
    owners = [name for name, column in columns.ids.items() if not (column.raw or column.vocabulary)]
    vocabularies = {}
    for owner in tqdm(owners, "vocabularies", disable=file.num_rows < PROGRESS_ROWS, leave=False):
        counts = count_values(file, columns, owner, kinds)
        if others:
            more = [count_values(other, columns, owner, kinds) for other in others]
            counts = with_unseen(counts, more)
        vocabularies[owner] = build_vocabulary(owner, counts, columns.ids[owner].vocabulary_config)
    described = {
        name: Column(
            is_list=name in columns.lists,
            vocabulary=None if column.raw else column.vocabulary or name,
            padding=_raw_padding(column),
            is_text=kinds[column.vocabulary or name],
            mean_length=_mean_length(file, name, column, kinds[column.vocabulary or name]),
        )
        for name, column in columns.ids.items()
    }
    found = read_attributes(attributes, vocabularies, folder) if attributes else {}
    return Schema(
        columns=described,
        dense=_scales(file, columns),
        vocabularies=vocabularies | {one.name: one for one, _ in found.values()},
        attributes={name: one for name, (_, one) in found.items()},
    )


def _check_type(file: TableFile, name: str, column: IdColumn) -> bool:
    """Return whether a column holds strings (for a CSV list: strings that are no integers)."""
    in_file = column.column or name
    dtype = file.scan().collect_schema()[in_file]
    where = f"{file.path}: column {in_file!r}"
    nested = isinstance(dtype, pl.List | pl.Array)
    if isinstance(column, ListColumn):
        if dtype == pl.String:
            parts = pl.col(in_file).str.split(column.separator).list.explode()
            words = parts.filter((parts != "") & ~parts.str.contains(r"^-?\d+$"))
            return bool(file.collect(file.scan().select(words.len())).item())
        if not (nested or dtype == pl.Null or (file.is_text and dtype.is_integer())):
            raise RecembError(f"{where}: values must be lists, got type {dtype}")
    elif nested:
        raise RecembError(f"{where}: values must be single ids, got {dtype}; declare it in lists")
    inner = dtype.inner if nested else dtype  # type: ignore[attr-defined]
    text = is_text(inner) and not isinstance(inner, pl.List | pl.Array)
    if not (text or inner.is_integer() or inner in (pl.Boolean, pl.Null)):
        raise RecembError(f"{where}: ids must be integers or strings, got type {dtype}")
    return text


def count_values(
    file: TableFile, columns: Columns, owner: str, kinds: dict[str, bool]
) -> pl.DataFrame:
    """Return ``value`` and ``count`` over all columns that share the vocabulary of ``owner``."""
    sharing = [
        name for name, column in columns.ids.items() if name == owner or column.vocabulary == owner
    ]
    for name in sharing:
        if kinds[name] != kinds[owner]:
            raise RecembError(
                f"{file.path}: columns {name!r} and {owner!r} share a vocabulary, but one holds "
                "strings and the other integers; convert one"
            )
    values = pl.concat(
        [_flat_values(file, name, columns.ids[name], kinds[owner]) for name in sharing]
    )
    return file.collect(values.group_by("value").agg(count=pl.len().cast(pl.Int64)))


def with_unseen(training: pl.DataFrame, others: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the counts of training (0 for ids of other files) and, as ``seen``, of all files."""
    seen = pl.concat([training, *others]).group_by("value").agg(seen=pl.col("count").sum())
    return seen.join(training, on="value", how="left").with_columns(pl.col("count").fill_null(0))


def _flat_values(file: TableFile, name: str, column: IdColumn, text: bool) -> pl.LazyFrame:
    """Return the ids of a column one after the other, ``value``, without nulls.

    What is no id (an integer above 2^63) is left out: the encoder refuses it by row.
    """
    in_file = column.column or name
    value = pl.col(in_file)
    kind = pl.String if text else pl.Int64
    dtype = file.scan().collect_schema()[in_file]
    if isinstance(column, ListColumn) and not dtype.is_integer():
        if dtype == pl.String:
            value = value.str.split(column.separator)
        # Padding goes first, as in the encoder: it must not use up max_length.
        value = value.cast(pl.List(kind), strict=False)
        if column.padding is not None:
            value = value.list.eval(pl.element().filter(pl.element() != column.padding))
        if column.max_length is not None:
            value = value.list.tail(column.max_length)
        value = value.list.explode()
    flat = file.scan().select(value=value.cast(kind, strict=False)).drop_nulls()
    empty = isinstance(column, ListColumn) and dtype == pl.String and text
    return flat.filter(pl.col("value") != "") if empty else flat


def _mean_length(file: TableFile, name: str, column: IdColumn, text: bool) -> float:
    """Return the ids per row of a column."""
    if not isinstance(column, ListColumn):
        return 1.0
    ids = file.collect(_flat_values(file, name, column, text).select(pl.len())).item()
    return int(ids) / max(1, file.num_rows)


def _padding_fits(column: ListColumn, text: bool) -> None:
    """Raise a :class:`ValueAtError` if padding is a string among integers, or the reverse."""
    if column.padding is not None and isinstance(column.padding, str) != text:
        kind = "a string" if text else "an integer"
        raise ValueAtError(f"padding must be {kind} as the ids are, got {column.padding!r}")


def _raw_padding(column: IdColumn) -> int | None:
    padding = column.padding if isinstance(column, ListColumn) else None
    return hash_string(padding) if isinstance(padding, str) else padding


def _scales(file: TableFile, columns: Columns) -> dict[str, DenseColumn]:
    """Return mean and scale of the dense columns; a constant column keeps scale 1."""
    scales = {}
    for name, column in columns.dense.items():
        if not column.standardize:
            scales[name] = DenseColumn()
            continue
        in_file = column.column or name
        dtype = file.scan().collect_schema()[in_file]
        if not (dtype.is_numeric() or dtype == pl.Boolean):
            raise RecembError(
                f"{file.path}: column {in_file!r}: values must be numbers, got type {dtype}"
            )
        value = pl.col(in_file).cast(pl.Float64)
        found = file.scan().select(
            value.mean(), sd=value.std(ddof=0), low=value.min(), hi=value.max()
        )
        mean, scale, low, high = file.collect(found).row(0)
        # The deviation of a constant 0.1 comes out as 7e-18, which would blow its rounding up.
        constant = low == high
        scales[name] = DenseColumn(
            mean=(low if constant else mean) or 0.0, scale=1.0 if constant else scale or 1.0
        )
    return scales


def read_attributes(
    described: AttributeFile, vocabularies: dict[str, Vocabulary], folder: Path
) -> dict[str, tuple[Vocabulary, Attribute]]:
    """Return, per attribute, the vocabulary of its values and the values of each owner.

    An attribute's values are ranked by the training counts of the owners that have them, so their
    numbering too is by falling training frequency; or they are ids of a column whose vocabulary the
    attribute shares.

    Raises:
        RecembError: If the key has no vocabulary, is not distinct, or a value is wrong.
    """
    file = TableFile(folder / described.path)
    named = described.named
    file.require([described.key, *(column.column or name for name, column in named.items())])
    if described.key not in vocabularies:
        raise RecembError(
            f"{file.path}: key {described.key!r} is not a column with a vocabulary, which are "
            f"{sorted(vocabularies)}"
        )
    owner = vocabularies[described.key]
    frame = pl.concat(
        [file.read(group, file.schema.names) for group in range(len(file.group_sizes))]
    )
    found = {}
    in_file = described.key
    try:
        owner_M = owner.lookup(_keys(frame[in_file], owner.is_text))
        for name, column in named.items():
            in_file = column.column or name
            shared = _shared(name, column, vocabularies)
            found[name] = _attribute(name, column, frame[in_file], owner_M, owner, shared)
    except ValueAtError as error:
        row = "" if error.place is None else f", row {error.place}"
        raise RecembError(f"{file.path}: column {in_file!r}{row}: {error.rule}") from None
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


def _keys(keys: pl.Series, text: bool) -> torch.Tensor:
    """Return the raw ids of the rows of an attribute file."""
    raw = raw_ids(keys, text)
    refuse_where(keys.is_null(), keys, "a key must not be null")
    refuse_where(keys.is_duplicated(), keys, "keys must be distinct")
    return as_tensor(raw)


def _attribute(
    name: str,
    column: IdColumn,
    values: pl.Series,
    owner_M: torch.Tensor,
    owner: Vocabulary,
    shared: Vocabulary | None,
) -> tuple[Vocabulary, Attribute]:
    """Return one attribute; ``owner_M`` holds the owner's index of each row of the file."""
    is_list = isinstance(column, ListColumn)
    values, raw, lengths_M = _attribute_ids(column, values)
    known_M = (owner_M >= 0) & (owner_M < owner.num_known)
    vocabulary = shared
    if vocabulary is None:
        weight_M = torch.where(known_M, owner.counts_V[owner_M.clamp(0, owner.num_known - 1)], 0)
        # An owner that only other files have is seen too, though training never counted it.
        seen_M = torch.where(known_M, weight_M.clamp(min=1), 0)
        weight_N, seen_N = torch.stack([weight_M, seen_M]).repeat_interleave(lengths_M, 1).numpy()
        distinct = values.cast(pl.String) if is_text(values.dtype) else raw
        counts = pl.DataFrame({"value": distinct, "count": weight_N, "seen": seen_N})
        counts = counts.drop_nulls().group_by("value").agg(pl.col("count", "seen").sum())
        vocabulary = build_vocabulary(name, counts, column.vocabulary_config)
    elif vocabulary.is_text != is_text(values.dtype):
        raise ValueAtError(
            f"ids must be as those of {vocabulary.name!r}, whose vocabulary it shares"
        )
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
    column: IdColumn, values: pl.Series
) -> tuple[pl.Series, pl.Series, torch.Tensor]:
    """Return the values one after the other, their raw ids, and how many each row has."""
    text = is_text(values.dtype)
    if isinstance(column, ListColumn):
        _padding_fits(column, text)
        flat, lengths_M = flatten(values, column, text)
        try:
            return flat, raw_ids(flat, text), lengths_M
        except ValueAtError as error:
            raise ValueAtError(error.rule, row_of(error.place, lengths_M)) from None
    if isinstance(values.dtype, pl.List | pl.Array):
        raise ValueAtError(
            f"values must be single ids, got type {values.dtype}; declare it in lists"
        )
    return values, raw_ids(values, text), torch.ones(len(values), dtype=torch.int64)
