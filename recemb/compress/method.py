"""What a method of compression is: which tables it can shrink, to which sizes, and how.

A method turns what a trained table holds into the content of a smaller table, of the same kind or
of another. It knows neither checkpoints nor budgets: :mod:`recemb.compress.plan` chooses sizes, and
:mod:`recemb.compress.tables` converts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recemb.errors import RecembError
from recemb.physical import Precision, Step
from recemb.tables.full import Full
from recemb.tables.kind import FP32_BYTES, IdSpace, TableConfig, TableContent


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedTable:
    """One table of a trained model."""

    name: str
    kind: str
    """The name of the kind it was trained as."""
    spaces: tuple[IdSpace, ...]
    """The id spaces of the features that read it."""
    lookups: int
    """The most lookups that a feature does in it."""
    content: TableContent
    """What it holds, in the form that is served."""

    @property
    def where(self) -> str:
        """What starts the message of an error."""
        return f"table {self.name!r}"

    @property
    def num_bytes(self) -> int:
        """Serving bytes as it is."""
        return self.bytes_of(self.content.config)

    def bytes_of(self, config: TableConfig) -> int:
        """Return its serving bytes with another configuration."""
        own = config.serving_bytes(self.where, self.spaces)
        # serving_bytes() counts the projection of a single lookup.
        further = config.vector_dim(self.lookups) - config.vector_dim(1)
        return own + further * (config.project or 0) * FP32_BYTES


class Method(ABC):
    """A way to make tables smaller.

    Attributes:
        name: As the command line has it.
        has_size: Whether there is a size for a budget to choose.
    """

    name: str
    has_size: bool = True

    @abstractmethod
    def refusal(self, table: TrainedTable) -> str | None:
        """Return why the method does not apply to a table; None where it does."""

    @abstractmethod
    def sizes(self, table: TrainedTable) -> Sequence[Any]:
        """Return the sizes that a table may be given, from the fewest bytes to the most."""

    def unsized(self) -> Any:
        """Return the size to use without a budget.

        Raises:
            RecembError: If there is none.
        """
        raise RecembError(
            f"method {self.name} makes tables as small as it is asked to; give a budget or a share"
        )

    @abstractmethod
    def config(self, table: TrainedTable, size: Any) -> TableConfig:
        """Return the configuration of a table of a size."""

    @abstractmethod
    def convert(self, table: TrainedTable, size: Any) -> TableContent:
        """Return the table in that size."""

    def advice(self, tables: Mapping[str, TrainedTable], room: int) -> str:
        """Return what to do about ``room`` bytes that are too few for ``tables``, in short."""
        return "or choose another method"


class FullOnly(Method):
    """A method for plain tables."""

    def refusal(self, table: TrainedTable) -> str | None:
        """Return a reason for every kind but full."""
        if table.kind != "full":
            return f"it is of kind {table.kind}, and {self.name} compresses kind full only"
        return None

    @staticmethod
    def plain(table: TrainedTable) -> Full:
        """Return the configuration that the table has."""
        assert isinstance(table.content.config, Full)
        return table.content.config


def storage(config: TableConfig) -> dict[str, Any]:
    """Return the settings of how rows are stored, for a table whose rows will be others.

    A learned step belongs to the rows that it was learned with; new ones get a fitted one.
    """
    precision: Precision = config.precision
    step: Step = "row" if config.step == "learned" else config.step
    return {"precision": precision, "step": step}
