"""What every table kind is: a configuration, an encode and a compose.

    ids --encode--> row numbers --gather--> row vectors --compose--> one vector per id

A kind knows no rows store. It says which physical tables it wants (its *parts*), turns ids into row
numbers of them, and turns the gathered rows into vectors. One :class:`TableKind` module serves all
features of its kind whose parts have the same form, so encoding is a handful of tensor operations
however many features there are.

A table may serve several id spaces; kinds that give ids rows of their own number them space after
space. What is small and dense (codebooks, projections, MLPs) is the table's *learned* module, an
ordinary module with ordinary parameters.

A kind has one *free* size that a budget is solved for: :meth:`TableConfig.solve` returns the
configuration with that size filled in, and everything after it sees no budget.

Shapes: F features of the module, N ids of all of them (feature by feature), T >= N rows read (an
id may read several, one after the other), d elements per row, D elements per vector.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, Self, cast, get_args

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import INTEGERS, Initializer, PhysicalTable, Precision, Sharding, Step
from recemb.settings import check_types
from recemb.tables.budget import parse_bytes

FP32_BYTES = 4


@dataclass(frozen=True, slots=True)
class IdSpace:
    """A numbering of ids.

    Attributes:
        name: Salts and errors use it.
        num_ids: How many there are (None: any 64-bit value).
        counts_V: Training counts of its first ids, falling; ids after them are unknown values.
            None where they were not counted.
    """

    name: str
    num_ids: int | None
    counts_V: Tensor | None = field(default=None, compare=False)

    def is_same(self, other: "IdSpace") -> bool:
        """Return whether another numbers the same ids, counts included."""
        mine, theirs = self.counts_V, other.counts_V
        if self != other or (mine is None) != (theirs is None):
            return False
        return mine is theirs or bool(torch.equal(cast(Tensor, mine), cast(Tensor, theirs)))

    def __str__(self) -> str:
        """Return how many ids there are, in words."""
        if self.num_ids is None:
            return "raw ids"
        counted = "" if self.counts_V is None else f", {len(self.counts_V)} of them counted"
        return f"{self.num_ids} ids{counted}"


@dataclass(kw_only=True, slots=True)
class TableContent:
    """A table with what it holds: the form in which it is converted.

    Attributes:
        config: Solved.
        values: Rows by part, as fp32 (codes: uint8).
        learned: The learned module, where the kind has one.
        selected: For parts that keep some of their rows or the first of their elements: which
            rows (None: all). They stay as they are stored, with no rounding anew.
        projection_OD: The learned matrix that vectors go through, where there is one; in a
            converted table None leaves it as it was.
    """

    config: "TableConfig"
    values: dict[str, Tensor]
    learned: nn.Module | None
    selected: dict[str, Tensor | None] = field(default_factory=dict)
    projection_OD: Tensor | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableConfig(ABC):
    """What a user says of one table. A kind is a subclass with a literal field ``kind``."""

    dim: int
    """Elements per vector (of a unified table: per lookup); at least 1."""
    init_scale: float = 0.05
    """Vectors start in about -init_scale..init_scale."""
    precision: Precision = "fp32"
    """How rows are stored, in training and in serving."""
    step: Step = "table"
    """For the integer precisions: what their unit belongs to."""
    sharding: Sharding | None = None
    """Where several processes train: how the rows lie on them. By default small parts are in each
    process and the others cut by rows."""
    project: int | None = None
    """Elements that the model sees, where a learned matrix (dim x project) shall map vectors."""
    budget: int | str | None = None
    """Serving bytes, such as 160000 or "160 kB"; the kind's free size is solved for it."""
    share: float | None = None
    """The same as a share, in 0..1, of the plain fp32 table of ``dim``."""

    searched: ClassVar[str] = "nothing"
    """What a budget is solved for: the name of a field."""
    formula: ClassVar[str] = ""
    """How a vector is made, on one line."""
    memory: ClassVar[str] = ""
    """Elements or bytes of storage, on one line."""
    paper: ClassVar[str] = ""
    """Where it comes from."""

    def check(self, where: str) -> None:
        """Raise a :class:`RecembError` that starts with ``where`` if a setting is out of range."""
        check_types(where, self)
        if self.dim < 1:
            raise RecembError(f"{where}: dim must be at least 1, got {self.dim}")
        if not 0 < self.init_scale < math.inf:
            raise RecembError(f"{where}: init_scale must be above 0, got {self.init_scale}")
        for name, choices in (("precision", get_args(Precision)), ("step", get_args(Step))):
            if getattr(self, name) not in choices:
                raise RecembError(
                    f"{where}: {name} must be one of {list(choices)}, got {getattr(self, name)!r}"
                )
        if self.sharding not in (None, *get_args(Sharding)):
            raise RecembError(
                f"{where}: sharding must be one of {list(get_args(Sharding))}, got "
                f"{self.sharding!r}"
            )
        if self.step != "table" and self.precision not in INTEGERS:
            raise RecembError(
                f"{where}: step={self.step!r} needs one of the precisions {list(INTEGERS)}, got "
                f"{self.precision!r}; set precision, or drop step"
            )
        if self.project is not None and self.project < 1:
            raise RecembError(f"{where}: project must be at least 1, got {self.project}")
        if self.budget is not None and self.share is not None:
            raise RecembError(
                f"{where}: give a budget or a share and not both, got budget={self.budget!r} and "
                f"share={self.share}"
            )
        default = {one.name: one.default for one in fields(self)}.get(self.searched, 0)
        size = getattr(self, self.searched, None)
        if default is None and size is not None and (self.share or self.budget) is not None:
            raise RecembError(
                f"{where}: kind {self.kind_name} takes {self.searched} or the share or budget that "
                f"chooses it, got {self.searched}={size} beside one; drop either"
            )
        if self.share is not None and not 0 < self.share <= 1:
            raise RecembError(f"{where}: share must be above 0 and at most 1, got {self.share}")
        if self.budget is not None:
            parse_bytes(where, self.budget)

    # What it stores

    @abstractmethod
    def physical_tables(self, where: str, spaces: Sequence[IdSpace]) -> dict[str, PhysicalTable]:
        """Return the parts, named.

        Args:
            where: Starts the message of an error.
            spaces: The distinct id spaces of the features that read the table.
        """

    def part(self, num_rows: int, dim: int, initializer: Initializer) -> PhysicalTable:
        """Return a part at the precision of the table."""
        return PhysicalTable(
            num_rows=num_rows,
            dim=dim,
            initializer=initializer,
            precision=self.precision,
            step=self.step,
            sharding=self.sharding,
        )

    def parts_of(self, space: IdSpace) -> tuple[str, ...] | None:
        """Return the parts that features of an id space read, in order; None: all of them."""
        return None

    def learned(self, where: str, spaces: Sequence[IdSpace]) -> nn.Module | None:
        """Return the learned module of a table, freshly initialised, or None."""
        return None

    def served(self, where: str, spaces: Sequence[IdSpace]) -> "TableConfig":
        """Return the configuration of the form that is served; by default its own."""
        return self

    def to_served(
        self, where: str, spaces: Sequence[IdSpace], content: TableContent
    ) -> TableContent:
        """Return the content of the form that is served; by default as it is."""
        return content

    def start_epoch(self, epoch: int, content: TableContent) -> None:
        """Change the learned module at the start of a training epoch, counted from 0.

        A run that goes on within an epoch begins it once more: what has been done stays done.

        Only staged kinds do; the rows are not theirs to change.
        """
        return

    def is_final(self, learned: nn.Module | None) -> bool:
        """Return whether training has reached the form that is served (before: staged kinds)."""
        return True

    def report(self, learned: nn.Module | None) -> dict[str, float]:
        """Return what a run reports of a table beside its size: counts and shares, by name."""
        return {}

    # What a vector is

    def vector_dim(self, lookups: int) -> int:
        """Return D, before any projection, for a feature that does ``lookups`` lookups."""
        return self.dim

    def composed_by(self, space: IdSpace) -> Hashable:
        """Return a key; features of different keys are composed apart although they agree else."""
        return None

    def output_dim(self, lookups: int) -> int:
        """Return how many elements the model sees."""
        return self.project or self.vector_dim(lookups)

    def reads_per_id(self, part: str, lookups: int) -> int:
        """Return how many rows of a part an id reads."""
        return 1

    def share_of_reads(self, part: str, space: IdSpace, spaces: Sequence[IdSpace]) -> float:
        """Return which share of the ids that are asked for in an id space read a part: 0 to 1."""
        return 1.0

    def signature(self, lookups: int) -> Hashable:
        """Return a key; features of a kind with equal keys are composed in one call."""
        return self.vector_dim(lookups)

    @abstractmethod
    def build(self, features: "Sequence[TableFeature]") -> "TableKind":
        """Return the module that serves ``features``, all of them of this kind."""

    # Budgets

    def with_defaults(self, where: str) -> Self:
        """Return the configuration without a budget; raise if its free size is then unknown."""
        if getattr(self, self.searched, 0) is None:
            raise RecembError(
                f"{where}: kind {self.kind_name} needs {self.searched}, share or budget; set one"
            )
        return self

    def free_sizes(self, where: str, spaces: Sequence[IdSpace]) -> Sequence[Any]:
        """Return the values that the free size may take, from the fewest bytes to the most."""
        raise RecembError(f"{where}: kind {self.kind_name} has no size that a budget could choose")

    def solve(self, where: str, spaces: Sequence[IdSpace], lookups: int = 1) -> Self:
        """Return the configuration with its free size solved and no budget left.

        The largest size whose serving form fits is taken.

        Args:
            where: Starts the message of an error.
            spaces: The id spaces of the table.
            lookups: Of its features, on which the bytes of a projection depend.

        Raises:
            RecembError: If not even the smallest size fits.
        """
        self.check(where)
        target = self.target_bytes(where, spaces)
        if target is None:
            return self.with_defaults(where)
        sizes = self.free_sizes(where, spaces)
        smallest = self._sized(sizes[0]).serving_bytes(where, spaces, lookups)
        if smallest > target:
            raise RecembError(
                f"{where}: kind {self.kind_name} cannot be smaller than {smallest:,} bytes "
                f"({self.searched}={sizes[0]}), got a budget of {target:,}; give it at least "
                f"{smallest}, or choose a smaller dim, precision or another kind"
            )
        low, high = 0, len(sizes) - 1
        while low < high:
            middle = (low + high + 1) // 2
            option = self._sized(sizes[middle])
            fits = option.serving_bytes(where, spaces, lookups) <= target
            low, high = (middle, high) if fits else (low, middle - 1)
        return self._sized(sizes[low])

    def _sized(self, size: Any) -> Self:
        # replace() alone would not know that the searched field is one of the subclass.
        return replace(self, **{self.searched: size, "budget": None, "share": None})

    def target_bytes(self, where: str, spaces: Sequence[IdSpace]) -> int | None:
        """Return the budget in bytes, or None where there is none."""
        if self.budget is not None:
            return parse_bytes(where, self.budget)
        if self.share is None:
            return None
        plain = num_ids(where, self, spaces) * self.dim * FP32_BYTES
        # Exact: the float product makes 3.0000000000000004 of 0.1 * 30.
        return math.floor(plain * Fraction(str(self.share)))

    def serving_bytes(self, where: str, spaces: Sequence[IdSpace], lookups: int = 1) -> int:
        """Return the bytes of the served form of a solved configuration, projection included."""
        served = self.served(where, spaces)
        rows = sum(part.num_bytes for part in served.physical_tables(where, spaces).values())
        # On the meta device a module has shapes but no storage.
        with torch.device("meta"):
            learned = served.learned(where, spaces)
        tensors = [*learned.parameters(), *learned.buffers()] if learned else []
        dense = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        projection = served.vector_dim(lookups) * (served.project or 0) * FP32_BYTES
        return rows + dense + projection

    @property
    def kind_name(self) -> str:
        """The value of the field ``kind``."""
        return str(getattr(self, "kind", type(self).__name__))


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFeature:
    """One feature as its kind sees it."""

    name: str
    table: str
    config: TableConfig
    space: IdSpace
    spaces: tuple[IdSpace, ...]
    """All id spaces of the table."""
    lookups: int
    parts: tuple[PhysicalTable, ...]
    """The parts it reads."""
    base_rows: tuple[int, ...]
    """Per part, what the rows store wants added to the row numbers of this feature's table."""
    reads: tuple[int, ...]
    """Per part, how many rows an id reads."""
    learned: nn.Module | None
    """The table's learned module."""

    @property
    def spaces_before(self) -> tuple[IdSpace, ...]:
        """The table's id spaces before this feature's."""
        names = [space.name for space in self.spaces]
        return self.spaces[: names.index(self.space.name)]

    @property
    def first_id(self) -> int:
        """Number of the space's first id among the ids of all spaces of the table."""
        return sum(space.num_ids or 0 for space in self.spaces_before)


