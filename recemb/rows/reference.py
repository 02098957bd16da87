"""The rows store in its most readable form: one tensor per table, one row at a time.

It exists to be read and to be the oracle of the fast stores' tests; it is never fast.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor, nn

from recemb.errors import RecembError
from recemb.physical import PhysicalTable
from recemb.rows.optimizers import UpdateRule, check_optimizer
from recemb.rows.parameter import RowsParameter
from recemb.rows.store import RowsStore, check_entries


class ReferenceRowsStore(RowsStore):
    """Dense autograd over separate tables, then a Python loop over the rows that were touched."""

    def __init__(self, physical: Mapping[str, PhysicalTable], optimizer: UpdateRule) -> None:
        super().__init__()
        check_optimizer("rows optimizer", optimizer)
        self.physical = dict(physical)
        self.rules = dict.fromkeys(self.physical, optimizer)
        self.num_steps = 0
        self.weights = nn.ParameterList()
        self.state: list[dict[str, Tensor]] = []
        self.touched: list[set[int]] = []
        self.index = {name: number for number, name in enumerate(physical)}
        for name, table in physical.items():
            if table.precision != "fp32":
                raise RecembError(
                    f"table {name!r}: the reference store keeps fp32, got {table.precision}; use "
                    "the local store"
                )
            rows = torch.empty(table.num_rows, table.dim)
            table.initializer(rows)
            self.weights.append(nn.Parameter(rows))
            dims = optimizer.state_dims(table.dim)
            self.state.append({key: torch.zeros(table.num_rows, n) for key, n in dims.items()})
            self.touched.append(set())

    def rows_parameters(self) -> dict[str, list[RowsParameter]]:
        """Return nothing: rows are parameters themselves here."""
        return {name: [] for name in self.physical}

    def storage_key(self, table: str) -> Hashable:
        """Return the width."""
        return self.physical[table].dim

    @property
    def optimizer(self) -> UpdateRule:
        """How touched rows change."""
        return next(iter(self.rules.values()))

    @optimizer.setter
    def optimizer(self, optimizer: UpdateRule) -> None:
        self.rules = dict.fromkeys(self.rules, optimizer)

    def set_rules(self, rules: Mapping[str, UpdateRule]) -> None:
        """Set how rows of tables change."""
        self.rules = {**self.rules, **rules}

    def base_row(self, table: str) -> int:
        """Return 0: every table is a tensor of its own."""
        return 0

    def gather(self, tables: Sequence[str], rows_T: Tensor, sizes_F: Tensor) -> Tensor:
        """Index each table with its block of row numbers."""
        blocks = []
        for name, rows in zip(tables, rows_T.split(sizes_F.tolist()), strict=True):
            block = self.weights[self.index[name]][rows]
            if block.requires_grad:
                # Read is not touched: only what a backward pass reaches is updated.
                touched = self.touched[self.index[name]]
                block.register_hook(lambda _, t=touched, r=rows: t.update(r.tolist()))
            blocks.append(block)
        return torch.cat(blocks)

    @torch.no_grad()
    def step(self, reevaluate: Callable[[], object] | None = None) -> None:
        """Update touched rows one by one."""
        for name, number in self.index.items():
            grad = self.weights[number].grad
            if grad is not None and not grad.isfinite().all():
                self.discard()
                raise RecembError(
                    f"table {name!r}: step {self.num_steps + 1} was not made, for a gradient is "
                    "not finite; lower the learning rates, or look for such numbers in the data"
                )
        self.num_steps += 1
        for name, weight, state, touched in zip(
            self.physical, self.weights, self.state, self.touched, strict=True
        ):
            for row in sorted(touched) if weight.grad is not None else ():
                one = slice(row, row + 1)
                block = {key: values[one] for key, values in state.items()}
                assert weight.grad is not None
                new = self.rules[name].decayed_update(
                    weight[one], weight.grad[one], block, self.num_steps
                )
                weight[one] = new
        self.discard()

    def discard(self) -> None:
        """Forget gradients and which rows were touched."""
        for weight, touched in zip(self.weights, self.touched, strict=True):
            weight.grad = None
            touched.clear()

    @torch.no_grad()
    def reset(self, table: str, rows_U: Tensor, values_UD: Tensor) -> None:
        """Overwrite rows one by one."""
        number = self.index[table]
        for row, value_D in zip(rows_U.tolist(), values_UD, strict=True):
            self.weights[number][row] = value_D
            for values in self.state[number].values():
                values[row] = 0

    def values(self, table: str) -> Tensor:
        """Return the tensor itself."""
        weight: Tensor = self.weights[self.index[table]]
        return weight.detach()

    def assign(self, table: str, values_RD: Tensor) -> None:
        """Copy a table in."""
        self.values(table).copy_(values_RD)

    def tables(self) -> dict[str, Tensor]:
        """Return the tensors themselves."""
        return {name: self.weights[number].detach() for name, number in self.index.items()}

    def load_tables(self, tables: Mapping[str, Tensor]) -> None:
        """Copy every table in."""
        check_entries("rows", tables, self.tables())
        for name, rows in tables.items():
            self.tables()[name].copy_(rows)

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return step and state by table."""
        state = {
            f"{name}/{key}": values
            for name, number in self.index.items()
            for key, values in self.state[number].items()
        }
        return {"step": torch.tensor(self.num_steps), **state}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy step and state in."""
        current = self.optimizer_state()
        check_entries("rows optimizer", state, current)
        self.num_steps = int(state["step"])
        for name, values in state.items():
            current[name].copy_(values)
