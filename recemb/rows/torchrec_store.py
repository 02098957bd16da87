"""The TorchRec rows store: rows that are spread over processes, or small and in each of them.

    gather: row numbers --TorchRec--> their owners --rows--> vectors --TorchRec--> who asked
    step:   each owner updates the rows that anyone touched; small tables are updated everywhere

Gradients are means over processes, so a step is that of one process on all samples, if each process
takes the mean over its equal share of them.

Shapes: R rows of a table, D their width, T rows gathered.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.distributed.types import ShardingEnv

from recemb.errors import RecembError
from recemb.physical import INTEGERS, PhysicalTable, zeros
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import RowsOptimizer
from recemb.rows.placement import Piece, part_of, place
from recemb.rows.replicated import ReplicatedRowsStore
from recemb.rows.store import RowsStore, check_entries
from recemb.rows.torchrec_sharding import ShardedTables

DRAWN_ELEMENTS = 1 << 24
"""Elements of a table that are drawn at a time: no process ever holds a whole one."""


@dataclass(frozen=True, slots=True)
class _Held:
    """A piece of a table in one of this process's stores."""

    piece: Piece
    store: LocalRowsStore
    name: str


class TorchRecRowsStore(RowsStore):
    """Rows of all processes of the default group.

    Every method is for all processes together: each must call it, in the same order.

    Args:
        physical: The tables, by name.
        optimizer: How touched rows change.
        device: Of this process's rows; by default the CPU.

    Raises:
        RecembError: If there is no process group, or a table cannot lie as its ``sharding`` says.
    """

    has_buffers = False
    replicated: ReplicatedRowsStore

    def __init__(
        self,
        physical: Mapping[str, PhysicalTable],
        optimizer: RowsOptimizer,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if not dist.is_initialized():
            raise RecembError(
                "rows: the TorchRec store needs a process group; start with torchrun, or call "
                "torch.distributed.init_process_group"
            )
        self.physical = dict(physical)
        self.optimizer = optimizer
        self.device = device or torch.device("cpu")
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.placements = place(self.physical, self.world_size)
        self._check_optimizer()
        self.pieces: dict[str, list[Piece]] = {
            name: placement.pieces(self.physical[name])
            for name, placement in self.placements.items()
            if placement.how != "data_parallel"
        }
        small = {name: table for name, table in self.physical.items() if name not in self.pieces}
        # Undrawn: below, every table is drawn in the order in which a local store would.
        empty = {name: replace(table, initializer=zeros) for name, table in small.items()}
        # Past nn.Module's registration, here and below: state, mode and device of the stores inside
        # are this store's business, and their parameters nobody's.
        self.__dict__["replicated"] = ReplicatedRowsStore(empty, optimizer).to(self.device)
        self._sharded: dict[str, ShardedTables] = {}
        self._make_sharded()
        self._held = list(self._find_held())
        for name in self.physical:
            self._draw(name)

    def _check_optimizer(self) -> None:
        narrow = [
            name
            for name, placement in self.placements.items()
            if placement.how == "column_wise"
            and any(
                width != self.physical[name].dim
                for width in self.optimizer.state_dims(self.physical[name].dim).values()
            )
        ]
        if narrow and self.world_size > 1:
            raise RecembError(
                f"table {narrow[0]!r}: rows_optimizer keeps one number per row, which blocks of "
                "columns cannot share; use adagrad or adam, or row_wise sharding"
            )

    def _make_sharded(self) -> None:
        env = ShardingEnv.from_process_group(dist.group.WORLD)
        forms = {self.physical[name].form for name in self.pieces}
        for form in sorted(forms, key=repr):
            own = {n: t for n, t in self.physical.items() if n in self.pieces and t.form == form}
            self._sharded[repr(form)] = ShardedTables(
                own,
                {name: self.placements[name] for name in own},
                self.optimizer,
                env,
                self.device,
            )

    def _find_held(self) -> Iterator[_Held]:
        for tables in self._sharded.values():
            for store in tables.stores():
                for name in store.physical:
                    table, _, first_column = name.rpartition("@")
                    for piece in self.pieces[table]:
                        if (piece.rank, piece.first_column) == (self.rank, int(first_column)):
                            yield _Held(piece, store, name)

    def _held_of(self, table: str) -> list[_Held]:
        return [held for held in self._held if held.name.rpartition("@")[0] == table]

    def _stores(self) -> list[LocalRowsStore]:
        return [
            self.replicated,
            *(store for tables in self._sharded.values() for store in tables.stores()),
        ]

    def _draw(self, name: str) -> None:
        """Draw a table as a local store would, some rows at a time, and keep this process's part.

        All processes draw all of it, so that what they hold is one table, whatever their number.
        """
        table = self.physical[name]
        if name not in self.pieces:
            rows_RD = torch.empty(table.num_rows, table.dim)
            table.initializer(rows_RD)
            self.replicated.assign(name, rows_RD.to(self.device))
            return
        held = self._held_of(name)
        kept = [torch.empty(one.piece.num_rows, one.piece.num_columns) for one in held]
        step = max(1, DRAWN_ELEMENTS // table.dim)
        for first in range(0, table.num_rows, step):
            rows_CD = torch.empty(min(step, table.num_rows - first), table.dim)
            table.initializer(rows_CD)
            for one, own in zip(held, kept, strict=True):
                piece = one.piece
                start, end = (
                    max(first, piece.first_row),
                    min(first + len(rows_CD), piece.first_row + piece.num_rows),
                )
                if start < end:
                    columns = slice(piece.first_column, piece.first_column + piece.num_columns)
                    own[start - piece.first_row : end - piece.first_row] = rows_CD[
                        start - first : end - first, columns
                    ]
        for one, own in zip(held, kept, strict=True):
            one.store.assign(one.name, own.to(self.device))

    def _follow_mode(self) -> None:
        """Give the stores inside this one's mode: Lightning sets it past ``train()``."""
        if self.replicated.training != self.training:
            for store in self._stores():
                store.training = self.training

    # The interface

    def base_row(self, table: str) -> int:
        """Return 0 for a sharded table: TorchRec knows tables apart by name."""
        return 0 if table in self.pieces else self.replicated.base_row(table)

    def gather(self, tables: Sequence[str], rows_T: Tensor, sizes_F: Tensor) -> Tensor:
        """Exchange row numbers and vectors with the owners."""
        self._follow_mode()
        is_here = [table not in self.pieces for table in tables]
        if all(is_here):
            return self.replicated.gather(tables, rows_T, sizes_F)
        sizes = sizes_F.tolist()
        blocks = rows_T.split(sizes)
        here = [number for number, own in enumerate(is_here) if own]
        found: dict[int, Tensor] = {}
        if here:
            gathered = self.replicated.gather(
                [tables[number] for number in here],
                torch.cat([blocks[number] for number in here]),
                sizes_F[here],
            )
            found.update(zip(here, gathered.split([sizes[number] for number in here]), strict=True))
        sharded = self._sharded[repr(self.physical[tables[0]].form)]
        order = {name: number for number, name in enumerate(sharded.key_of)}
        there = [number for number, own in enumerate(is_here) if not own]
        there.sort(key=lambda number: order[tables[number]])
        lengths = [0] * len(order)
        for number in there:
            lengths[order[tables[number]]] += sizes[number]
        keyed = KeyedJaggedTensor(
            keys=list(sharded.key_of.values()),
            values=torch.cat([blocks[number] for number in there]),
            lengths=torch.tensor(lengths, device=rows_T.device),
        )
        vectors = sharded(keyed)
        flat = torch.cat([vectors[key].values() for key in sharded.key_of.values()])
        found.update(zip(there, flat.split([sizes[number] for number in there]), strict=True))
        return torch.cat([found[number] for number in range(len(tables))])

    def step(self, reevaluate: Callable[[], object] | None = None) -> None:
        """Update each distinct touched row once, wherever it lies."""
        stores = self._stores()
        # Decided by the tables and not by what this process touched: all must run it, or none.
        learns = any(
            table.precision in INTEGERS and table.step == "learned"
            for table in self.physical.values()
        )
        again = reevaluate if learns else None
        learning = [store.update(is_reevaluated=again is not None) for store in stores]
        if again is not None:
            again()
            for store, own in zip(stores, learning, strict=True):
                store.learn_steps(own)

    def discard(self) -> None:
        """Forget pending gradients."""
        for store in self._stores():
            store.discard()

    @torch.no_grad()
    def reset(self, table: str, rows_U: Tensor, values_UD: Tensor) -> None:
        """Let rows begin anew; every process takes those that it holds, and its columns of them."""
        if table not in self.pieces:
            self.replicated.reset(table, rows_U, values_UD)
        for one in self._held_of(table):
            piece = one.piece
            own_U = rows_U - piece.first_row
            is_here_U = (own_U >= 0) & (own_U < piece.num_rows)
            columns = slice(piece.first_column, piece.first_column + piece.num_columns)
            one.store.reset(one.name, own_U[is_here_U], values_UD[is_here_U, columns])

    def values(self, table: str) -> Tensor:
        """Return a whole table as fp32 (codes: uint8), a copy where it is sharded."""
        if table not in self.pieces:
            return self.replicated.values(table)
        physical = self.physical[table]
        dtype = torch.uint8 if physical.precision == "uint8" else torch.float32
        parts = [(one.piece, one.store.values(one.name)) for one in self._held_of(table)]
        return self._whole(table, (physical.num_rows, physical.dim), dtype, parts)

    @torch.no_grad()
    def assign(self, table: str, values_RD: Tensor) -> None:
        """Store values, rounded to the nearest; every process takes its part."""
        if table not in self.pieces:
            self.replicated.assign(table, values_RD)
        for one in self._held_of(table):
            one.store.assign(one.name, part_of(values_RD, one.piece).contiguous())

    def tables(self) -> dict[str, Tensor]:
        """Return whole tables, collected from all processes."""
        found = {}
        own = self.replicated.tables()
        for name, spec in self._entries():
            table, _ = spec
            if table in self.pieces:
                found[name] = self._collected(name, table, lambda one: one.store.tables())
            else:
                found[name] = own[name]
        return found

    def num_bytes(self) -> int:
        """Return the bytes of all tables, on whatever process they are."""
        return sum(entry.numel() * entry.element_size() for _, entry in self._wanted())

    @torch.no_grad()
    def load_tables(self, tables: Mapping[str, Tensor]) -> None:
        """Copy every process's part of every table into its place."""
        check_entries("rows", tables, dict(self._wanted()))
        self.replicated.load_tables({name: tables[name] for name in self.replicated.tables()})
        for one in self._held:
            table = one.name.rpartition("@")[0]
            for name, stored in one.store.tables().items():
                if name == one.name or name.startswith(f"{one.name}."):
                    stored.copy_(part_of(tables[table + name[len(one.name) :]], one.piece))

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return step and whole states, collected from all processes."""
        own = self.replicated.optimizer_state()
        found = {"step": own["step"]}
        for name, table in self.physical.items():
            for key in self._state_dims(table):
                entry = f"{name}/{key}"
                found[entry] = (
                    self._collected(entry, name, lambda one: one.store.optimizer_state())
                    if name in self.pieces
                    else own[entry]
                )
        return found

    @torch.no_grad()
    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy step and every process's part of every state into its place."""
        wanted = {"step": torch.tensor(0)}
        for name, table in self.physical.items():
            for key, width in self._state_dims(table).items():
                wanted[f"{name}/{key}"] = torch.empty(table.num_rows, width, device="meta")
        check_entries("rows optimizer", state, wanted)
        for store in self._stores():
            store.num_steps = int(state["step"])
        for name, values in self.replicated.optimizer_state().items():
            if name != "step":
                values.copy_(state[name])
        for one in self._held:
            owner = one.name.rpartition("@")[0]
            for name, stored in one.store.optimizer_state().items():
                if name.startswith(f"{one.name}/"):
                    whole = state[f"{owner}/{name.rpartition('/')[2]}"]
                    stored.copy_(part_of(whole, one.piece))

    def _state_dims(self, table: PhysicalTable) -> dict[str, int]:
        return {} if table.precision == "uint8" else self.optimizer.state_dims(table.dim)

    # Whole tables from pieces

    def _entries(self) -> Iterator[tuple[str, tuple[str, Tensor]]]:
        """Yield the name of each stored entry, its table and what a row of it looks like."""
        for name, table in self.physical.items():
            small = LocalRowsStore(
                {name: replace(table, num_rows=1, initializer=zeros)}, self.optimizer
            )
            for entry, row in small.tables().items():
                yield entry, (name, row)

    def _wanted(self) -> Iterator[tuple[str, Tensor]]:
        for entry, (name, row) in self._entries():
            table = self.physical[name]
            is_of_table = entry.endswith(".step") and table.step == "table" and entry != name
            shape = row.shape if is_of_table else (table.num_rows, *row.shape[1:])
            yield entry, torch.empty(shape, dtype=row.dtype, device="meta")

    def _collected(
        self, entry: str, table: str, read: Callable[[_Held], Mapping[str, Tensor]]
    ) -> Tensor:
        """Return a whole entry; ``read`` gives what a held piece's store has, by its own names."""
        end = entry[len(table) :]
        if "/" in end:
            physical = self.physical[table]
            shape: Sequence[int] = (
                physical.num_rows,
                self._state_dims(physical)[end.removeprefix("/")],
            )
            dtype = torch.float32
        else:
            wanted = dict(self._wanted())[entry]
            shape, dtype = wanted.shape, wanted.dtype
        parts = [(one.piece, read(one)[one.name + end]) for one in self._held_of(table)]
        return self._whole(table, shape, dtype, parts)

    def _whole(
        self,
        table: str,
        shape: Sequence[int],
        dtype: torch.dtype,
        parts: Sequence[tuple[Piece, Tensor]],
    ) -> Tensor:
        """Return a tensor of which every process has the parts of its pieces."""
        whole = torch.empty(shape, dtype=dtype, device=self.device)
        for piece in self.pieces[table]:
            own = next((tensor for held, tensor in parts if held == piece), None)
            target = part_of(whole, piece)
            if own is None:
                own = torch.empty(target.shape, dtype=dtype, device=self.device)
            own = own.contiguous()
            if not own.numel():
                continue
            # As bytes, because not every backend sends every type.
            dist.broadcast(own.view(-1).view(torch.uint8), src=piece.rank)
            target.copy_(own)
        return whole

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Save whole tables by name: the form that every store loads."""
        for name, rows in self.tables().items():
            destination[f"{prefix}{name}"] = rows

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load whole tables by name."""
        self.load_tables(
            {
                name.removeprefix(prefix): rows
                for name, rows in state_dict.items()
                if name.startswith(prefix)
            }
        )