@dataclass(frozen=True, slots=True)
class BlockIds:
    """The ids of a block of features, as they were given to encode, and whose they are."""

    ids_N: Tensor
    feature_N: Tensor


class PartialReads(NamedTuple):
    """Row numbers of a part that only some ids read, one row each.

    Attributes:
        rows_T: One for each id that reads the part, in the order of the ids.
        is_read_N: Which ids do.
    """

    rows_T: Tensor
    is_read_N: Tensor


@dataclass(frozen=True, slots=True)
class Handover:
    """Rows that go to other ids: their vectors and optimizer state begin anew.

    Attributes:
        table: Whose rows they are.
        part: Which of its parts.
        rows_U: The rows, numbered from 0 in their part; each of them once.
        first_U: For each the row of the same part whose vector it begins with.
    """

    table: str
    part: str
    rows_U: Tensor
    first_U: Tensor


class TableKind(nn.Module, ABC):
    """Encode and compose for all features of one kind whose parts have the same form."""

    is_costly: ClassVar[bool] = False
    """Whether an id costs so much that each distinct one of a batch is worth finding first."""

    @abstractmethod
    def encode(self, ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor | PartialReads, ...]:
        """Return the row numbers to read, per part: T int64, the reads of an id adjacent.

        A part that only some ids read, once, comes as :class:`PartialReads`.

        Args:
            ids_N: Ids of all features, feature by feature.
            feature_N: Which of the module's features each id belongs to, ascending.

        Where all features have equally many ids, ``ids_N`` comes as (F, B) and ``feature_N`` as
        (F, 1): per-feature constants then reach the ids by broadcasting, without being copied for
        each. So an encode is elementwise in the two; the shape of its result does not matter.
        """

    @abstractmethod
    def compose(self, parts: tuple[Tensor, ...], feature: TableFeature, ids: BlockIds) -> Tensor:
        """Return the (N, D) vectors of features that share the signature of ``feature``.

        Args:
            parts: Gathered rows per part: (N, reads per id, d); of a part that only some ids read
                (T, 1, d).
            feature: Any one of the features, for what they have in common. Where the table has a
                learned module, all of them read that table.
            ids: The N ids.
        """

    def loss(self) -> Tensor | float:
        """Return what the last training forward pass adds to the model's loss, and forget it."""
        return 0.0

    def forms(self) -> int:
        """Return in how many forms the kind wants each batch scored in training."""
        return 1

    def set_form(self, number: int | None) -> None:
        """Take a form, from 0 (a kind with fewer takes its last); None: the one that is served."""

    # What a training step ends with

    def count_reads(self) -> None:
        """Count the ids that were encoded in training since the last step.

        Called before the rows' step, which may have the batch read once more. All processes call
        it together, and what they have read counts as if one of them had.
        """

    def end_step(self) -> Sequence[Handover]:
        """Return the rows that go to other ids, after the rows' step; encode knows of it already.

        What was read since :meth:`count_reads` was a batch read again, and does not count.
        """
        return ()


