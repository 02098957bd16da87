"""The local rows store: one process, one flat tensor per row form, touched-rows-only updates.

All tables of one width and precision lie one after the other in one tensor
(:mod:`recemb.rows.flat`), so that a batch is one ``index_select`` however many tables it reads: on
a CPU about three times as fast as a table-batched kernel. Gradients stay a list of (rows,
gradients); a step sums duplicates, updates the distinct rows in fp32 and writes them back. Nothing
of the size of a table is ever allocated.

Shapes: R rows of all tables of a form, D their width, T rows gathered, U <= T distinct ones.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.jagged import is_tracing
from recemb.physical import PhysicalTable
from recemb.rows.draw import drawn_whole, new_seed
from recemb.rows.flat import Flat, LearnedStepFlat, make_flat
from recemb.rows.optimizers import RowsOptimizer, check_optimizer
from recemb.rows.pending import Pending
from recemb.rows.store import STATE, TABLE, RowsStore, check_entries


class _Gather(torch.autograd.Function):
    """A selection of rows whose backward hands the gradient to the store."""

    @staticmethod
    def forward(
        ctx: Any, anchor: nn.Parameter, block: "_Block", rows_T: Tensor, pending: Pending
    ) -> Tensor:
        ctx.save_for_backward(rows_T)
        ctx.anchor, ctx.form, ctx.pending = anchor, block.form, pending
        return block.flat.select(rows_T)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, None, None, None]:
        (rows_T,) = ctx.saved_tensors
        ctx.pending.add(ctx.form, rows_T, grad_TD, ctx.anchor)
        return torch.zeros_like(ctx.anchor), None, None, None


@dataclass(slots=True)
class _Block:
    """A flat with what training keeps beside it."""

    form: str
    flat: Flat
    state: dict[str, Tensor]


class Gradients(NamedTuple):
    """Distinct rows, ascending, their summed gradients, and how many reads that was."""

    rows_U: Tensor
    grads_UD: Tensor
    reads: int


class Update(NamedTuple):
    """What a step makes of touched rows and their state, before any of it is stored."""

    block: _Block
    gradients: Gradients
    new_UD: Tensor | None
    """None where all rows are touched: their state is not copied, so it changes when they do."""
    state: dict[str, Tensor]


class Learning(NamedTuple):
    """Rows whose learned steps are to move."""

    block: _Block
    rows_U: Tensor
    new_UD: Tensor


def sum_duplicates(rows_T: Tensor, grads_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows, ascending, and the sum of each one's gradients: (U,), (U, D)."""
    if bool((rows_T.diff() > 0).all()):
        return rows_T, grads_TD  # such as a whole table, read in its order
    rows_U, place_T = torch.unique(rows_T, return_inverse=True)
    sums_UD = grads_TD.new_zeros(rows_U.shape[0], grads_TD.shape[1])
    return rows_U, sums_UD.index_add_(0, place_T, grads_TD)


