"""The verb ``search``: learn which dimensions are worth their bytes, and train what was found.

Stages, each a folder that a repeated command with ``--resume`` does not do again:

    supernet            training with gates; the gates learn from rows held out of training
    derive              dimensions (or elements) within the budget; tables.yaml and weights
    dense, sparse, ...  an ordinary fit of every form and of every baseline

The files of validation and test are read by the last stage only.
"""

import argparse
import copy
import json
import random
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning import LightningDataModule, Trainer
from tqdm import tqdm

from recemb.checkpoint import WholeFileIO, checkpoint_config, read_checkpoint
from recemb.command_line.compress import run as compress
from recemb.command_line.train import TrainingCLI
from recemb.command_line.train import run as train
from recemb.compress.plan import share_in_bytes
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.memory import peak_memory_bytes
from recemb.rebuild import rebuild_data, rebuild_model, with_tables
from recemb.results import config_hash, new_run, table, versions, write_results
from recemb.search.evolution import Evolution, EvolutionSettings, Widths
from recemb.search.optembed import thresholds_of
from recemb.search.plots import plot_dimensions, plot_history, plot_quality, pyplot
from recemb.search.supernet import (
    Searched,
    gated,
    gated_tables,
    other_bytes,
    reason_to_stay,
    thresholded,
    thresholded_tables,
)
from recemb.search.within_budget import (
    SCORES,
    Keep,
    best_columns,
    largest_elements,
    random_columns,
)
from recemb.tables.budget import parse_bytes
from recemb.tables.full import Full
from recemb.tables.kind import IdSpace, TableConfig, TableContent
from recemb.tables.registry import table_config

Section = dict[str, Any]
BASELINES = ("full", "uniform", "mixed_dim", "pruning", "random")
EARLY_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


def run(arguments: list[str]) -> None:
    """Search the dimensions of a model's plain tables under a budget, and train what is found."""
    options = _options(arguments)
    started = time.perf_counter()
    if options.plots:
        pyplot()  # asked for before anything is trained
    folder: Path = options.run or new_run("search", options.config.stem)
    if options.resume and not options.run:
        raise RecembError("resume: it needs the folder that --run names")
    if folder.exists() and any(folder.iterdir()) and not options.resume:
        raise RecembError(f"{folder}: the run folder is not empty; name a new one, or say --resume")
    config = _read_config(options)
    results = METHODS[options.method](options, config, folder).results()
    written = {
        "verb": "search",
        "config_hash": config_hash({name: config[name] for name in ("model", "data")}),
        "seed": config["seed_everything"],
        "versions": versions(),
        "run": str(folder),
        "method": options.method,
        **results,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    write_results(written, folder, options.json)
    print(table(_rows(written)))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recemb search", description=run.__doc__)
    parser.add_argument("--config", type=Path, required=True, help="of a model with plain tables")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="dnis",
        help="dnis: gates per dimension and block of ids by frequency; optembed: thresholds of "
        "rows, and a width per feature found by evolution",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--budget",
        help="serving bytes of all tables together, such as 160kB; optembed needs none",
    )
    size.add_argument("--share", type=float, help="the same as a share of plain fp32 tables")
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=("dense", "sparse"),
        default=["dense"],
        help="dense: a plain table per block, of kind selected; sparse: the largest elements of "
        "all, of kind pruned",
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        choices=BASELINES,
        default=[],
        help="what else is trained: the plain tables (full), and at the same bytes one dimension "
        "for all (uniform), mixed dimensions by popularity, magnitude pruning, and the best of "
        "random selections",
    )
    parser.add_argument(
        "--start",
        choices=("derived", "fresh"),
        default="derived",
        help="what the dense form is trained from: the weights of the search, or new ones",
    )
    parser.add_argument("--blocks", type=int, default=10, help="of ids by frequency, at most")
    parser.add_argument("--block_ids", type=int, default=50, help="ids that a block has at least")
    parser.add_argument(
        "--held_out", type=float, default=0.1, help="share of training rows that the gates learn on"
    )
    parser.add_argument("--warm_up", type=int, default=2, help="epochs before gates move")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the search after them")
    parser.add_argument("--every", type=int, default=1, help="training steps per step of the gates")
    parser.add_argument(
        "--patience",
        type=int,
        help="end dnis when so many epochs have not improved it on held-out rows (default: never)",
    )
    parser.add_argument("--gate_learning_rate", type=float, default=0.01)
    parser.add_argument("--l1", type=float, default=1e-5, help="on the gates")
    parser.add_argument(
        "--score",
        choices=SCORES,
        default="ranked",
        help="what a dimension of a block is worth to dnis: the mean square of its elements "
        "(magnitude), the same weighted by how often ids are read (reads), or the first over the "
        "square of its rank in its block (ranked)",
    )
    parser.add_argument("--threshold_learning_rate", type=float, default=1e-4)
    parser.add_argument(
        "--alpha", type=float, default=1e-4, help="how strongly optembed drops rows"
    )
    parser.add_argument("--rounds", type=int, default=10, help="of optembed's evolution")
    parser.add_argument(
        "--draws", type=int, default=20, help="selections that the baseline random draws"
    )
    parser.add_argument(
        "--plots",
        action="store_true",
        help="draw dimensions by table and block, gates or thresholds by epoch, and quality "
        "against bytes into the run folder (needs matplotlib)",
    )
    parser.add_argument("--seed_everything", type=int, help="(default: that of the configuration)")
    parser.add_argument(
        "--run", type=Path, help="run folder, new or empty (default: runs/<config>/<time>-search)"
    )
    parser.add_argument("--resume", action="store_true", help="go on in the run folder")
    parser.add_argument("--json", type=Path, help="where a copy of results.json goes")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package outside the project whose classes the configuration may name",
    )
    options = parser.parse_args(arguments)
    for name, least in (("blocks", 1), ("block_ids", 1), ("warm_up", 0), ("epochs", 1)):
        if getattr(options, name) < least:
            raise RecembError(f"{name} must be at least {least}, got {getattr(options, name)}")
    for name in ("every", "draws"):
        if getattr(options, name) < 1:
            raise RecembError(f"{name} must be at least 1, got {getattr(options, name)}")
    if options.method == "dnis" and options.budget is None and options.share is None:
        raise RecembError("dnis finds what is best within a budget; give --budget or --share")
    return options


