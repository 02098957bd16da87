"""Schema: read a training file once to learn its vocabularies, number scales and attributes."""

from pathlib import Path

import polars as pl
import torch
from tqdm import tqdm

from data.chunk import bags_of
from data.columns import AttributeFile, Columns, IdColumn, ListColumn, NumberColumn
from data.encode import flatten, row_of
from data.files import TableFile
from data.values import MISSING, ValueAtError, as_tensor, is_text, raw_ids
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.schema import Attribute, Column, DenseColumn, Schema
from recemb.vocabulary import Vocabulary, build_vocabulary

PROGRESS_ROWS = 1_000_000
"""Files with fewer rows are read too fast for a progress bar to be of use."""


def build_schema(
    file: TableFile, columns: Columns, attributes: AttributeFile | None, folder: Path
) -> Schema:
    """Return what ``file`` (training) and the attribute file say of the columns.

    Args:
        file: The training file.
        columns: Its columns.
        attributes: What is known of the ids of one column, or None.
        folder: Of the attribute file's relative path.

    Raises:
        RecembError: If a column is missing or of a type that cannot hold what it should.
    """
    columns.check()
    named: dict[str, IdColumn | NumberColumn] = {**columns.ids, **columns.dense}
    file.require([*(column.column or name for name, column in named.items()), columns.label])
    kinds = {name: _check_type(file, name, column) for name, column in columns.ids.items()}
    owners = [name for name, column in columns.ids.items() if not (column.raw or column.vocabulary)]
    vocabularies = {}
    for owner in tqdm(owners, "vocabularies", disable=file.num_rows < PROGRESS_ROWS, leave=False):
        counts = count_values(file, columns, owner, kinds)
        vocabularies[owner] = build_vocabulary(owner, counts, columns.ids[owner].vocabulary_config)
    described = {
        name: Column(
            is_list=name in columns.lists,
            vocabulary=None if column.raw else column.vocabulary or name,
            padding=_raw_padding(column),
            is_text=kinds[column.vocabulary or name],
        )
        for name, column in columns.ids.items()
    }
    found = read_attributes(attributes, vocabularies, folder) if attributes else {}
    return Schema(
        columns=described,
        dense=_scales(file, columns),
        vocabularies={**vocabularies, **{name: one for name, (one, _) in found.items()}},
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
            words = parts.filter((parts != "") & ~parts.str.contains(r"^\d+$"))
            return bool(file.scan().select(words.len()).collect(engine="streaming").item())
        if not nested and dtype != pl.Null:
            raise RecembError(f"{where}: values must be lists, got type {dtype}")
    elif nested:
        raise RecembError(f"{where}: values must be single ids, got {dtype}; declare it in lists")
    inner = dtype.inner if nested else dtype  # type: ignore[attr-defined]
    text = is_text(inner)
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
    values = pl.concat([_flat_values(file, name, columns.ids[name]) for name in sharing])
    if not kinds[owner]:
        values = values.cast(pl.Int64)
    counted = values.group_by("value").agg(count=pl.len().cast(pl.Int64))
    return counted.collect(engine="streaming")


def _flat_values(file: TableFile, name: str, column: IdColumn) -> pl.LazyFrame:
    """Return the ids of a column one after the other as strings, ``value``, without nulls."""
    in_file = column.column or name
    value = pl.col(in_file)
    dropped = []
    if isinstance(column, ListColumn):
        if file.scan().collect_schema()[in_file] == pl.String:
            value = value.str.split(column.separator)
            dropped.append("")
        if column.padding is not None:
            dropped.append(str(column.padding))
        if column.max_length is not None:
            value = value.list.tail(column.max_length)
        value = value.list.explode()
    flat = file.scan().select(value=value.cast(pl.String)).drop_nulls()
    return flat.filter(~pl.col("value").is_in(dropped)) if dropped else flat


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
        if not file.scan().collect_schema()[in_file].is_numeric():
            raise RecembError(f"{file.path}: column {in_file!r}: values must be numbers")
        value = pl.col(in_file).cast(pl.Float64)
        found = file.scan().select(mean=value.mean(), scale=value.std(ddof=0))
        mean, scale = found.collect(engine="streaming").row(0)
        scales[name] = DenseColumn(mean=mean or 0.0, scale=scale or 1.0)
    return scales


def read_attributes(
    described: AttributeFile, vocabularies: dict[str, Vocabulary], folder: Path
) -> dict[str, tuple[Vocabulary, Attribute]]:
    """Return, per attribute, the vocabulary of its values and the values of each owner.

    An attribute's values are ranked by the training counts of the owners that have them, so their
    numbering too is by falling training frequency.

    Raises:
        RecembError: If the key has no vocabulary, is not distinct, or a value is wrong.
    """
    file = TableFile(folder / described.path)
    named = {**described.categorical, **described.lists}
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
    keys = frame[described.key]
    if keys.is_duplicated().any():
        place = int(keys.is_duplicated().arg_true()[0])
        raise RecembError(
            f"{file.path}: column {described.key!r}, row {place}: keys must be distinct, got "
            f"{keys[place]!r} twice"
        )
    found = {}
    for name, column in named.items():
        values = frame[column.column or name]
        try:
            owner_M = owner.lookup(as_tensor(raw_ids(keys, owner.is_text)))
            found[name] = _attribute(name, column, values, owner_M, owner)
        except ValueAtError as error:
            row = "" if error.place is None else f", row {error.place}"
            raise RecembError(f"{file.path}: column {values.name!r}{row}: {error.rule}") from None
    return found


def _attribute(
    name: str, column: IdColumn, values: pl.Series, owner_M: torch.Tensor, owner: Vocabulary
) -> tuple[Vocabulary, Attribute]:
    """Return one attribute; ``owner_M`` holds the owner's index of each row of the file."""
    is_list = isinstance(column, ListColumn)
    lengths_M = torch.ones(len(values), dtype=torch.int64)
    text = is_text(values.dtype)
    if isinstance(column, ListColumn):
        values, lengths_M = flatten(values, column, text)
    known_M = (owner_M >= 0) & (owner_M < owner.num_known)
    weight_M = torch.where(known_M, owner.counts_V[owner_M.clamp(0, owner.num_known - 1)], 0)
    weight_N = torch.repeat_interleave(weight_M, lengths_M)
    counts = pl.DataFrame({"value": values, "count": weight_N.numpy()})
    counts = counts.drop_nulls().group_by("value").agg(pl.col("count").sum())
    vocabulary = build_vocabulary(name, counts, column.vocabulary_config)
    index_N = vocabulary.lookup(as_tensor(raw_ids(values, text).fill_null(MISSING)))
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
    own = bags.take(row_V)
    return vocabulary, Attribute(owner.name, name, is_list, own.values, own.offsets)
