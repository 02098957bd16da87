"""The verb ``plan``: where the tables of a training would lie, and what that would cost.

Nothing is allocated of a table's size: the model is built on a store that keeps one row of each
table, and the planner (:mod:`recemb.rows.planner`) is the one that training uses.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor

from recemb import processes
from recemb.command_line.plan_report import Plan, as_json, as_text, table_report
from recemb.command_line.train import TrainingCLI
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.memory import human_bytes
from recemb.physical import PhysicalTable, zeros
from recemb.rows.choice import stores_made_by
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import UpdateRule
from recemb.rows.planner import DoesNotFitError, loads_of, place
from recemb.rows.remedies import remedies
from recemb.rows.store import RowsStore
from recemb.rows.world import RATES, Device, Rates, World
from recemb.schema import Schema
from recemb.tables.budget import parse_bytes

PROCESSES_OF_A_MACHINE = 8


class PlanningCLI(TrainingCLI):
    """Parse a training's configuration with the options of a plan; build data and model only.

    Args:
        arguments: Options.

    Attributes:
        physical: The tables that a rows store would be asked to keep.
        optimizer: Of the rows.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.physical: dict[str, PhysicalTable] = {}
        self.optimizer: UpdateRule | None = None
        super().__init__("plan", arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a plan is to know of the world and of the data."""
        super().add_arguments_to_parser(parser)
        default: Device = "cuda" if torch.cuda.is_available() else "cpu"
        options: dict[str, tuple[Any, Any, str]] = {
            "world_size": (int, 1, "number of processes"),
            "local_world_size": (
                int | None,
                None,
                f"how many of them a machine has (default: all, at most {PROCESSES_OF_A_MACHINE})",
            ),
            "batch_size": (int | None, None, "samples of a batch, of all processes together"),
            "device": (str, default, "cpu or cuda"),
            "memory_bandwidth": (str | None, None, "bytes per second, such as '2 TB'"),
            "local_bandwidth": (str | None, None, "the same, to processes of the machine"),
            "network_bandwidth": (str | None, None, "the same, to other machines"),
            "message_us": (float | None, None, "microseconds of a collective with nothing in it"),
        }
        for name, (kind, value, text) in options.items():
            parser.add_argument(f"--{name}", type=kind, default=value, help=text)
        for name, text in (
            ("ids", "known ids of columns whose data is not read: NAME=NUMBER; '*' for all others"),
            ("lengths", "ids per sample of lists whose data is not read: NAME=NUMBER"),
        ):
            parser.add_argument(f"--{name}", type=str, nargs="+", default=[], help=text)

    def before_instantiate_classes(self) -> None:
        """Read numbers; there is no run folder."""
        self.ids = {name: int(count) for name, count in _numbers("--ids", self.config.ids)}
        self.lengths = dict(_numbers("--lengths", self.config.lengths))
        if self.lengths and not self.ids:
            raise RecembError("--lengths: lists are measured where their data is read; add --ids")
        self.plain = yaml.safe_load(self.parser.dump(self.config, skip_none=False))

    def instantiate_classes(self) -> None:
        """Build data and model; nothing of the size of the ids if those are said."""
        with contextlib.ExitStack() as stack:
            if self.ids:
                stack.enter_context(torch.device("meta"))
            stack.enter_context(stores_made_by(self._record))
            self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule = self.config_init["data"]
        self.model = self.config_init["model"]

    def _record(
        self,
        physical: Mapping[str, PhysicalTable],
        optimizer: UpdateRule | Mapping[str, UpdateRule],
    ) -> RowsStore:
        assert not isinstance(optimizer, Mapping)  # a configuration has one for all tables
        self.physical, self.optimizer = dict(physical), optimizer
        ones = {n: replace(one, num_rows=1, initializer=zeros) for n, one in physical.items()}
        return LocalRowsStore(ones, optimizer)

    def _schema(self, data: Any) -> Schema:
        if not self.ids:
            return super()._schema(data)
        if not hasattr(data, "said_schema"):
            raise RecembError(
                f"--ids: {type(data).__name__} always reads its data; drop --ids, or give it a "
                "method said_schema as recemb.data.tabular.Tabular has"
            )
        self.batch_size = getattr(data, "batch_size", self.batch_size)
        with torch.device("cpu"):
            schema: Schema = data.said_schema(self.ids, self.lengths)
        return schema

    def world(self) -> World:
        """Return the processes as training would know them."""
        config = self.config
        if config.device not in get_args(Device):
            raise RecembError(f"--device: must be 'cpu' or 'cuda', got {config.device!r}")
        local = config.local_world_size
        memory = parse_bytes("--memory", config.memory) if config.memory else None
        if memory is None and config.device == "cuda" and torch.cuda.is_available():
            memory = torch.cuda.get_device_properties(processes.device()).total_memory
        return World(
            size=config.world_size,
            local_size=local or min(max(1, config.world_size), PROCESSES_OF_A_MACHINE),
            batch_size=self.batch_size if config.batch_size is None else config.batch_size,
            rates=RATES[config.device],
            memory_bytes=memory,
        )

    def rates(self, rates: Rates) -> Rates:
        """Return the rates that the options say, or else the given ones."""
        said = {
            name: float(parse_bytes(f"--{name}_bandwidth", self.config[f"{name}_bandwidth"]))
            for name in ("memory", "local", "network")
            if self.config[f"{name}_bandwidth"] is not None
        }
        if self.config.message_us is not None:
            if not self.config.message_us >= 0:
                raise RecembError(f"--message_us: must be at least 0, got {self.config.message_us}")
            said["message_s"] = self.config.message_us * 1e-6
        return replace(rates, **said)


def _numbers(option: str, given: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield the names and numbers of NAME=NUMBER."""
    for one in given:
        name, _, number = one.partition("=")
        try:
            yield name, float(number) if option == "--lengths" else int(number.replace("_", ""))
        except ValueError:
            raise RecembError(
                f"{option}: must be NAME=NUMBER, such as user=1000000, got {one!r}"
            ) from None


def run(arguments: list[str]) -> None:
    """Print where the tables of a training would lie, and what that costs."""
    cli = PlanningCLI(arguments)
    world, physical, optimizer = cli.world(), cli.physical, cli.optimizer
    if optimizer is None:
        raise RecembError("plan: the model asks for no rows store, so there is nothing to plan")
    rates = cli.rates(world.rates)
    embeddings = cli.model.embeddings
    plan = _planned(physical, optimizer, world, rates, cli.model, embeddings)
    tables = table_report(plan.placements, physical, optimizer, embeddings)
    if cli.config.json is not None:
        with whole_file(Path(cli.config.json)) as temporary:
            temporary.write_text(json.dumps(as_json(plan, tables), indent=2) + "\n")
    print(as_text(plan, tables))


def _planned(
    physical: Mapping[str, PhysicalTable],
    optimizer: UpdateRule,
    world: World,
    rates: Rates,
    model: torch.nn.Module,
    embeddings: Embeddings,
) -> Plan:
    """Return the plan.

    Raises:
        RecembError: If it does not fit; with what would.
    """
    gradient_bytes = sum(_bytes_of(one) for one in model.parameters() if one.requires_grad)
    dense_bytes = 4 * gradient_bytes + sum(map(_bytes_of, model.buffers()))
    # The store's own rows stand for tables: one of each.
    dense_bytes -= sum(map(_bytes_of, embeddings.rows.buffers()))
    as_said = replace(world, rates=rates)
    try:
        # By the rates that training takes, so that it does what is printed here.
        placements = place(physical, optimizer, world)
    except DoesNotFitError as error:
        reason = str(error)
    else:
        loads = loads_of(physical, placements, optimizer, as_said)
        fullest = int(loads[:3].sum(0).max())
        if world.memory_bytes is None or fullest + dense_bytes <= world.memory_bytes:
            dense_s = 2 * as_said.exchange_s(gradient_bytes)
            return Plan(as_said, placements, loads, dense_bytes, dense_s)
        reason = (
            f"model: the network takes {human_bytes(dense_bytes)} in every process (parameters, "
            f"gradients, two moments, buffers), which beside {human_bytes(fullest)} for rows and "
            f"their batch is more than {human_bytes(world.memory_bytes)}"
        )
    found = remedies(physical, optimizer, world, dense_bytes) or ["nothing that was tried"]
    raise RecembError(f"{reason}; what fits: {'; or '.join(found)}")


def _bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