class LocalRowsStore(RowsStore):
    """Flat tensors in this process, on any device.

    Args:
        physical: The tables, by name.
        optimizer: How touched rows change.
        seed: Of what rows begin with; by default one from torch's generator.

    Raises:
        RecembError: If a setting of the optimizer is out of range.

    Attributes:
        anchor: An empty parameter by which gathered rows require gradients: rows are frozen where
            it does not (``requires_grad_(False)``), whatever the mode of the module.

    The rows are buffers, so no dense optimizer sees them.
    """

    def __init__(
        self,
        physical: Mapping[str, PhysicalTable],
        optimizer: RowsOptimizer,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_optimizer("rows optimizer", optimizer)
        self.physical = dict(physical)
        self.optimizer = optimizer
        self.num_steps = 0
        # By width and precision, where this store sees but a part of a step's reads.
        self.reads_of: Mapping[tuple[int, str], int] = {}
        self.anchor = nn.Parameter(torch.empty(0))
        self.pending = Pending()
        # What errors call the tables, where they have other names in this store.
        self.titles: Mapping[str, str] = {}
        forms = {table.form: "_".join(map(str, table.form)) for table in self.physical.values()}
        self._block_of = {name: forms[table.form] for name, table in self.physical.items()}
        self.flats = nn.ModuleDict()
        self._blocks: dict[str, _Block] = {}
        for form, key in forms.items():
            own = {name: table for name, table in self.physical.items() if table.form == form}
            flat = make_flat(own)
            self.flats[key] = flat
            dims = optimizer.state_dims(flat.dim) if flat.is_trainable else {}
            state = {name: torch.zeros(flat.num_rows, n) for name, n in dims.items()}
            self._blocks[key] = _Block(key, flat, state)
        seed = new_seed() if seed is None else seed
        for name, table in self.physical.items():
            self._flat(name).assign(name, drawn_whole(name, table, seed))

    def _apply(self, fn: Any, recurse: bool = True) -> "LocalRowsStore":
        """Move optimizer state along with the rows; it is no buffer, for it is not served."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for block in self._blocks.values():
            block.state = {key: fn(values) for key, values in block.state.items()}
        return self

    def _flat(self, table: str) -> Flat:
        return self._blocks[self._block_of[table]].flat

    def base_row(self, table: str) -> int:
        """Return where the table starts in its flat tensor."""
        return int(self._flat(table).places[table].start)

    def gather(self, tables: Sequence[str], rows_T: Tensor, sizes_F: Tensor) -> Tensor:
        """Select rows of the flat tensor; where a block ends does not matter here."""
        block = self._blocks[self._block_of[tables[0]]]
        is_trained = self.anchor.requires_grad and block.flat.is_trainable
        if is_trained and torch.is_grad_enabled() and not is_tracing():
            gathered: Tensor = _Gather.apply(  # type: ignore[no-untyped-call, unused-ignore]
                self.anchor, block, rows_T, self.pending
            )
            return gathered
        return block.flat.select(rows_T)

    @torch.no_grad()
    def step(self, reevaluate: Callable[[], object] | None = None) -> None:
        """Update each distinct touched row once, by the sum of its gradients."""
        learning = self.store(self.updates(), is_reevaluated=reevaluate is not None)
        if learning and reevaluate is not None:
            with torch.enable_grad():
                reevaluate()
            self.learn_steps(learning)

    def take_gradients(self, block: _Block) -> Gradients | None:
        """Return what a block's rows have got, and forget it; None where there is nothing."""
        taken = self.pending.take(block.form)
        return None if taken is None else Gradients(*sum_duplicates(*taken), len(taken[0]))

    @property
    def learns_steps(self) -> bool:
        """Whether any table has learned steps."""
        return any(isinstance(block.flat, LearnedStepFlat) for block in self._blocks.values())

    @torch.no_grad()
    def updates(self) -> list[Update]:
        """Return what pending gradients make of rows, and forget them; nothing is stored yet.

        Raises:
            RecembError: If a number is not finite or outgrows its table's precision.
        """
        taken = [(block, self.take_gradients(block)) for block in self._blocks.values()]
        self.discard()
        updates = [self._update(block, own) for block, own in taken if own is not None]
        self._check_finite(
            (one.block, one.gradients, one.gradients.grads_UD if one.new_UD is None else one.new_UD)
            for one in updates
        )
        return updates

    def _update(self, block: _Block, gradients: Gradients) -> Update:
        if len(gradients.rows_U) == block.flat.num_rows:
            # Distinct and as many as there are: all rows in order.
            return Update(block, gradients, None, block.state)
        rows_U = gradients.rows_U
        touched = {key: values.index_select(0, rows_U) for key, values in block.state.items()}
        return Update(block, gradients, self._new_rows(block, gradients, touched), touched)

    def _new_rows(self, block: _Block, gradients: Gradients, state: Mapping[str, Tensor]) -> Tensor:
        rows_U, grads_UD, _ = gradients
        old_UD = block.flat.select(rows_U)
        return self.optimizer.update(old_UD, grads_UD, state, self.num_steps + 1)

    @torch.no_grad()
    def store(self, updates: Sequence[Update], is_reevaluated: bool) -> list[Learning]:
        """Store updates; return the rows whose steps wait for :meth:`learn_steps`.

        Args:
            updates: What :meth:`updates` has returned.
            is_reevaluated: Whether forward and backward run once more on the same batch before
                that. If not, learned steps move at once.
        """
        learning = []
        for block, gradients, new_UD, state in updates:
            rows_U, grads_UD, reads = gradients
            if new_UD is None:
                new_UD = self._new_rows(block, gradients, state)
                self._check_finite([(block, gradients, new_UD)])
            else:
                for key, values in block.state.items():
                    values.index_copy_(0, rows_U, state[key])
            if not isinstance(block.flat, LearnedStepFlat):
                block.flat.write(rows_U, new_UD)
            elif is_reevaluated:
                block.flat.write_nearest(rows_U, new_UD)
                learning.append(Learning(block, rows_U, new_UD))
            else:
                self._move_steps(block, rows_U, new_UD, grads_UD, reads)
        self.num_steps += 1
        return learning

    def _check_finite(self, found: Iterable[tuple[_Block, Gradients, Tensor]]) -> None:
        """Raise a :class:`RecembError` if a block's rows cannot be given these numbers."""
        found = [one for one in found if one[2].numel()]
        if not found:
            return
        # One reading for all: on a GPU each waits for what has been asked of it.
        sizes = torch.stack([torch.linalg.vector_norm(new, math.inf) for _, _, new in found])
        for (block, gradients, new_UD), size in zip(found, sizes.tolist(), strict=True):
            if not size <= block.flat.largest:
                raise self._not_finite(block.flat, gradients, new_UD)

    def _not_finite(self, flat: Flat, gradients: Gradients, new_UD: Tensor) -> RecembError:
        """Return the error that names the first row which cannot be stored."""
        is_wrong_U = ~(new_UD.abs() <= flat.largest).all(1)
        row = int(gradients.rows_U[is_wrong_U][0])
        name, place = next(one for one in flat.places.items() if one[1].start <= row < one[1].stop)
        where = f"table {self.titles.get(name, name)!r}: step {self.num_steps + 1} was not made"
        if not gradients.grads_UD[is_wrong_U][0].isfinite().all():
            return RecembError(
                f"{where}, for the gradient of row {row - place.start} is not finite; lower the "
                "learning rates, look for such numbers in the data and the loss, and do not scale "
                "the loss (GradScaler, 16-mixed): bf16-mixed needs no scaling"
            )
        return RecembError(
            f"{where}, for row {row - place.start} would outgrow what {flat.precision} rows hold "
            f"({flat.largest:.3g}); lower the learning rates, or take a wider precision"
        )

    @torch.no_grad()
    def learn_steps(self, learning: Sequence[Learning]) -> None:
        """Move learned steps by the gradient at the new rows, rounded to the nearest."""
        for block, rows_U, new_UD in learning:
            # Of accumulated batches only the last comes again, and a model may draw at random what
            # it reads: the steps of rows that do not come stay, rows that are new wait their turn.
            grads_UD, reads = torch.zeros_like(new_UD), 0
            taken = self.take_gradients(block)
            if taken is not None:
                again_A, grads_AD, reads = taken
                is_known_A = torch.isin(again_A, rows_U)
                place_A = torch.searchsorted(rows_U, again_A[is_known_A])
                grads_UD.index_copy_(0, place_A, grads_AD[is_known_A])
            self._move_steps(block, rows_U, new_UD, grads_UD, reads)
        self.discard()

    def _move_steps(
        self, block: _Block, rows_U: Tensor, new_UD: Tensor, grads_UD: Tensor, reads: int
    ) -> None:
        flat = block.flat
        assert isinstance(flat, LearnedStepFlat)
        reads = self.reads_of.get((flat.dim, flat.precision), reads)
        gradient_U1 = flat.step_gradient(rows_U, new_UD, grads_UD)
        self._check_finite([(block, Gradients(rows_U, grads_UD, reads), gradient_U1)])
        rate = self.optimizer.step_learning_rate / math.sqrt(max(1, reads) * flat.dim * flat.limit)
        flat.move_steps(rows_U, -rate * gradient_U1)
        flat.write(rows_U, new_UD)

    def discard(self) -> None:
        """Forget pending gradients."""
        self.pending.clear()
        self.anchor.grad = None

    @torch.no_grad()
    def reset(self, table: str, rows_U: Tensor, values_UD: Tensor) -> None:
        """Store vectors, rounded to the nearest, and clear the rows' optimizer state."""
        block = self._blocks[self._block_of[table]]
        place_U = rows_U + self.base_row(table)
        block.flat.reset(place_U, values_UD)
        for values in block.state.values():
            values.index_fill_(0, place_U, 0)

    def values(self, table: str) -> Tensor:
        """Return a table as fp32; where it is stored so, the tensor itself."""
        return self._flat(table).values(table)

    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store values, rounded to the nearest."""
        self._flat(table).assign(table, values_RD)

    def tables(self) -> dict[str, Tensor]:
        """Return views of the flat tensors, by table."""
        return {
            f"{name}.{key}" if key else name: tensor
            for name in self.physical
            for key, tensor in self._flat(name).entries(name).items()
        }

    def parts_of(self, table: str) -> Iterator[tuple[str, str, Tensor]]:
        """Yield what is stored of a table, and what its entry has before and after its name."""
        for key, tensor in self._flat(table).entries(table).items():
            yield TABLE, f".{key}" if key else "", tensor
        for key, values in self._blocks[self._block_of[table]].state.items():
            yield STATE, f"/{key}", values[self._flat(table).places[table]]

    def load_tables(self, tables: Mapping[str, Tensor]) -> None:
        """Copy every table into its place."""
        check_entries("rows", tables, self.tables())
        for name, stored in self.tables().items():
            stored.copy_(tables[name])

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return step and views of the state, by table."""
        state = {
            f"{name}/{key}": values[self._flat(name).places[name]]
            for name in self.physical
            for key, values in self._blocks[self._block_of[name]].state.items()
        }
        return {"step": torch.tensor(self.num_steps), **state}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy step and state into their places."""
        current = self.optimizer_state()
        check_entries("rows optimizer", state, current)
        self.num_steps = int(state["step"])
        for name, values in current.items():
            if name != "step":
                values.copy_(state[name])

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save whole tables by name, not flat tensors: the form that every store loads."""
        self.pending.say_unsaved()
        for name, rows in self.tables().items():
            destination[f"{prefix}{name}"] = rows