def distinct(ids_N: Tensor, feature_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each feature's distinct ids, feature by feature, whose they are, and each one's place.

    Ids may be any 64-bit values, so they are numbered before they are joined with the feature.
    """
    number_N = torch.unique(ids_N, return_inverse=True)[1]
    count = max(1, len(ids_N))
    key_U, place_N = torch.unique(feature_N * count + number_N, return_inverse=True)
    ids_U = ids_N.new_empty(len(key_U)).index_put((place_N,), ids_N)
    return ids_U, torch.div(key_U, count, rounding_mode="floor"), place_N


def spread(values_F: Tensor, feature_N: Tensor) -> Tensor:
    """Return the value of each id's feature: the loop over features that encode does not do."""
    return values_F[feature_N]


def own_reads(rows_NR: Tensor, reads_F: Tensor, feature_N: Tensor, is_equal: bool) -> Tensor:
    """Return the reads that an id's feature makes, one after the other: (T,).

    Args:
        rows_NR: As many reads of each id as any feature makes.
        reads_F: How many of them each feature makes.
        feature_N: The feature of each id.
        is_equal: Whether all features make all of them: then (N, R) comes back as it is.
    """
    if is_equal:
        return rows_NR
    read_R = torch.arange(rows_NR.shape[-1], device=rows_NR.device)
    is_read_NR = read_R < spread(reads_F, feature_N).unsqueeze(-1)
    return rows_NR[is_read_NR.expand_as(rows_NR)]


def int_buffer(values: Sequence[int]) -> Tensor:
    """Return per-feature constants as an int64 tensor, to be registered as a buffer."""
    return torch.tensor(values, dtype=torch.int64)


def num_ids(where: str, config: TableConfig, spaces: Sequence[IdSpace]) -> int:
    """Return how many ids a table has.

    Raises:
        RecembError: If an id space has no vocabulary, or an empty one.
    """
    for space in spaces:
        if space.num_ids is None:
            reason = "a share" if config.share is not None else f"kind {config.kind_name}"
            raise RecembError(
                f"{where}: {reason} needs a vocabulary, got raw ids of {space.name!r}; set "
                "raw=false on the column, or use kind hashed or dynamic with num_rows or a budget"
            )
    total = sum(space.num_ids or 0 for space in spaces)
    if not total:
        raise RecembError(
            f"{where}: kind {config.kind_name} needs ids, got an empty vocabulary of "
            f"{[space.name for space in spaces]}; check the column"
        )
    return total
