"""Id types: whether ids are strings or integers, decided once over all files that hold them.

Parquet files say what their columns are. Text files do not: their columns are integers if the cells
of all files are (``7``, but not ``007``, ``+7``, ``7.0`` or what is above 2^63), so that no two
texts become one id; else all are strings. What is declared wins over both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from recemb.data.columns import AttributeFile, Columns, IdColumn, IdType, ListColumn
from recemb.data.files import TableFile, exactly
from recemb.data.values import is_text
from recemb.errors import RecembError


@dataclass(frozen=True, slots=True)
class IdsOfFile:
    """A column of ids in one file."""

    file: TableFile
    name: str
    """The column's name in the file."""
    column: IdColumn
    """What is said of it."""

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"{self.file.path}: column {self.name!r}"

    def lists(self) -> bool:
        """Return whether it holds lists.

        Raises:
            RecembError: If its type cannot hold ids, or holds lists where there should be none.
        """
        dtype = self.file.type_of(self.name)
        nested = isinstance(dtype, pl.List | pl.Array)
        if not (nested or dtype.is_integer() or is_text(dtype)) and not self.has_values():
            return isinstance(self.column, ListColumn)
        if isinstance(self.column, ListColumn):
            is_joined = dtype == pl.String or (self.file.is_text and dtype.is_integer())
            if not (nested or is_joined or dtype == pl.Null):
                raise RecembError(f"{self.where}: values must be lists, got type {dtype}")
        elif nested:
            raise RecembError(
                f"{self.where}: values must be single ids, got type {dtype}; declare it in lists"
            )
        inner = dtype.inner if nested else dtype  # type: ignore[attr-defined]
        text = is_text(inner) and not isinstance(inner, pl.List | pl.Array)
        if not (text or inner.is_integer() or inner in (pl.Boolean, pl.Null)):
            raise RecembError(
                f"{self.where}: ids must be integers or strings, got type {dtype}; convert the "
                "column to one of them"
            )
        return isinstance(self.column, ListColumn)

    def has_values(self) -> bool:
        """Return whether any row holds an id; a column that is empty says nothing.

        Whatever its type: pandas writes empty columns as floats.
        """
        value, dtype = exactly(self.name), self.file.type_of(self.name)
        count = value.list.len().sum() if isinstance(dtype, pl.List) else value.count()
        return bool(self.file.collect(self.file.scan().select(count)).item())

    def values(self, text: bool) -> pl.LazyFrame:
        """Return the ids one after the other, ``value``, without nulls and padding.

        What is no id (an integer above 2^63) is left out: the encoder refuses it by its place.
        """
        kind = pl.String if text else pl.Int64
        if not self.lists():
            value = exactly(self.name)
            if is_text(self.file.type_of(self.name)):
                value = value.cast(pl.String)  # categories would be cast to their codes
            return self.file.scan().select(value=value.cast(kind, strict=False)).drop_nulls()
        assert isinstance(self.column, ListColumn)
        value = self._parts().cast(pl.List(kind), strict=False)
        # Padding goes first, as in the encoder: it must not use up max_length.
        if self.column.padding is not None:
            value = value.list.eval(pl.element().filter(pl.element() != self.column.padding))
        if self.column.max_length is not None:
            value = value.list.tail(self.column.max_length)
        flat = self.file.scan().select(value=value).drop_nulls()
        return flat.explode("value", empty_as_null=False).drop_nulls()

    def _parts(self) -> pl.Expr:
        """Return the lists as lists; empty cells of joined ones are null."""
        value, dtype = exactly(self.name), self.file.type_of(self.name)
        if isinstance(dtype, pl.List | pl.Array):
            return value.cast(pl.List(pl.String)) if is_text(dtype) else value
        assert isinstance(self.column, ListColumn)
        text = value.cast(pl.String)
        return pl.when(text != "").then(text.str.split(self.column.separator))

    def found(self) -> tuple[IdType | None, bool]:
        """Return what the file says of the type (None: nothing), and whether it is certain."""
        is_list = self.lists()
        dtype = self.file.type_of(self.name)
        if dtype == pl.String and is_list:
            value = pl.col("value")
            is_word = value.cast(pl.Int64, strict=False).cast(pl.String).ne_missing(value)
            parts = self.file.scan().select(value=self._parts()).drop_nulls()
            parts = parts.explode("value", empty_as_null=False)
            counts = parts.select(pl.len(), words=(is_word & (value != "")).sum())
            some, words = self.file.collect(counts).row(0)
            return ("string" if words else "integer" if some else None), False
        if isinstance(dtype, pl.List | pl.Array):
            dtype = dtype.inner  # type: ignore[assignment]
        if not (is_text(dtype) or dtype.is_integer() or dtype == pl.Boolean):
            return None, False
        return ("string" if is_text(dtype) else "integer"), not self.file.is_text


