"""The interface of a rows store, and what every store must promise.

A store owns the rows of physical tables. It gathers rows differentiably; the backward pass leaves
the gradients of touched rows with a :class:`~recemb.rows.parameter.RowsParameter`, where torch's
tools reach them, and :meth:`RowsStore.step` makes the update.

Contract (``tests/rows/contract.py`` holds every store to it):

* gather is exact: rows come back as they are stored (fp32 bit for bit), in the order asked for,
  duplicates included;
* an update is that of the summed gradient of each distinct row, whatever the duplicates, and leaves
  rows that were not gathered, and their optimizer state, untouched;
* several backward passes before a step add up;
* gradients follow ``requires_grad`` and the grad mode alone: rows train in evaluation mode too;
* no row is given a number that is not finite or outgrows its precision: such a step is refused
  before any row changes, and its gradients are gone;
* ``tables`` and ``optimizer_state`` are canonical: whole physical tables by name, the same from
  every store and at every number of processes, so that what one saved another loads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import PhysicalTable
from recemb.rows.optimizers import UpdateRule
from recemb.rows.parameter import RowsParameter

TABLE, STATE = "rows/", "optimizer/"
"""Begin the name of a part of the tables, and of one of the optimizer's state."""


class Part(NamedTuple):
    """What a process holds of an entry of the tables or of the optimizer's state."""

    entry: str
    shape: tuple[int, ...]
    """Of the whole entry."""
    offset: tuple[int, ...]
    """Where in the whole it begins."""
    tensor: Tensor
    """The stored values themselves, not a copy."""
    is_copy: bool = False
    """Whether another process holds the same and saves it."""


