"""The local rows store: one process, one flat tensor per row form, touched-rows-only updates.

All tables of one width and precision lie one after the other in one tensor
(:mod:`recemb.rows.flat`), so that a batch is one ``index_select`` however many tables it reads: on
a CPU about three times as fast as a table-batched kernel. Gradients stay a list of (rows,
gradients); a step sums duplicates, updates the distinct rows in fp32 and writes them back. Nothing
of the size of a table is ever allocated.

Shapes: R rows of all tables of a form, D their width, T rows gathered, U <= T distinct ones.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from recemb.errors import NotFiniteError, RecembError
from recemb.jagged import is_tracing
from recemb.physical import PhysicalTable
from recemb.rows.draw import drawn_whole, new_seed
from recemb.rows.flat import Flat, LearnedStepFlat, make_flat
from recemb.rows.optimizers import SGD, UpdateRule, rules_of
from recemb.rows.parameter import RowsParameter, check_not_replicated, is_accumulated
from recemb.rows.pending import Gradients, Pending, Reminder
from recemb.rows.store import STATE, TABLE, RowsStore, check_entries


class _Gather(torch.autograd.Function):
    """A selection of rows whose backward hands the gradient to the store.

    What stands for the rows that may be among them is given too, so that autograd knows whose
    gradients it finds.
    """

    @staticmethod
    def forward(
        ctx: Any, flat: Flat, rows_T: Tensor, pending: Pending, *parameters: RowsParameter
    ) -> Tensor:
        ctx.save_for_backward(rows_T)
        ctx.flat, ctx.pending, ctx.parameters = flat, pending, parameters
        return flat.select(rows_T)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[None, ...]:
        (rows_T,) = ctx.saved_tensors
        asked = ctx.next_functions[1:]  # the first is that of rows_T
        wanted = [
            one
            for one, (node, _) in zip(ctx.parameters, asked, strict=True)
            if is_accumulated(one, node)
        ]
        if len(wanted) < len(ctx.parameters):  # backward(inputs=...)
            is_wanted_T = ctx.flat.is_of([one.table for one in wanted], rows_T)
            rows_T, grad_TD = rows_T[is_wanted_T], grad_TD[is_wanted_T]
        ctx.pending.add(rows_T, grad_TD)
        return (None,) * (3 + len(ctx.parameters))


def _entry(table: str) -> str:
    """Return the name of a table's parameter in its module."""
    return f"rows|{table.replace('.', '|')}"


@dataclass(slots=True)
class _Block:
    """A flat with what training keeps beside it."""

    flat: Flat
    pending: Pending
    state: dict[str, Tensor]


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