def decide_text(columns: Sequence[IdsOfFile], declared: IdType | None) -> bool:
    """Return whether ids are strings.

    Args:
        columns: All that hold ids of one space.
        declared: What the user says.

    Raises:
        RecembError: If the files contradict each other, or a type cannot hold ids.
    """
    found = [(one, *one.found()) for one in columns]
    if declared is not None:
        return declared == "string"
    certain: dict[IdType, IdsOfFile] = {}
    guessed: dict[IdType, IdsOfFile] = {}
    for one, kind, is_certain in found:
        if kind is not None:
            (certain if is_certain else guessed).setdefault(kind, one)
    if len({*certain, *guessed}) > 1:
        with_values = [one for one in found if one[2] and one[0].has_values()]
        certain = {kind: one for one, kind, _ in reversed(with_values) if kind is not None}
    strings = certain.get("string")
    integers = certain.get("integer")
    if integers is not None and strings is None:
        strings = guessed.get("string")
    if strings is not None and integers is not None:
        raise RecembError(
            f"{_share(strings, integers)}, but one holds strings and the other integers; convert "
            "one, or declare its type"
        )
    return strings is not None or (integers is None and "string" in guessed)


def _share(strings: IdsOfFile, integers: IdsOfFile) -> str:
    if strings.file.path == integers.file.path:
        names = f"columns {strings.name!r} and {integers.name!r}"
        return f"{strings.file.path}: {names} share a vocabulary"
    return f"{strings.where}: it shares ids with {integers.where}"


def text_of_columns(
    columns: Columns,
    files: Sequence[TableFile],
    described: AttributeFile | None,
    about: TableFile | None,
) -> dict[str, bool]:
    """Return whether the ids of each column and attribute are strings.

    Args:
        columns: Of the data.
        files: All of the data set; one that lacks a column says nothing of it.
        described: What is known of the ids of one column, or None.
        about: The file with it.

    Raises:
        RecembError: If the files contradict each other, or a type cannot hold ids.
    """
    attributes = described.named if described else {}
    kinds: dict[str, bool] = {}
    for owner, column in columns.ids.items():
        if column.vocabulary is not None:
            continue
        sharing = columns.sharing(owner)
        found = [
            IdsOfFile(file, one.column or name, one)
            for name, one in sharing.items()
            for file in files
            if file.names.count(one.column or name) == 1
        ]
        declared = columns.declared_type(owner)
        if about is not None and described is not None:
            if described.key == owner:
                found.append(IdsOfFile(about, described.key_in_file, IdColumn()))
            for name, one in attributes.items():
                if one.vocabulary == owner:
                    if one.type not in (None, declared):
                        raise RecembError(
                            f"attribute {name!r}: its ids are those of column {owner!r}; declare "
                            "the type there"
                        )
                    found.append(IdsOfFile(about, one.column or name, one))
        kinds |= dict.fromkeys(sharing, decide_text(found, declared))
    for name, one in attributes.items():
        assert about is not None
        owner = one.vocabulary or name
        if one.vocabulary is None:
            kinds[name] = decide_text([IdsOfFile(about, one.column or name, one)], one.type)
        elif owner in kinds:
            kinds[name] = kinds[owner]
    return kinds