class RowsStore(nn.Module, ABC):
    """Owns the rows of named physical tables."""

    physical: dict[str, PhysicalTable]
    optimizer: UpdateRule
    """How touched rows change. Between steps it may be set to one of the same kind that is set
    otherwise, such as one with a lower rate."""
    has_buffers: ClassVar[bool] = True
    """Whether the rows are buffers of this module, so that whoever counts or saves buffers has
    them; if not, they are saved by their parts."""
    rules: dict[str, UpdateRule]
    """How the rows of each table change."""
    num_steps: int
    """Steps so far; some optimizers' updates depend on it."""

    @abstractmethod
    def rows_parameters(self) -> dict[str, list[RowsParameter]]:
        """Return what stands for the rows of each table, as far as this process trains them."""

    @abstractmethod
    def storage_key(self, table: str) -> Hashable:
        """Return what tables must have in common to be gathered together."""

    @abstractmethod
    def set_rules(self, rules: Mapping[str, UpdateRule]) -> None:
        """Set how rows of tables change from the next step on; kinds stay as they are."""

    def leave_reminding(self) -> None:
        """Say no more that gradients were dropped: rows have an optimizer in torch's terms now."""

    @abstractmethod
    def base_row(self, table: str) -> int:
        """Return what a caller adds to row numbers of ``table`` before asking for them."""

    @abstractmethod
    def gather(self, tables: Sequence[str], rows_T: Tensor, sizes_F: Tensor) -> Tensor:
        """Return rows as (T, dim); differentiable unless frozen or under ``no_grad``.

        Args:
            tables: F names, one per block of rows; a name may repeat; all of one
                :meth:`storage_key`.
            rows_T: Row numbers plus :meth:`base_row`, block by block.
            sizes_F: Rows per block, int64, adding up to T.
        """

    @abstractmethod
    def step(self, reevaluate: Callable[[], object] | None = None) -> None:
        """Apply the gradients that backward passes have left since the last step.

        Args:
            reevaluate: Runs forward and backward once more on the same batch. Learned
                quantisation steps take their gradient there, at the updated rows; without it they
                take that of the pass before. Called only where steps are learned.

        Raises:
            RecembError: If a row would become a number that is not finite, or one too large for
                its precision. Where there are several processes, it is raised where the row is.
        """

    @abstractmethod
    def discard(self) -> None:
        """Forget the gradients that backward passes have left since the last step."""

    @abstractmethod
    def reset(self, table: str, rows_U: Tensor, values_UD: Tensor) -> None:
        """Let rows begin anew, between steps: with given vectors and no optimizer state.

        Args:
            table: The physical table.
            rows_U: Rows of it, from 0, without :meth:`base_row`; each of them once.
            values_UD: Their vectors, rounded to the nearest. Where several processes hold the
                rows, all give the same.
        """

    @abstractmethod
    def values(self, table: str) -> Tensor:
        """Return one physical table as fp32 (codes: uint8): (num_rows, dim)."""

    @abstractmethod
    def assign(self, table: str, values_RD: Tensor) -> None:
        """Overwrite one physical table by values (num_rows, dim), rounded to the nearest."""

    @abstractmethod
    def tables(self) -> dict[str, Tensor]:
        """Return what is stored of every physical table, by name.

        A table in floating point is one entry (num_rows, dim); one in integers has its codes under
        its name and its scales under ``name.step`` or ``name.scale``.
        """

    def entry_bytes(self) -> dict[str, int]:
        """Return the bytes of every entry of :meth:`tables`."""
        return {name: one.numel() * one.element_size() for name, one in self.tables().items()}

    def state_bytes(self) -> int:
        """Return the bytes of the optimizer's state."""
        return sum(one.numel() * one.element_size() for one in self.optimizer_state().values())

    def parts(self) -> Iterator[Part]:
        """Yield what this process holds of all that is stored, but for the number of steps.

        Entries are named as by :meth:`tables` behind ``rows/`` and as by :meth:`optimizer_state`
        behind ``optimizer/``. What is written into a part is stored. Here all is in one process.
        """
        for start, entries in ((TABLE, self.tables()), (STATE, self.optimizer_state())):
            for name, tensor in entries.items():
                if start + name != f"{STATE}step":
                    yield Part(start + name, tuple(tensor.shape), (0,) * tensor.ndim, tensor)

    @abstractmethod
    def load_tables(self, tables: Mapping[str, Tensor]) -> None:
        """Overwrite every physical table.

        Raises:
            RecembError: If a table is missing, unknown or of another shape.
        """

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load whole tables by name; as torch does, report what is missing and what is unknown."""
        saved = {
            name.removeprefix(prefix): rows
            for name, rows in state_dict.items()
            if name.startswith(prefix)
        }
        known = {name: saved[name] for name in self.entry_bytes() if name in saved}
        missing = [name for name in self.entry_bytes() if name not in saved]
        unexpected_keys += [prefix + name for name in saved if name not in known]
        if known or self.has_buffers:
            missing_keys += [prefix + name for name in missing]
        if known:
            self.load_tables({**self.tables(), **known} if missing else known)

    @abstractmethod
    def optimizer_state(self) -> dict[str, Tensor]:
        """Return ``step`` and, as ``table/name``, each table's state: (num_rows, elements)."""

    @abstractmethod
    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Overwrite the optimizer's state.

        Raises:
            RecembError: If an entry is missing, unknown or of another shape.
        """


def check_entries(what: str, got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise a :class:`RecembError` naming the first entry of ``got`` that is not as ``wanted``."""
    for name in [*wanted, *got]:
        if name not in got:
            raise RecembError(
                f"{what}: table {name!r} is missing, got {sorted(got)}; it was saved by another "
                "configuration"
            )
        if name not in wanted:
            raise RecembError(
                f"{what}: table {name!r} is not among {sorted(wanted)}; it was saved by another "
                "configuration"
            )
        if got[name].shape != wanted[name].shape:
            raise RecembError(
                f"{what}: table {name!r} must have shape {tuple(wanted[name].shape)}, got "
                f"{tuple(got[name].shape)}; it was saved by another configuration"
            )
        if got[name].dtype != wanted[name].dtype:
            raise RecembError(
                f"{what}: table {name!r} must be {wanted[name].dtype}, got {got[name].dtype}; "
                "convert it first"
            )
