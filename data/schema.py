"""Schema: read a training file once to learn its vocabularies, number scales and attributes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from recemb.data.attribute_file import open_attributes, padding_fits, read_attributes
from recemb.data.columns import AttributeFile, Columns, IdColumn, ListColumn, NumberColumn
from recemb.data.encode import error_in, ids_of_lists
from recemb.data.files import PROGRESS_ROWS, TableFile, exactly
from recemb.data.id_types import IdsOfFile, text_of_columns
from recemb.data.values import IdKind, ValueAtError, number, raw_ids
from recemb.errors import RecembError
from recemb.hashing import hash_string
from recemb.schema import Column, DenseColumn, Schema
from recemb.vocabulary import build_vocabulary


def build_schema(
    file: TableFile,
    columns: Columns,
    attributes: AttributeFile | None,
    folder: Path,
    others: Sequence[TableFile] = (),
    all_files: Sequence[TableFile] = (),
) -> Schema:
    """Return what ``file`` (training) and the attribute file say of the columns.

    Args:
        file: The training file.
        columns: Its columns.
        attributes: What is known of the ids of one column, or None.
        folder: Of the attribute file's relative path.
        others: Files whose ids are known too: after those of training, with a count of 0.
        all_files: All files of the data set: what ids are, strings or integers, is decided over
            them, as far as they have the columns.

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
    about = open_attributes(attributes, folder) if attributes else None
    files = {one.path: one for one in (file, *others, *all_files)}
    kinds = text_of_columns(columns, list(files.values()), attributes, about)
    for name, lists in columns.lists.items():
        try:
            padding_fits(lists, kinds[name])
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
        try:
            vocabularies[owner] = build_vocabulary(
                owner, counts, columns.ids[owner].vocabulary_config
            )
        except RecembError:
            check_values(file, columns, owner, kinds)
            raise
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
    found = {}
    if attributes is not None and about is not None:
        found = read_attributes(about, attributes, columns, vocabularies, kinds)
    return Schema(
        columns=described,
        dense=_scales(file, columns),
        vocabularies=vocabularies | {one.name: one for one, _ in found.values()},
        attributes={name: one for name, (_, one) in found.items()},
    )


def count_values(
    file: TableFile, columns: Columns, owner: str, kinds: Mapping[str, bool]
) -> pl.DataFrame:
    """Return ``value`` and ``count`` over all columns that share the vocabulary of ``owner``."""
    values = pl.concat(
        IdsOfFile(file, column.column or name, column).values(kinds[owner])
        for name, column in columns.sharing(owner).items()
    )
    return file.collect(values.group_by("value").agg(count=pl.len().cast(pl.Int64)))


def check_values(file: TableFile, columns: Columns, owner: str, kinds: Mapping[str, bool]) -> None:
    """Raise a :class:`RecembError` that says why a vocabulary has no values, where it is the file.

    Minimum counts are not looked at: a value that is no id, or columns without any value.
    """
    is_declared = columns.declared_type(owner) is not None
    kind = IdKind(kinds[owner], is_declared, file.is_text)
    some = 0
    sharing = {one.column or name: one for name, one in columns.sharing(owner).items()}
    for group in range(len(file.group_sizes)):
        frame = file.read(group, list(sharing))
        for name, column in sharing.items():
            values = frame[name].rename("")
            try:
                if isinstance(column, ListColumn):
                    some += len(ids_of_lists(values, column, kind)[0])
                else:
                    some += raw_ids(values, kind).count()
            except ValueAtError as error:
                raise error_in(file.path, name, error, file.first_row(group)) from None
    if not some:
        what = (
            "every list is empty"
            if isinstance(columns.ids[owner], ListColumn)
            else "every value is null"
        )
        raise RecembError(
            f"{file.path}: column {next(iter(sharing))!r}: {what} in all {file.num_rows} rows of "
            "training; leave the column out, or fill it"
        )


def with_unseen(training: pl.DataFrame, others: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the counts of training (0 for ids of other files) and, as ``seen``, of all files."""
    seen = pl.concat([training, *others]).group_by("value").agg(seen=pl.col("count").sum())
    return seen.join(training, on="value", how="left").with_columns(pl.col("count").fill_null(0))


def _mean_length(file: TableFile, name: str, column: IdColumn, text: bool) -> float:
    """Return the ids per row of a column."""
    if not isinstance(column, ListColumn):
        return 1.0
    values = IdsOfFile(file, column.column or name, column).values(text)
    ids = file.collect(values.select(pl.len())).item()
    return int(ids) / max(1, file.num_rows)


def _number(file: TableFile, column: str) -> pl.Expr:
    """Return a column as float64.

    Raises:
        RecembError: If it holds no numbers.
    """
    dtype, value = file.type_of(column), exactly(column)
    if file.is_text and dtype == pl.String:
        return number(value)  # cells that are none are null; the encoder refuses them by line
    if not (dtype.is_numeric() or dtype == pl.Boolean):
        raise RecembError(
            f"{file.path}: column {column!r}: values must be numbers, got type {dtype}"
        )
    return value.cast(pl.Float64)


def _raw_padding(column: IdColumn) -> int | None:
    padding = column.padding if isinstance(column, ListColumn) else None
    return hash_string(padding) if isinstance(padding, str) else padding


def _moments(file: TableFile, column: str) -> tuple[float, float, float, float]:
    """Return mean, deviation, least and largest of a column of numbers; 0, 0, 0, 0 of no number.

    Row group by row group in their order, so that no bit depends on how many threads there are.
    """
    value = _number(file, column)
    count, mean, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
    for group in range(len(file.group_sizes)):
        frame = file.read(group, [column]).select(value.alias("value"))
        own_N = frame["value"].drop_nulls().to_numpy()
        if not len(own_N):
            continue
        # A cell that is not finite is refused by its row where rows are read, not warned of here.
        with np.errstate(all="ignore"):
            own_mean = float(own_N.mean())
            own_squares = float(np.square(own_N - own_mean).sum())
        # Chan, Golub and LeVeque 1979: the moments of two parts as one.
        step, total = own_mean - mean, count + len(own_N)
        squares += own_squares + step * step * (count * len(own_N) / total)
        mean += step * (len(own_N) / total)
        count = total
        low, high = min(low, float(own_N.min())), max(high, float(own_N.max()))
    return (mean, math.sqrt(squares / count), low, high) if count else (0.0, 0.0, 0.0, 0.0)


def _scales(file: TableFile, columns: Columns) -> dict[str, DenseColumn]:
    """Return mean and scale of the dense columns; a constant column keeps scale 1."""
    scales = {}
    for name, column in columns.dense.items():
        if not column.standardize:
            scales[name] = DenseColumn()
            continue
        in_file = column.column or name
        mean, scale, low, high = _moments(file, in_file)
        # The deviation of a constant 0.1 comes out as 7e-18, which would blow its rounding up.
        constant = low == high
        scales[name] = DenseColumn(
            mean=low if constant else mean, scale=1.0 if constant else scale or 1.0
        )
    return scales
