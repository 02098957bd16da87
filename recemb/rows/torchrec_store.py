"""The TorchRec rows store: rows that are spread over processes, or small and in each of them.

    gather: row numbers --TorchRec--> their owners --rows--> vectors --TorchRec--> who asked
    step:   each owner updates the rows that anyone touched; small tables are updated everywhere

Gradients are means over processes, so a step is that of one process on all samples, if each process
takes the mean over its equal share of them.

Shapes: R rows of a table, D their width, T rows gathered.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.distributed.types import ShardingEnv

from recemb.errors import RecembError
from recemb.physical import INTEGERS, PhysicalTable, zeros
from recemb.rows.draw import drawn, drawn_whole, new_seed
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import UpdateRule, check_optimizer
from recemb.rows.parameter import RowsParameter
from recemb.rows.placement import Piece, part_of
from recemb.rows.planner import place
from recemb.rows.replicated import ReplicatedRowsStore
from recemb.rows.store import STATE, TABLE, Part, RowsStore, check_entries
from recemb.rows.torchrec_sharding import ShardedTables
from recemb.rows.world import RATES, World

BATCH_SIZE = 1024
"""Samples of a batch, where the planner is not told."""


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
        world: What the planner is to know of the processes, the same in each of them; by default
            they are on one machine without a limit of memory.

    Raises:
        RecembError: If there is no process group, if a table cannot lie as its ``sharding`` says,
            if the tables do not fit, if a setting of the optimizer is out of range, or if there is
            one for each table.
    """

    has_buffers = False
    replicated: ReplicatedRowsStore

    def __init__(
        self,
        physical: Mapping[str, PhysicalTable],
        optimizer: UpdateRule | Mapping[str, UpdateRule],
        device: torch.device | None = None,
        world: World | None = None,
    ) -> None:
        super().__init__()
        if isinstance(optimizer, Mapping):
            raise RecembError(
                "rows optimizer: tables that are spread over processes have one kind of optimizer, "
                "got one for each table; give one for all, and set rates in the groups of a "
                "recemb.optim.RowsOptimizer"
            )
        if not dist.is_initialized():
            raise RecembError(
                "rows: the TorchRec store needs a process group; start with torchrun, or call "
                "torch.distributed.init_process_group"
            )
        check_optimizer("rows optimizer", optimizer)
        self.physical = dict(physical)
        self.rules = dict.fromkeys(self.physical, optimizer)
        self.device = device or torch.device("cpu")
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        world = world or World(
            size=self.world_size,
            local_size=self.world_size,
            batch_size=BATCH_SIZE,
            rates=RATES["cuda" if self.device.type == "cuda" else "cpu"],
        )
        self.placements = place(self.physical, optimizer, world)
        self.pieces: dict[str, list[Piece]] = {
            name: placement.pieces(self.physical[name])
            for name, placement in self.placements.items()
            if placement.how != "data_parallel"
        }
        small = {name: table for name, table in self.physical.items() if name not in self.pieces}
        # Undrawn, like the pieces: below, each process draws what it holds.
        empty = {name: replace(table, initializer=zeros) for name, table in small.items()}
        # Past nn.Module's registration, here and below: state and device of the stores inside are
        # this store's business.
        self.__dict__["replicated"] = ReplicatedRowsStore(empty, optimizer, seed=0).to(self.device)
        # Reads since the last step of the forms that learn their steps, by width and precision.
        self._reads = {
            (table.dim, str(table.precision)): 0
            for table in self.physical.values()
            if table.precision in INTEGERS and table.step == "learned"
        }
        self._sharded: dict[str, ShardedTables] = {}
        self._make_sharded()
        for number, store in enumerate(self._stores()):
            for own in store.rows_parameters().values():
                for parameter in own:
                    name = parameter.table.replace(".", "|")
                    self.register_parameter(f"rows{number}|{name}", parameter)
        self._held = list(self._find_held())
        seed = new_seed()
        for name, table in small.items():
            self.replicated.assign(name, drawn_whole(name, table, seed).to(self.device))
        for one in self._held:
            self._draw(one, seed)

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

    def _draw(self, held: _Held, seed: int) -> None:
        """Draw a piece as the same rows and columns of the whole table would be."""
        piece, name = held.piece, held.name.rpartition("@")[0]
        own = torch.empty(piece.num_rows, piece.num_columns)
        columns = slice(piece.first_column, piece.first_column + piece.num_columns)
        end = piece.first_row + piece.num_rows
        for first, rows_CD in drawn(name, self.physical[name], seed, piece.first_row, end):
            start = first - piece.first_row
            own[start : start + len(rows_CD)] = rows_CD[:, columns]
        held.store.assign(held.name, own.to(self.device))

    @property
    def num_steps(self) -> int:
        """Steps so far: as many in all stores inside."""
        return self.replicated.num_steps

    @num_steps.setter
    def num_steps(self, number: int) -> None:
        for store in self._stores():
            store.num_steps = number

    @property
    def optimizer(self) -> UpdateRule:
        """How touched rows change; of the first table, where rates of tables differ."""
        return next(iter(self.rules.values()), self.replicated.optimizer)

    @optimizer.setter
    def optimizer(self, optimizer: UpdateRule) -> None:
        self.rules = dict.fromkeys(self.physical, optimizer)
        for store in self._stores():
            store.optimizer = optimizer

    # The interface

    def base_row(self, table: str) -> int:
        """Return 0 for a sharded table: TorchRec knows tables apart by name."""
        return 0 if table in self.pieces else self.replicated.base_row(table)

    def gather(self, tables: Sequence[str], rows_T: Tensor, sizes_F: Tensor) -> Tensor:
        """Exchange row numbers and vectors with the owners."""
        form = self.physical[tables[0]].form
        if torch.is_grad_enabled():
            self._check_frozen_together(form)
        is_trained = any(one.requires_grad for one in self.parameters())
        if form[2] == "learned" and is_trained and torch.is_grad_enabled():
            self._reads[form[:2]] += len(rows_T)
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

    def _check_frozen_together(self, form: Hashable) -> None:
        """Refuse tables of one form of which some are frozen: processes would wait for others."""
        names = {name for name, table in self.physical.items() if table.form == form}
        trained = {
            one.requires_grad
            for name, own in self.rows_parameters().items()
            if name in names
            for one in own
        }
        if len(trained) > 1:
            raise RecembError(
                f"rows: tables {sorted(names)} lie together and are spread over processes, so all "
                "of them are frozen or none; freeze the others too"
            )

    def rows_parameters(self) -> dict[str, list[RowsParameter]]:
        """Return what stands for the rows of each table that this process holds."""
        found: dict[str, list[RowsParameter]] = {name: [] for name in self.physical}
        for store in self._stores():
            for name, own in store.rows_parameters().items():
                found[store.titles.get(name, name)] += own
        return found

    def leave_reminding(self) -> None:
        """Take dropped gradients for steps that a scaler left out."""
        for store in self._stores():
            store.leave_reminding()

    def storage_key(self, table: str) -> Hashable:
        """Return what tables of one gather have in common."""
        return self.physical[table].form

    def set_rules(self, rules: Mapping[str, UpdateRule]) -> None:
        """Set how rows of tables change from the next step on; kinds stay as they are."""
        self.rules = {**self.rules, **rules}
        for store in self._stores():
            titles = {name: store.titles.get(name, name) for name in store.rules}
            own = {name: rules[title] for name, title in titles.items() if title in rules}
            store.set_rules(own)

    def step(self, reevaluate: Callable[[], object] | None = None) -> None:
        """Update each distinct touched row once, wherever it lies."""
        stores = self._stores()
        # Decided by the tables and not by what this process touched: all must run it, or none.
        again = reevaluate if self._reads else None
        self._share_reads()
        # Nothing is stored before all that this process holds is known to be right.
        updates = [store.updates() for store in stores]
        learning = [
            store.store(own, is_reevaluated=again is not None)
            for store, own in zip(stores, updates, strict=True)
        ]
        if again is not None:
            again()
            self._share_reads()
            for store, own in zip(stores, learning, strict=True):
                store.learn_steps(own)

    def _share_reads(self) -> None:
        """Tell every store inside how much all processes have read: learned steps divide by it."""
        if not self._reads:
            return
        counts = torch.tensor(list(self._reads.values()), device=self.device)
        dist.all_reduce(counts)
        reads_of = dict(zip(self._reads, counts.tolist(), strict=True))
        for store in self._stores():
            store.reads_of = reads_of
        self._reads = dict.fromkeys(self._reads, 0)

    def discard(self) -> None:
        """Forget pending gradients."""
        self._reads = dict.fromkeys(self._reads, 0)
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

    def entry_bytes(self) -> dict[str, int]:
        """Return the bytes of every entry, on whatever processes it is."""
        return {name: entry.numel() * entry.element_size() for name, entry in self._wanted()}

    def state_bytes(self) -> int:
        """Return the bytes of the optimizer's state, on whatever processes it is."""
        step = torch.tensor(0)
        return step.element_size() + sum(
            4 * table.num_rows * width  # fp32
            for table in self.physical.values()
            for width in self._state_dims(table).values()
        )

    def parts(self) -> Iterator[Part]:
        """Yield this process's pieces; small tables as copies, but for the first process."""
        for part in self.replicated.parts():
            yield part._replace(is_copy=self.rank > 0)
        shapes = {TABLE + name: entry.shape for name, entry in self._wanted()}
        for name, table in self.physical.items():
            for key, width in self._state_dims(table).items():
                shapes[f"{STATE}{name}/{key}"] = torch.Size((table.num_rows, width))
        for one in self._held:
            owner = one.name.rpartition("@")[0]
            for start, end, tensor in one.store.parts_of(one.name):
                entry = start + owner + end
                # The step of a whole table has no rows, and is where the table is whole.
                offset = (one.piece.first_row, one.piece.first_column) if tensor.ndim == 2 else (0,)
                yield Part(entry, tuple(shapes[entry]), offset, tensor)

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
        self.num_steps = int(state["step"])
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
                {name: replace(table, num_rows=1, initializer=zeros)}, self.optimizer, seed=0
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
        """Save nothing: whole tables need not fit in a process; see :meth:`parts`."""
