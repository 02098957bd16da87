"""Columns: what a user says of the columns of a file."""

from dataclasses import dataclass, field
from typing import Literal

from recemb.errors import RecembError
from recemb.frames import Source, path_of
from recemb.vocabulary import Unknown, VocabularyConfig

IdType = Literal["string", "integer"]
"""What ids are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdColumn:
    """A column of ids: integers (not negative) or strings."""

    column: str | None = None
    """Its name in the file, where that differs from the feature's."""
    vocabulary: str | None = None
    """The column whose numbering it shares; its own by default."""
    type: IdType | None = None
    """What its ids are, and those of all columns that share its numbering. By default parquet files
    say; columns of text files are integers if the cells of all files of the data set are
    (``7``, but not ``007``, ``+7``, ``7.0``), else strings."""
    raw: bool = False
    """Whether the 64-bit value itself is the id, with no vocabulary (for hashing tables)."""
    min_count: int = 1
    """Values seen less often in training (or all files of ``known_from``) are unknown."""
    unknown: Unknown = "own"
    """What an unknown value gets: ``own`` index for all of them, a ``hash``ed one, or an
    ``error``."""
    num_unknown: int = 1
    """Indices for unknown values under ``hash``."""
    keep_strings: bool = True
    """Whether a vocabulary of strings keeps them, so that answers name ids as the files do; without
    them checkpoints are smaller and answers name ids by hashes. Raw ids have no vocabulary and are
    never kept."""

    @property
    def vocabulary_config(self) -> VocabularyConfig:
        """The settings of the vocabulary that this column owns."""
        return VocabularyConfig(
            min_count=self.min_count,
            unknown=self.unknown,
            num_unknown=self.num_unknown,
            keep_strings=self.keep_strings,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ListColumn(IdColumn):
    """A column of lists of ids: a history, or a multi-hot attribute."""

    max_length: int | None = None
    """Keep the last so many ids of each list."""
    padding: int | str | None = None
    """A value that stands for nothing and is dropped."""
    separator: str = "|"
    """In CSV files, what separates the ids of a list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberColumn:
    """A dense column of numbers."""

    column: str | None = None
    """Its name in the file, where that differs from the feature's."""
    standardize: bool = True
    """Whether the model sees (x - mean) / standard deviation of the training file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributeFile:
    """A file with one row per id of ``key``: what is known of each, looked up by the model."""

    path: Source
    """Parquet or CSV file, absolute or relative to the data folder; or a frame
    (:mod:`recemb.frames`), of which it becomes the file."""
    key: str
    """Column of the data whose ids the rows describe."""
    column: str | None = None
    """Its name in the file, where that differs."""
    categorical: dict[str, IdColumn] = field(default_factory=dict)
    """Columns with one id per row."""
    lists: dict[str, ListColumn] = field(default_factory=dict)
    """Columns with a list of ids per row."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", path_of(self.path, "attributes"))

    @property
    def key_in_file(self) -> str:
        """The key's name in the file."""
        return self.column or self.key

    @property
    def named(self) -> dict[str, IdColumn]:
        """All attributes by feature name."""
        return {**self.categorical, **self.lists}


LabelType = Literal["click", "number"]
"""What a label is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """All columns of a data set, by feature name."""

    label: str
    """Column of 0 and 1, or of numbers."""
    label_type: LabelType = "click"
    """``click``: 0 or 1; ``number``: any finite number, such as a rating."""
    categorical: dict[str, IdColumn] = field(default_factory=dict)
    """Columns with one id per row."""
    lists: dict[str, ListColumn] = field(default_factory=dict)
    """Columns with a list of ids per row."""
    dense: dict[str, NumberColumn] = field(default_factory=dict)
    """Columns of numbers."""

    @property
    def ids(self) -> dict[str, IdColumn]:
        """The categorical and the list columns."""
        return {**self.categorical, **self.lists}

    def sharing(self, owner: str) -> dict[str, IdColumn]:
        """Return the columns whose ids are of one space with those of ``owner``."""
        return {n: one for n, one in self.ids.items() if owner in (n, one.vocabulary)}

    def declared_type(self, name: str) -> IdType | None:
        """Return the type that is declared of a column, or of one that shares its numbering."""
        types = {one.type for one in self.sharing(self.ids[name].vocabulary or name).values()}
        return next(iter(types - {None}), None)

    def check(self) -> None:
        """Raise a :class:`RecembError` that names the column whose settings do not fit."""
        if not self.ids:
            raise RecembError("data: there must be a categorical or list column, got none")
        names = [*self.categorical, *self.lists, *self.dense]
        for name in names:
            if names.count(name) > 1:
                raise RecembError(f"column {name!r} is declared twice; give each its own name")
        for name, column in self.ids.items():
            where = f"column {name!r}"
            column.vocabulary_config.check(where)
            shared = column.vocabulary
            if column.raw and shared:
                raise RecembError(f"{where}: raw ids have no vocabulary, got {shared!r}; drop one")
            if shared and (
                shared not in self.ids or self.ids[shared].vocabulary or self.ids[shared].raw
            ):
                raise RecembError(
                    f"{where}: vocabulary {shared!r} is not a column with a vocabulary of its own"
                )
            if column.type not in (None, "string", "integer"):
                raise RecembError(
                    f"{where}: type must be 'string' or 'integer', got {column.type!r}"
                )
            types = {n: one.type for n, one in self.sharing(name).items() if one.type}
            if len(set(types.values())) > 1:
                raise RecembError(
                    f"{where}: columns of one numbering must be of one type, got {types}"
                )
            if isinstance(column, ListColumn) and not column.separator:
                raise RecembError(f"{where}: separator must not be empty, got ''")
            length = column.max_length if isinstance(column, ListColumn) else None
            if length is not None and length < 1:
                raise RecembError(f"{where}: max_length must be at least 1, got {length}")