def _read_config(options: argparse.Namespace) -> Section:
    config = yaml.safe_load(options.config.read_text())
    for name in ("model", "data"):
        if not isinstance(config, dict) or "init_args" not in config.get(name, {}):
            raise RecembError(
                f"{options.config}: there is no section {name!r} with init_args; it needs one"
            )
    if not config["model"]["init_args"].get("tables"):
        raise RecembError(f"{options.config}: the model has no tables; a search needs some")
    if options.seed_everything is not None:
        config["seed_everything"] = options.seed_everything
    config.setdefault("seed_everything", 1)
    config["trainer"] = config.get("trainer") or {}
    if config["trainer"].get("strategy", "auto") != "auto":
        raise RecembError("search runs in one process; drop trainer.strategy")
    # What a run's own config.yaml has beside the sections belongs to that run.
    return {name: config[name] for name in ("seed_everything", "model", "data", "trainer")}


class _HeldOutCLI(TrainingCLI):
    """A fit that validates on held-out training rows and opens no other file."""

    def __init__(self, share: float, arguments: list[str]) -> None:
        self.share = share
        super().__init__("fit", arguments)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Hold rows out before the data is opened."""
        _hold_out(self.datamodule, self.share)
        return super().instantiate_trainer(**kwargs)


def _hold_out(data: LightningDataModule, share: float) -> None:
    hold_out = getattr(data, "hold_out", None)
    if hold_out is None:
        raise RecembError(
            f"search: {type(data).__name__} cannot hold training rows out; give it hold_out and "
            "search_dataloader as data.tabular.Tabular has them"
        )
    hold_out(share)


def _save_yaml(path: Path, content: Section) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False))


class _Search(ABC):
    """One search; see the module."""

    callback: str
    """Class path of the callback that searches."""
    learned: str
    """What it learns, in a word."""

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
        """Do all stages and return what is reported."""
        supernet = self.supernet()
        self.load(supernet)
        derived = self.derive()
        forms = {name: self.form(name) for name in self.options.forms}
        baselines = {name: getattr(self, name)() for name in self.options.baselines}
        if self.options.plots:
            self.plot(derived, {**forms, **baselines})
        return {
            "budget": self.budget,
            "kept": self.kept,
            "tables_yaml": str(self.folder / "tables.yaml"),
            "supernet": supernet,
            "derived": derived,
            "forms": forms,
            "baselines": baselines,
        }

    # What a method is

    @abstractmethod
    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        """Return the table of the supernet that is trained in the place of a plain one."""

    @abstractmethod
    def callback_settings(self) -> Section:
        """Return the arguments of the callback that searches."""

    @abstractmethod
    def searched_tables(self) -> dict[str, Searched]:
        """Return the searched tables of the trained supernet."""

    @abstractmethod
    def choose(self) -> tuple[Keep, Section]:
        """Return the dimensions that stay, and what is reported of the choice."""

    # The supernet

    def supernet(self) -> Section:
        """Train the supernet; return what it took."""
        folder = self.folder / "supernet"
        done = folder / "results.json"
        if done.is_file():
            return dict(json.loads(done.read_text()))
        path = self.folder / "supernet.yaml"
        _save_yaml(path, self._supernet_config())
        started = time.perf_counter()
        cli = _HeldOutCLI(
            self.options.held_out, ["--config", str(path), "--run", str(folder), "--resume"]
        )
        _save_yaml(folder / "config.yaml", cli.plain)
        cli.trainer.fit(
            cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True
        )
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
        path = self.folder / "plain.yaml"
        _save_yaml(path, config)
        cli = _HeldOutCLI(self.options.held_out, _quiet(path, self.folder / "plain"))
        spaces = cast(Embeddings, cli.model.embeddings).spaces
        tables = config["model"]["init_args"]["tables"]
        for name in self.names:
            own = cast(Full, self.given[name])
            tables[name] = _settings(self.supernet_table(name, own, spaces[name]))
        method = {"class_path": self.callback, "init_args": self.callback_settings()}
        given = config["trainer"].get("callbacks") or []
        callbacks = [one for one in given if one.get("class_path") != EARLY_STOPPING]
        config["trainer"] |= {
            "callbacks": [*callbacks, method],
            "max_epochs": self.options.warm_up + self.options.epochs,
        }
        return config

    def load(self, supernet: Section) -> None:
        """Rebuild the trained supernet and the held-out rows."""
        self.path = Path(supernet["checkpoint"])
        self.checkpoint = read_checkpoint(self.path)
        self.model = rebuild_model(self.path, self.checkpoint, self.options.allow)
        self.embeddings = cast(Embeddings, self.model.embeddings)
        saved = checkpoint_config(self.checkpoint)
        data = rebuild_data(self.path, self.checkpoint, saved["data"], self.options.allow)
        _hold_out(data, self.options.held_out)
        self.data = data
        self.searched = self.searched_tables()
        self.others = other_bytes(self.embeddings, self.searched)
        self.budget: int | None = None
        if self.options.budget is not None:
            self.budget = parse_bytes("--budget", self.options.budget)
        elif self.options.share is not None:
            self.budget = share_in_bytes(self.embeddings, self.options.share)

    @property
    def room(self) -> int:
        """The bytes that the budget has for the tables that are searched."""
        assert self.budget is not None
        return self.budget - self.others

    # Deriving

    def derive(self) -> Section:
        """Choose dimensions and write what is to be trained."""
        done = self.folder / "derived.json"
        if not done.is_file():
            keep, found = self.choose()
            found["dense"] = self.write("dense", self.selected(keep), self.options.method)
            found["keep"] = keep
            tables = {
                name: _settings(one.selected(keep[name])) for name, one in self.searched.items()
            }
            self.write_config("tables", tables)
            if "sparse" in self.options.forms:
                room = self.room if self.budget else found["dense"]["bytes"] - self.others
                places = largest_elements(self.searched, room)
                contents = {name: one.sparse(places[name]) for name, one in self.searched.items()}
                made = self.converted(contents)
                found["sparse"] = self.write("sparse", made, self.options.method)
            with whole_file(done) as temporary:
                temporary.write_text(json.dumps(found, indent=1))
        derived: Section = json.loads(done.read_text())
        if self.budget is None:  # baselines take what was found
            self.budget = derived["dense"]["bytes"]
        return derived

    def selected(self, keep: Keep) -> Embeddings:
        """Return the supernet's embeddings with the dimensions that are kept, and no others."""
        return self.converted(
            {name: one.content(keep[name]) for name, one in self.searched.items()}
        )

    @torch.no_grad()
    def converted(self, contents: Mapping[str, TableContent]) -> Embeddings:
        """Return the supernet's embeddings with other tables."""
        return self.embeddings.converted(contents)

    def held_out_auc(self, embeddings: Embeddings) -> float:
        """Return the AUC of the held-out rows."""
        self.model.embeddings = embeddings
        trainer = Trainer(
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        (found,) = trainer.validate(self.model, datamodule=self.data, verbose=False)
        self.model.embeddings = self.embeddings
        return float(found["val/auc"])

    def write(self, name: str, embeddings: Embeddings, method: str) -> Section:
        """Write weights and configuration of a form; return its bytes."""
        model = rebuild_model(self.path, self.checkpoint, self.options.allow)
        sections = {**self.config, "model": checkpoint_config(self.checkpoint)["model"]}
        weights, config = with_tables(
            self.checkpoint, sections, model, embeddings, list(self.searched), method
        )
        WholeFileIO().save_checkpoint(weights, self.folder / f"{name}.ckpt")
        _save_yaml(self.folder / f"{name}.yaml", config)
        return {"bytes": self.bytes_of(embeddings)}

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
        _save_yaml(path, config)
        return path

    # Training what was found

    def form(self, name: str) -> Section:
        """Train a form."""
        if name == "dense" and self.options.start == "fresh":
            return self.fit("dense", self.folder / "tables.yaml")
        return self.fit(name, self.folder / f"{name}.yaml", self.folder / f"{name}.ckpt")

    def fit(self, name: str, config: Path, checkpoint: Path | None = None) -> Section:
        """Fit a configuration in a folder of its own; return what is reported of it."""
        folder = self.folder / name
        done = folder / "results.json"
        if not done.is_file():
            start = ["--resume"]
            if checkpoint is not None and not (folder / "checkpoints/last.ckpt").is_file():
                _clear(folder)
                start = ["--ckpt_path", str(checkpoint)]
            train("fit", ["--config", str(config), "--run", str(folder), *start])
        return _reported(json.loads(done.read_text()))

    def plot(self, derived: Section, trained: Mapping[str, Section]) -> None:
        """Draw the pictures."""
        plot_dimensions(derived["keep"], self.folder / "dimensions.png")
        callback = self.callback.rpartition(".")[2]
        history = self.checkpoint["callbacks"][callback]["history"]
        plot_history(history, self.learned, self.folder / f"{self.learned}.png")
        metric = next(name for one in trained.values() for name in one.get("metrics", {"": 0}))
        plot_quality(trained, metric.replace("val/", "test/"), self.folder / "quality.png")

    # Baselines

    def full(self) -> Section:
        """Train the plain tables."""
        path = self.folder / "full.yaml"
        _save_yaml(path, self.config)
        return self.fit("full", path)

    def uniform(self) -> Section:
        """Train plain tables of the largest dimension that fits for all."""
        widest = max(one.config.dim for one in self.searched.values())
        fitting = [dim for dim in range(1, widest + 1) if self._uniform_bytes(dim) <= self.room]
        if not fitting:
            return {"refused": f"one dimension for all takes {self._uniform_bytes(1):,} bytes"}
        tables = {name: _settings(self._narrow(name, fitting[-1])) for name in self.names}
        return self.fit("uniform", self.write_config("uniform", tables))

    def _narrow(self, name: str, dim: int) -> Full:
        own = cast(Full, self.given[name])
        settings = {**_settings(own), "dim": min(dim, own.dim)}
        return cast(Full, table_config(name, settings))

    def _uniform_bytes(self, dim: int) -> int:
        return sum(
            self._narrow(name, dim).serving_bytes(one.where, one.spaces)
            for name, one in self.searched.items()
        )

    def mixed_dim(self) -> Section:
        """Train one table of mixed dimensions in the place of all that are searched."""
        dims = {one.config.dim for one in self.searched.values()}
        if len(dims) > 1:
            return {"refused": f"the tables have several dimensions, {sorted(dims)}"}
        features = copy.deepcopy(self.config["model"]["init_args"]["features"])
        for settings in features.values():
            if settings["table"] in self.names:
                settings["table"] = "mixed"
        tables = {"mixed": {"kind": "mixed_dim", "dim": dims.pop(), "budget": self.room}}
        try:
            return self.fit("mixed_dim", self.write_config("mixed_dim", tables, features))
        except RecembError as error:
            return {"refused": str(error)}

    def pruning(self) -> Section:
        """Train plain tables, keep their largest elements, and train on."""
        self.full()
        smaller = self.folder / "pruned.ckpt"
        if not (self.folder / "compress/results.json").is_file():
            _clear(self.folder / "compress")
            for path in (smaller, smaller.with_suffix(".yaml")):
                path.unlink(missing_ok=True)
            best = str(self.folder / "full/checkpoints/best.ckpt")
            how = ["--method", "prune", "--budget", str(self.budget), "--tables", *self.names]
            where = ["--output", str(smaller), "--run", str(self.folder / "compress")]
            given = ["--config", str(self.folder / "full.yaml")]
            allow = [word for one in self.options.allow for word in ("--allow", one)]
            compress([best, *how, *where, *given, *allow])
        return self.fit("pruning", smaller.with_suffix(".yaml"), smaller)

    def random(self) -> Section:
        """Train the best, on held-out rows, of random selections of the supernet's dimensions."""
        chosen = self.folder / "random.json"
        if not chosen.is_file():
            generator = torch.Generator().manual_seed(self.config["seed_everything"])
            draws = []
            for _ in tqdm(range(self.options.draws), "random selections", leave=False):
                keep = random_columns(self.searched, self.room, generator)
                draws.append((self.held_out_auc(self.selected(keep)), keep))
            auc, keep = max(draws, key=lambda one: one[0])
            self.write("random", self.selected(keep), "random")
            with whole_file(chosen) as temporary:
                temporary.write_text(json.dumps({"held_out_auc": auc}))
        return self.fit("random", self.folder / "random.yaml", self.folder / "random.ckpt")


class _DNIS(_Search):
    """Gates, then the dimensions that are worth most."""

    callback = "recemb.search.dnis.DNIS"
    learned = "gates"

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        return gated(name, config, spaces, self.options.blocks, self.options.block_ids)

    def callback_settings(self) -> Section:
        return {
            "warm_up_epochs": self.options.warm_up,
            "learning_rate": self.options.gate_learning_rate,
            "l1": self.options.l1,
            "every": self.options.every,
            "patience": self.options.patience,
        }

    def searched_tables(self) -> dict[str, Searched]:
        return gated_tables(self.embeddings)

    def choose(self) -> tuple[Keep, Section]:
        score = SCORES[self.options.score]
        worth = {name: score(one) for name, one in self.searched.items()}
        keep = best_columns(self.searched, worth, self.room)
        return keep, {
            "supernet": {"held_out_auc": self.held_out_auc(self.embeddings)},
            "masked": {"held_out_auc": self.held_out_auc(self.selected(keep))},
        }


class _OptEmbed(_Search):
    """Thresholds in training, then an evolution of widths."""

    callback = "recemb.search.optembed.OptEmbed"
    learned = "thresholds"

    def supernet_table(self, name: str, config: Full, spaces: Sequence[IdSpace]) -> TableConfig:
        return thresholded(name, config, spaces)

    def callback_settings(self) -> Section:
        return {
            "learning_rate": self.options.threshold_learning_rate,
            "alpha": self.options.alpha,
        }

    def searched_tables(self) -> dict[str, Searched]:
        return thresholded_tables(self.embeddings)

    def choose(self) -> tuple[Keep, Section]:
        """Evolve widths; a folder's evolution goes on after the last round that it has saved."""
        path = self.folder / "evolution.json"
        evolution = Evolution(
            [one.config.dim for one in self.searched.values()],
            EvolutionSettings(rounds=self.options.rounds),
            self.config["seed_everything"],
            self.fitting if self.budget is not None else lambda widths, _: widths,
        )
        if path.is_file():
            saved = json.loads(path.read_text())
            evolution.round = saved["round"]
            evolution.scores = {tuple(widths): score for widths, score in saved["scores"]}
        rounds = self.options.rounds + 1
        with tqdm(desc="evolution", total=rounds, initial=evolution.round) as bar:
            while not evolution.is_over:
                evolution.step(self.fitness)
                best = evolution.fittest()[0]
                with whole_file(path) as temporary:
                    state = {"round": evolution.round, "scores": list(evolution.scores.items())}
                    temporary.write_text(json.dumps(state))
                bar.set_postfix_str(f"AUC {evolution.scores[best]:.4f}, {self.size(best):,} bytes")
                bar.update()
        best = evolution.fittest()[0]
        return self.keep_of(best), {
            "held_out_auc": evolution.scores[best],
            "scored": len(evolution.scores),
            "rows_kept": {
                name: 1.0 if one.kept_V is None else float(one.kept_V.float().mean())
                for name, one in self.searched.items()
            },
        }

    def keep_of(self, widths: Widths) -> Keep:
        """Return the dimensions of widths: the first ones, as many as the width says."""
        return {
            name: [list(range(width))] for name, width in zip(self.searched, widths, strict=True)
        }

    def fitness(self, widths: Widths) -> float:
        """Return the AUC of the held-out rows at widths, with the weights of the supernet."""
        thresholds = thresholds_of(self.embeddings)
        for name, width in zip(self.searched, widths, strict=True):
            thresholds[name].width_F.fill_(width)
        return self.held_out_auc(self.embeddings)

    def size(self, widths: Widths) -> int:
        """Return the serving bytes of all tables at widths."""
        keep = self.keep_of(widths)
        own = [
            one.selected(keep[name]).serving_bytes(one.where, one.spaces)
            for name, one in self.searched.items()
        ]
        return int(sum(own)) + self.others

    def fitting(self, widths: Widths, source: random.Random) -> Widths:
        """Return widths of which some are drawn anew below theirs until all fit the budget."""
        assert self.budget is not None
        while self.size(widths) > self.budget:
            wide = [place for place, width in enumerate(widths) if width > 1]
            if not wide:
                raise RecembError(
                    f"search: a budget of {self.budget:,} bytes is too small for the rows that "
                    f"optembed keeps, which take {self.size(widths):,} with one dimension; raise "
                    "it, or --alpha"
                )
            place = source.choice(wide)
            narrower = source.randint(1, widths[place] - 1)
            widths = (*widths[:place], narrower, *widths[place + 1 :])
        return widths


METHODS: dict[str, type[_Search]] = {"dnis": _DNIS, "optembed": _OptEmbed}


def _quiet(path: Path, folder: Path) -> list[str]:
    """Return the options of a fit that is only to be built."""
    return ["--config", str(path), "--run", str(folder), "--trainer.logger", "false"]


def _settings(config: TableConfig) -> Section:
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


def _clear(folder: Path) -> None:
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


def _rows(results: Section) -> dict[str, str]:
    """Return the summary."""
    rows = {"budget": f"{results['budget']:,} bytes"}
    for group in ("forms", "baselines"):
        for name, one in results[group].items():
            if "refused" in one:
                rows[name] = f"refused: {one['refused']}"
                continue
            metrics = ", ".join(f"{key} {value:.4f}" for key, value in one["metrics"].items())
            rows[name] = f"{one['bytes']['tables']:,} bytes, {metrics}, {one['seconds']:.0f} s"
    rows["search"] = f"{results['supernet']['seconds']:.0f} s"
    rows["tables"] = results["tables_yaml"]
    rows["results"] = str(Path(results["run"]) / "results.json")
    return rows