class LocalRowsStore(RowsStore):
    """Flat tensors in this process, on any device.

    Args:
        physical: The tables, by name.
        optimizer: How touched rows change: of all tables, or by table.
        seed: Of what rows begin with; by default one from torch's generator.

    Raises:
        RecembError: If a setting of an optimizer is out of range.

    The rows are buffers. What stands for them among the parameters, one for each table
    (:class:`~recemb.rows.parameter.RowsParameter`), decides whether they are frozen
    (``requires_grad_(False)``), whatever the mode of the module.
    """

    def __init__(
        self,
        physical: Mapping[str, PhysicalTable],
        optimizer: UpdateRule | Mapping[str, UpdateRule],
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.physical = dict(physical)
        self.rules = rules_of(self.physical, optimizer)
        # Of a store without tables, such as that of a process that holds no piece of any.
        self._rule = SGD() if isinstance(optimizer, Mapping) else optimizer
        self.num_steps = 0
        # By width and precision, where this store sees but a part of a step's reads.
        self.reads_of: Mapping[tuple[int, str], int] = {}
        self.reminder = Reminder()
        # What errors call the tables, where they have other names in this store.
        self.titles: Mapping[str, str] = {}
        self._block_of = {name: self._block_name(name) for name in self.physical}
        self.flats = nn.ModuleDict()
        self._blocks: dict[str, _Block] = {}
        for key in dict.fromkeys(self._block_of.values()):
            own = {name: one for name, one in physical.items() if self._block_of[name] == key}
            flat = make_flat(own)
            self.flats[key] = flat
            rule = self.rules[next(iter(own))]
            dims = rule.state_dims(flat.dim) if flat.is_trainable else {}
            state = {name: torch.zeros(flat.num_rows, n) for name, n in dims.items()}
            parameters = [RowsParameter(name, flat.dim) for name in own if flat.is_trainable]
            for one in parameters:
                self.register_parameter(_entry(one.table), one)
            self._blocks[key] = _Block(flat, Pending(parameters, flat, self.reminder), state)
        seed = new_seed() if seed is None else seed
        for name, table in self.physical.items():
            self._flat(name).assign(name, drawn_whole(name, table, seed))

    def _block_name(self, table: str) -> str:
        """Return what tables have in common that lie in one flat: form and kind of optimizer."""
        own = "_".join(map(str, self.physical[table].form))
        kinds = {rule.kind for rule in self.rules.values()}
        return f"{own}_{self.rules[table].kind}" if len(kinds) > 1 else own

    @property
    def optimizer(self) -> UpdateRule:
        """How touched rows change; of the first table, where tables differ."""
        return next(iter(self.rules.values()), self._rule)

    @optimizer.setter
    def optimizer(self, optimizer: UpdateRule) -> None:
        self._rule = optimizer
        self.rules = dict.fromkeys(self.rules, optimizer)

    def set_rules(self, rules: Mapping[str, UpdateRule]) -> None:
        """Set how rows of tables change from the next step on; kinds stay as they are."""
        self.rules = {**self.rules, **rules}

    def rows_parameters(self) -> dict[str, list[RowsParameter]]:
        """Return what stands for the rows of each table, as far as they are trained."""
        found: dict[str, list[RowsParameter]] = {name: [] for name in self.physical}
        for block in self._blocks.values():
            for one in block.pending.parameters:
                found[one.table].append(one)
        return found

    def leave_reminding(self) -> None:
        """Take dropped gradients for steps that a scaler left out."""
        self.reminder.is_stepped_by_torch = True

    def storage_key(self, table: str) -> Hashable:
        """Return what tables of one gather have in common."""
        return self._block_of[table]

    def _apply(self, fn: Any, recurse: bool = True) -> "LocalRowsStore":
        """Move optimizer state along with the rows; it is no buffer, for it is not served."""
        for block in self._blocks.values():
            block.pending.clear()
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
        if torch.is_grad_enabled() and block.flat.is_trainable and not is_tracing():
            asked = set(tables)
            trained = [
                one for one in block.pending.parameters if one.requires_grad and one.table in asked
            ]
            if trained:
                self._check_parameters(trained)
                gathered: Tensor = _Gather.apply(  # type: ignore[no-untyped-call, unused-ignore]
                    block.flat, rows_T, block.pending, *trained
                )
                return gathered
        return block.flat.select(rows_T)

    def _check_parameters(self, parameters: Sequence[RowsParameter]) -> None:
        """Raise a :class:`RecembError` where gradients of rows would not go where they should."""
        for one in parameters:
            if self._parameters.get(_entry(one.table)) is not one:
                raise RecembError(
                    f"table {one.table!r}: its parameter was replaced by another tensor, as "
                    "functional_call and FullyShardedDataParallel do, but rows do not lie in it; "
                    "give functional_call the parameters of recemb.optim.dense_parameters alone"
                )
        check_not_replicated(parameters[0])

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
        return block.pending.take()

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
        self.reminder.num_passes = 0
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
        step = self.num_steps + 1
        rules = [self.rules[name] for name in block.flat.places]
        if all(rule == rules[0] for rule in rules):
            return rules[0].decayed_update(old_UD, grads_UD, state, step)
        starts = torch.searchsorted(rows_U, block.flat.starts_K).tolist()
        new_UD = torch.empty_like(old_UD)
        for rule, start, stop in zip(rules, starts, [*starts[1:], len(rows_U)], strict=True):
            own = {key: values[start:stop] for key, values in state.items()}
            new_UD[start:stop] = rule.decayed_update(
                old_UD[start:stop], grads_UD[start:stop], own, step
            )
        return new_UD

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
        """Raise a :class:`NotFiniteError` if a block's rows cannot be given these numbers."""
        found = [one for one in found if one[2].numel()]
        if not found:
            return
        # One reading for all: on a GPU each waits for what has been asked of it.
        sizes = torch.stack([torch.linalg.vector_norm(new, math.inf) for _, _, new in found])
        for (block, gradients, new_UD), size in zip(found, sizes.tolist(), strict=True):
            if not size <= block.flat.largest:
                raise self._not_finite(block.flat, gradients, new_UD)

    def _not_finite(self, flat: Flat, gradients: Gradients, new_UD: Tensor) -> NotFiniteError:
        """Return the error that names the first row which cannot be stored."""
        is_wrong_U = ~(new_UD.abs() <= flat.largest).all(1)
        row = int(gradients.rows_U[is_wrong_U][0])
        name, place = next(one for one in flat.places.items() if one[1].start <= row < one[1].stop)
        where = f"table {self.titles.get(name, name)!r}: step {self.num_steps + 1} was not made"
        if not gradients.grads_UD[is_wrong_U][0].isfinite().all():
            return NotFiniteError(
                f"{where}, for the gradient of row {row - place.start} is not finite; lower the "
                "learning rates, or look for such numbers in the data and the loss (a loss that is "
                "scaled needs a torch.amp.GradScaler that steps a recemb.optim.RowsOptimizer)"
            )
        return NotFiniteError(
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
        rates_U1 = self._step_rates(
            flat, rows_U, 1 / math.sqrt(max(1, reads) * flat.dim * flat.limit)
        )
        flat.move_steps(rows_U, -rates_U1 * gradient_U1)
        flat.write(rows_U, new_UD)

    def _step_rates(self, flat: Flat, rows_U: Tensor, scale: float) -> Tensor | float:
        """Return by what learned steps of rows move: a number, or (U, 1) where tables differ."""
        rates = [self.rules[name].step_learning_rate * scale for name in flat.places]
        if len(set(rates)) == 1:
            return rates[0]
        table_U = torch.searchsorted(flat.starts_K, rows_U, right=True) - 1
        return torch.tensor(rates, device=rows_U.device)[table_U].unsqueeze(1)

    def discard(self) -> None:
        """Forget pending gradients."""
        for block in self._blocks.values():
            block.pending.clear()

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
        if any(block.pending.waits for block in self._blocks.values()):
            self.reminder.say_unsaved()
        for name, rows in self.tables().items():
            destination[f"{prefix}{name}"] = rows
