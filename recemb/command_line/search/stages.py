"""The stages of a search, which all methods go through; see the package."""

import argparse
import copy
import json
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import yaml
from lightning import LightningModule, Trainer

from recemb.checkpoint import WholeFileIO, checkpoint_config, read_checkpoint
from recemb.command_line.search.held_out import HeldOutCLI, hold_out
from recemb.command_line.train import run as train
from recemb.compress.plan import share_in_bytes
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.files import read_json, whole_file
from recemb.global_settings import restored_settings
from recemb.measured import metrics_of, value_of
from recemb.monitor import monitor_of
from recemb.rebuild import rebuild_data, rebuild_model, with_tables
from recemb.results import write_results
from recemb.search.plots import plot_dimensions, plot_history, plot_quality
from recemb.search.supernet import Searched, other_bytes, reason_to_stay
from recemb.tables.budget import parse_bytes
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig, TableContent
from recemb.tables.registry import table_config

Section = dict[str, Any]
Form = Literal["dense", "sparse"]
Start = Literal["derived", "fresh"]
PLAIN = "plain.yaml"
"""The user's configuration, from which all stages begin."""
EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Tables that a search has found, in one of their forms.

    Attributes:
        contents: By table.
        dimensions: By table, how many dimensions the ids of each block keep, on average.
        report: What else is said of them.
    """

    contents: dict[str, TableContent]
    dimensions: dict[str, list[float]]
    report: Section


class Search(ABC):
    """One search; a subclass is a method.

    Attributes:
        given: The tables of the configuration.
        kept: Why tables are not searched, by name.
        names: The tables that are.
        searched: What the trained supernet holds of them.
        origin: The checkpoint whose other weights (the network's) forms are trained from.
        budget: Serving bytes of all tables together; None where none was given, until the method
            has found its own.
    """

    callback: ClassVar[str]
    """Class path of the callback that searches."""
    learned: ClassVar[str]
    """What it learns, in a word."""
    forms: ClassVar[tuple[Form, ...]]
    """What it can find; the first by default."""
    start: ClassVar[Start] = "derived"
    """The weights from which its forms are trained by default."""
    finds_weights: ClassVar[bool] = True
    """Whether forms can be trained from the weights of the search."""
    takes_budget: ClassVar[bool] = True
    """Whether it can be told one."""
    needs_budget: ClassVar[bool] = True
    """Whether it must be."""

    def __init__(self, options: argparse.Namespace, config: Section, folder: Path) -> None:
        self.options, self.config, self.folder = options, config, folder
        folder.mkdir(parents=True, exist_ok=True)
        given = config["model"]["init_args"]["tables"]
        self.given: dict[str, TableConfig] = {
            name: table_config(name, settings.get("init_args", settings))
            for name, settings in given.items()
        }
        reasons = {name: reason_to_stay(one) for name, one in self.given.items()}
        self.kept = {name: reason for name, reason in reasons.items() if reason}
        self.names = [name for name in self.given if name not in self.kept]
        if not self.names:
            said = "; ".join(f"{name!r}: {reason}" for name, reason in self.kept.items())
            raise RecembError(f"search: no table can be searched: {said}")

    def results(self) -> Section:
        """Do the stages of the method and return what is reported."""
        supernet = self.supernet()
        self.load(supernet)
        derived = self.derive()
        return {
            "budget": self.budget,
            "kept": self.kept,
            "tables_yaml": str(self.folder / "tables.yaml"),
            "supernet": supernet,
            "derived": derived,
            "forms": {name: self.form(name) for name in self.options.forms},
        }

    # What a method is

    @abstractmethod
    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table of the supernet that is trained in the place of a plain one."""

    @abstractmethod
    def callback_settings(self, embeddings: Embeddings) -> Section:
        """Return the arguments of the callback that searches the plain tables of a model."""

    @abstractmethod
    def searched_tables(self) -> dict[str, Searched]:
        """Return the searched tables of the trained supernet."""

    @abstractmethod
    def find(self, form: Form) -> Found:
        """Return the tables that are found, in a form, with the weights of the supernet."""

    # The supernet

    def supernet(self) -> Section:
        """Train the supernet; return what it took."""
        folder = self.folder / "supernet"
        done = folder / "results.json"
        if done.is_file():
            return read_json(done, "result of a stage")
        path = self.folder / "supernet.yaml"
        save_yaml(path, self._supernet_config())
        started = time.perf_counter()
        arguments = ["--config", str(path), "--run", str(folder), "--resume"]
        with restored_settings(), HeldOutCLI(self.options.held_out, arguments) as cli:
            save_yaml(folder / "config.yaml", cli.plain)
            begun, (model, data) = cli.config.ckpt_path, (cli.model, cli.datamodule)
            cli.trainer.fit(model, datamodule=data, ckpt_path=begun, weights_only=True)
            found = {
                "verb": "supernet",
                "checkpoint": str(folder / "checkpoints/last.ckpt"),
                "epochs": cli.trainer.current_epoch,
                "seconds": round(time.perf_counter() - started, 3),
            }
            write_results(found, folder, None)
        return found

    def _supernet_config(self) -> Section:
        config = copy.deepcopy(self.config)
        # How many ids a table has is known when the data is read: by a model that is not trained.
        path = self.folder / PLAIN
        save_yaml(path, config)
        model = self.untrained(path)
        check_applies(model)
        embeddings = cast(Embeddings, model.embeddings)
        self.asked(embeddings)  # a share of ids that nobody counts is refused now
        tables = config["model"]["init_args"]["tables"]
        for name in self.names:
            own = cast(Full, self.given[name])
            tables[name] = settings_of(self.supernet_table(name, own, embeddings.spaces[name]))
        init_args = self.callback_settings(embeddings)
        given = config["trainer"].get("callbacks") or []
        callbacks = [one for one in given if one.get("class_path") != EARLY_STOPPING]
        config["trainer"] |= {
            "callbacks": [*callbacks, {"class_path": self.callback, "init_args": init_args}],
            "max_epochs": self.options.warm_up + self.options.epochs,
        }
        return config

    def untrained(self, path: Path) -> LightningModule:
        """Return the model of a configuration as a training begins with it."""
        arguments = ["--config", str(path), "--run", str(self.folder / "untrained")]
        quiet = ["--trainer.logger", "false"]
        options = [*arguments, *quiet]
        with restored_settings(), HeldOutCLI(self.options.held_out, options) as cli:
            model: LightningModule = cli.model
        return model

    def load(self, supernet: Section) -> None:
        """Rebuild the trained supernet and the held-out rows."""
        path = Path(supernet["checkpoint"])
        self.checkpoint = read_checkpoint(path)
        self.model = rebuild_model(path, self.checkpoint, self.options.allow)
        self.monitor = monitor_of(self.model)
        self.embeddings = cast(Embeddings, self.model.embeddings)
        saved = checkpoint_config(self.checkpoint)
        self.data = rebuild_data(path, self.checkpoint, saved["data"], self.options.allow)
        hold_out(self.data, self.options.held_out)
        self.origin = path, self.checkpoint
        self.searched = self.searched_tables()
        self.others = other_bytes(self.embeddings, self.searched)
        self.budget: int | None = self.asked(self.embeddings)

    def asked(self, embeddings: Embeddings) -> int | None:
        """Return the budget that the options say, if they do."""
        if self.options.budget is not None:
            return parse_bytes("--budget", self.options.budget)
        if self.options.share is not None:
            return share_in_bytes(embeddings, self.options.share)
        return None

    @property
    def room(self) -> int:
        """The bytes that the budget has for the tables that are searched."""
        assert self.budget is not None
        return self.budget - self.others

    # Deriving

    def derive(self) -> Section:
        """Choose what stays in each form, and write what is to be trained."""
        done = self.folder / "derived.json"
        if not done.is_file():
            derived = {}
            for number, form in enumerate(self.options.forms):
                started = time.perf_counter()
                found = self.find(form)
                seconds = round(time.perf_counter() - started, 3)
                embeddings = self.converted(found.contents)
                self.write(form, embeddings)
                tables = {
                    name: settings_of(content.config) for name, content in found.contents.items()
                }
                self.write_config(f"{form}-fresh", tables)
                if not number:
                    self.write_config("tables", tables)
                size = self.bytes_of(embeddings)
                if self.budget is None:  # the other forms, and baselines, take what was found
                    self.budget = size
                derived[form] = {
                    "bytes": size,
                    "dimensions": found.dimensions,
                    **found.report,
                    "seconds": seconds,
                }
            with whole_file(done) as temporary:
                temporary.write_text(json.dumps(derived, indent=1))
        saved = read_json(done, "result of a stage")
        if self.budget is None:
            self.budget = saved[self.options.forms[0]]["bytes"]
        return saved

    @torch.no_grad()
    def converted(self, contents: Mapping[str, TableContent]) -> Embeddings:
        """Return the supernet's embeddings with other tables."""
        return self.embeddings.converted(contents)

    def selected(self, keep: Mapping[str, Sequence[Sequence[int]]]) -> Embeddings:
        """Return the supernet's embeddings in which blocks keep some dimensions."""
        return self.converted(
            {name: one.content(keep[name]) for name, one in self.searched.items()}
        )

    @property
    def held_out_name(self) -> str:
        """What the metric of held-out rows is called in reports."""
        return f"held_out_{self.monitor.metric}"

    def held_out(self, embeddings: Embeddings) -> float:
        """Return the metric of the held-out rows."""
        self.model.embeddings = embeddings
        trainer = Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        found = trainer.validate(self.model, datamodule=self.data, verbose=False)
        self.model.embeddings = self.embeddings
        return value_of(metrics_of(self.model, found), self.monitor.name)

    def write(self, name: str, embeddings: Embeddings) -> None:
        """Write weights and configuration of tables that take the place of the searched ones."""
        path, checkpoint = self.origin
        model = rebuild_model(path, checkpoint, self.options.allow)
        sections = {**self.config, "model": checkpoint_config(checkpoint)["model"]}
        weights, config = with_tables(
            checkpoint, sections, model, embeddings, list(self.searched), self.options.method
        )
        WholeFileIO().save_checkpoint(weights, self.folder / f"{name}.ckpt")
        save_yaml(self.folder / f"{name}.yaml", config)

    @staticmethod
    def bytes_of(embeddings: Embeddings) -> int:
        """Return the serving bytes of all tables."""
        return sum(
            config.serving_bytes(f"table {name!r}", embeddings.spaces[name])
            for name, config in embeddings.tables.items()
        )

    def write_config(
        self, name: str, tables: Mapping[str, Section], features: Section | None = None
    ) -> Path:
        """Write the user's configuration with other tables; return its path."""
        config = copy.deepcopy(self.config)
        arguments = config["model"]["init_args"]
        # In their own order; a table of another name takes the place of those that are left out.
        left = {name: one for name, one in arguments["tables"].items() if name not in self.names}
        arguments["tables"] = {**left, **tables}
        if features is not None:
            arguments["features"] = features
        path = self.folder / f"{name}.yaml"
        save_yaml(path, config)
        return path

    # Training what was found

    def form(self, name: Form) -> Section:
        """Train a form."""
        if (self.options.start or self.start) == "fresh":
            return self.fit(name, self.folder / f"{name}-fresh.yaml")
        return self.fit(name, self.folder / f"{name}.yaml", self.folder / f"{name}.ckpt")

    def fit(self, name: str, config: Path, checkpoint: Path | None = None) -> Section:
        """Fit a configuration in a folder of its own; return what is reported of it."""
        folder = self.folder / name
        done = folder / "results.json"
        if not done.is_file():
            start = ["--resume"]
            if checkpoint is not None and not (folder / "checkpoints/last.ckpt").is_file():
                clear(folder)
                start = ["--ckpt_path", str(checkpoint)]
            train("fit", ["--config", str(config), "--run", str(folder), *start])
        return _reported(read_json(done, "result of a training"))

    def plot(self, derived: Section, trained: Mapping[str, Section]) -> None:
        """Draw the pictures."""
        first = derived[self.options.forms[0]]
        plot_dimensions(first["dimensions"], self.folder / "dimensions.png")
        callback = self.callback.rpartition(".")[2]
        history = self.checkpoint["callbacks"][callback]["history"]
        plot_history(history, self.learned, self.folder / f"{self.learned}.png")
        metric = f"test/{self.monitor.metric}"
        plot_quality(trained, metric, self.folder / "quality.png")


def check_applies(model: LightningModule) -> None:
    """Refuse a model that no method applies to, before anything is trained.

    All of them measure on training rows that are held out, and gates learn by their loss. Pairs of
    a graph and sequences have no such rows: what is held out of them is still in the graph, or in
    what a user has, or in a session that begins as another.

    Raises:
        RecembError: If the model does not learn labels of rows.
    """
    if not hasattr(model, "search_loss") or not hasattr(model, "embeddings"):
        raise RecembError(
            "search: all methods apply to models that learn labels of rows by a search_loss, as "
            "recemb.models.task.RankingTask has it (DIN, DARE, DLRM, DeepFM, DCN, matrix "
            f"factorisation of ratings), got {type(model).__name__}; "
            "sweep the dimensions of its tables instead"
        )


def settings_of(config: TableConfig) -> Section:
    """Return what a user would write of a table: the settings that are not as by default."""
    return {
        "kind": config.kind_name,
        **{
            one.name: getattr(config, one.name)
            for one in fields(config)
            if one.name != "kind"
            and (one.default is MISSING or getattr(config, one.name) != one.default)
        },
    }


def save_yaml(path: Path, content: Section) -> None:
    """Write a YAML file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False))


def clear(folder: Path) -> None:
    """Remove what a stage has left that did not get to its first checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)


def _reported(results: Section) -> Section:
    tables = sum(one["bytes"] for one in results["tables"].values())
    return {
        "checkpoint": results["checkpoint"],
        "metrics": results["metrics"],
        "bytes": {**results["bytes"], "tables": tables},
        "epochs": results["epochs"],
        "seconds": results["seconds"],
    }
