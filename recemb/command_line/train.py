"""The verbs of training: fit, validate, test and predict, over Lightning's command line.

A configuration is the constructors' signatures as YAML: ``model`` and ``data`` by class path,
``trainer`` as Lightning's. The data module is built first and gives the model its schema; with a
checkpoint, the checkpoint does, so that its ids keep their meaning.
"""

import os
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import yaml
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from recemb import processes
from recemb.accounting import module_bytes, table_report, training_bytes
from recemb.checkpoint import (
    WholeFileIO,
    check_resumable,
    check_same_config,
    checkpoint_bytes,
    checkpoint_schema,
    copy_checkpoint,
    is_compressed,
    load_module,
    read_checkpoint,
)
from recemb.checkpoint_callbacks import BestCheckpoint, Header
from recemb.command_line.mistakes import mistake_in
from recemb.command_line.predict import predict
from recemb.command_line.renamed import current_word, with_current_paths
from recemb.command_line.show import summary
from recemb.distributed import lost, strategy
from recemb.divergence import Divergence
from recemb.errors import RecembError
from recemb.files import one_line, read_yaml, whole_file
from recemb.global_settings import restored_settings
from recemb.measured import metrics_of
from recemb.memory import peak_memory_bytes
from recemb.monitor import monitor_of
from recemb.packages import check_sharding
from recemb.results import config_hash, table, versions, write_results
from recemb.resuming import Resumption
from recemb.rows.choice import stores_made_by
from recemb.run_folder import CONFIG, Begin, RunFolder
from recemb.schema import Schema
from recemb.serving.export import served_program
from recemb.stages import Stage, has_stage, require_stage
from recemb.tables.budget import parse_bytes
from recemb.throughput import Throughput
from recemb.trainer_settings import check_settings
from recemb.warm_start.start import warm_start

if TYPE_CHECKING:
    from recemb.rows.world import World


NEEDED: dict[str, Stage] = {"validate": "validation", "test": "test", "predict": "test"}
"""The stage that a verb reads."""


class TrainingCLI(LightningCLI):
    """Parse a verb's options and build data, model and trainer, in that order.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        arguments: Options.

    It holds the run folder until :meth:`close`.
    """

    def __init__(self, verb: str, arguments: list[str]) -> None:
        # Lightning still calls what jsonargparse will drop in its release 5.
        os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
        self.verb = verb
        self.throughput = Throughput()
        self.batch_size = 1024  # of a data module that does not say
        self.checkpoint: dict[str, Any] | None = None
        # Held by the first process for all.
        self.run_folder: RunFolder | None = None
        try:
            super().__init__(
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=1,
                trainer_defaults={"num_sanity_val_steps": 0, "enable_model_summary": False},
                auto_configure_optimizers=False,
                parser_kwargs={
                    "exit_on_error": False,
                    "prog": f"python -m recemb {verb}",
                    "parser_mode": with_current_paths(),
                },
                args=[current_word(word) for word in arguments],
                run=False,
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other runs have the run folder, which is removed where nothing came of it."""
        if self.run_folder is not None:
            self.run_folder.close()
            self.run_folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own options and what flows from data to model."""
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="run folder, new or empty (default: runs/<config>/<time>-<verb>)",
        )
        parser.add_argument(
            "--json", type=str | None, default=None, help="where a copy of results.json goes"
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="checkpoint: to resume (fit) or to measure",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="go on in the run folder from its last checkpoint, if it has one; so the same "
            "command can be repeated until it ends well",
        )
        parser.add_argument(
            "--memory",
            type=str | None,
            default=None,
            help="of each process, such as '80 GB': what sharded rows must fit in (default: what a "
            "GPU has; on a CPU there is no limit)",
        )
        parser.add_argument(
            "--warm_start",
            type=str | None,
            default=None,
            help="checkpoint of another configuration or other data, of which fit keeps what fits",
        )
        if self.verb == "predict":
            parser.add_argument(
                "--keep",
                nargs="+",
                default=[],
                metavar="COLUMN",
                help="columns of the test file that are written beside the predictions",
            )
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments(
            "data", "model.init_args.schema", compute_fn=self._schema, apply_on="instantiate"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the options and the files that they name."""
        try:
            super().parse_arguments(parser, args)
        except (UnicodeDecodeError, RecursionError) as error:
            # The parser expects neither; which of the files it is, it does not say.
            raise RecembError(
                f"a configuration must be YAML text in UTF-8 ({one_line(error)}); check the files "
                "that the options name"
            ) from error

    def before_instantiate_classes(self) -> None:
        """Read the checkpoint, if there is one, before anything is built."""
        given = self.config.trainer
        if self.verb == "fit":
            clipping = given.gradient_clip_val, given.gradient_clip_algorithm
            is_sharded = given.strategy == strategy.NAME
            check_settings(given.precision, *clipping, is_sharded)
        self.plain: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        self.is_sharded = self.config.trainer.strategy == strategy.NAME
        if self.is_sharded:
            self.end_on_signal = lost.EndOnSignal(f"recemb {self.verb}")
            processes.start()
        # The other verbs may be given the configuration of a fit that had one.
        self.warm_start = self.config.warm_start if self.verb == "fit" else None
        if self.config.ckpt_path is not None and self.warm_start is not None:
            raise RecembError(
                "--ckpt_path goes on with a training and --warm_start begins another, got both; "
                "drop --warm_start (or, where the configuration has it, say --warm_start null)"
            )
        self._choose_folder()
        if self.is_sharded:
            self.end_on_signal.folder = self.folder
        path = self.config.ckpt_path
        if path is None and self.verb != "fit":
            raise RecembError(f"{self.verb} needs a checkpoint; give --ckpt_path")
        if path is not None:
            self.warm_start = None  # it is the start of what is now resumed
        if self.warm_start is not None:
            self.started_from = read_checkpoint(Path(self.warm_start))
        if path is not None:
            self.checkpoint = self.read_checkpoint(Path(path))
            check_same_config(Path(path), self.checkpoint, self.plain)

    def _choose_folder(self) -> None:
        """Set the run folder, and the checkpoint that is in it where the run is resumed."""
        config = self.config
        if config.resume and (self.verb != "fit" or not config.run or config.ckpt_path):
            raise RecembError(
                "resume: it is for fit, with the folder that --run names and without --ckpt_path"
            )
        source = config.config[0] if config.get("config") else None
        name = Path(str(source)).stem if source else "run"
        # The first process says where, and whether it is free: others may look too late.
        with processes.agreement():
            if not processes.rank():
                given = Path(config.run) if config.run else None
                begin: Begin = "resumed" if config.resume else "new"
                self.run_folder = RunFolder(given, self.verb, name, begin)
                # One that nobody closes is let go with what has opened it.
                weakref.finalize(self, self.run_folder.close)
        own = self.run_folder.path if self.run_folder is not None else Path()
        last = own / "checkpoints/last.ckpt"
        start = None
        if config.resume and not processes.rank():
            start = str(last) if last.is_file() else _began_from(own / CONFIG)
        self.folder, start = processes.from_first((own, start))
        if start is not None:
            config.ckpt_path = start
        if start is not None and start != str(last):
            # Written again, for a run that is killed again before it has a checkpoint of its own.
            self.plain["ckpt_path"] = start

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        """Return a checkpoint; without rows that each process loads for itself."""
        return read_checkpoint(path, with_rows=not self.is_sharded)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; the model's rows where the strategy says."""
        if not self.is_sharded:
            super().instantiate_classes()
            return
        if self.verb == "predict":
            raise RecembError("predict runs in one process; drop --trainer.strategy")
        check_sharding()
        # Not at the top: the local store works where torchrec is not installed.
        from recemb.rows.torchrec_store import TorchRecRowsStore

        with stores_made_by(
            lambda physical, optimizer: TorchRecRowsStore(
                physical, optimizer, device=processes.device(), world=self._world()
            )
        ):
            super().instantiate_classes()

    def _world(self) -> "World":
        """Return what the planner is to know, the same in every process."""
        from recemb.rows.world import RATES, World

        device = processes.device()
        memory = parse_bytes("--memory", self.config.memory) if self.config.memory else None
        if memory is None and device.type == "cuda":
            memory = processes.least(torch.cuda.get_device_properties(device).total_memory)
        return World(
            size=processes.world_size(),
            local_size=processes.least(processes.local_world_size()),
            batch_size=self.batch_size,
            rates=RATES["cuda" if device.type == "cuda" else "cpu"],
            memory_bytes=memory,
        )

    def _schema(self, data: Any) -> Schema:
        if self.checkpoint is not None:
            data.schema = checkpoint_schema(self.checkpoint)
        with processes.first_one_first():  # it may have to prepare the files
            schema: Schema = data.schema
        self.batch_size = getattr(data, "batch_size", self.batch_size)
        return schema

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run folder's loggers and checkpoints, once data is checked."""
        self.datamodule.answers = getattr(self.model, "answers", ())
        needed = NEEDED.get(self.verb)
        if needed is not None:
            require_stage(self.datamodule, needed)
        self.datamodule.setup(self.verb)
        config = dict(self.config_init.trainer)
        folder = self.folder
        if config.get("logger") in (None, True):
            config["logger"] = (
                [
                    TensorBoardLogger(str(folder), name="", version="tensorboard"),
                    CSVLogger(str(folder), name="", version=_free_name(folder, "csv")),
                ]
                if self.verb == "fit"
                else False
            )
        callbacks = config.get("callbacks") or []
        callbacks = list(callbacks if isinstance(callbacks, list) else [callbacks])
        if config.get("enable_checkpointing") is False:
            raise RecembError(
                "trainer.enable_checkpointing: fit restores and measures its best checkpoint, so "
                "it must write them, got false; drop the setting"
            )
        is_validated = (
            has_stage(self.datamodule, "validation") and config.get("limit_val_batches") != 0
        )
        monitor = monitor_of(self.model) if is_validated else None
        if monitor is None:
            config["limit_val_batches"] = 0
        resumed = Path(self.config.ckpt_path) if self.config.ckpt_path is not None else None
        self.best = BestCheckpoint(folder / "checkpoints", monitor, resumed)
        header = Header(self.plain, self.datamodule.schema)
        # The first to look: nothing else may act on numbers that are not finite.
        resumption = Resumption(self.plain["trainer"])
        config["callbacks"] = [Divergence(), *callbacks, self.throughput, header, resumption]
        if self.is_sharded:
            config["callbacks"].append(self.end_on_signal)
        if self.verb == "fit":
            config["callbacks"].append(self.best)
        config["plugins"] = [*(config.get("plugins") or []), WholeFileIO()]
        config["default_root_dir"] = str(folder)
        if self.is_sharded:
            config |= {
                "accelerator": "gpu" if torch.cuda.is_available() else "cpu",
                "devices": processes.local_world_size(),
                "num_nodes": processes.world_size() // processes.local_world_size(),
            }
        return Trainer(**{**config, **kwargs})


def _began_from(path: Path) -> str | None:
    """Return the checkpoint that a run went on from, as its configuration in its folder has it."""
    if not path.is_file():
        return None
    settings = read_yaml(path)
    found = settings.get("ckpt_path") if isinstance(settings, dict) else None
    return None if found is None else str(found)


def _free_name(folder: Path, name: str) -> str:
    """Return a name that nothing in a folder has: a resumed run keeps what it has logged."""
    taken = len(list(folder.glob(f"{name}*")))
    return f"{name}-{taken + 1}" if taken else name


def run(verb: str, arguments: list[str]) -> None:
    """Run one verb of training and report it."""
    results = results_of(verb, arguments)
    if not processes.rank():
        print(summary(results))
    processes.stop()


def results_of(verb: str, arguments: list[str]) -> dict[str, Any]:
    """Run one verb of training; return its results, which its run folder has too."""
    started = time.perf_counter()
    cli: TrainingCLI | None = None
    try:
        with restored_settings():
            cli = TrainingCLI(verb, arguments)
            return _run(cli, started)
    except Exception as error:
        if "RANK" in os.environ and lost.is_sign(error) and mistake_in(error, arguments) is None:
            lost.leave(f"recemb {verb}", cli.folder if cli else None, lost.short(error))
        raise
    finally:
        if cli is not None:
            cli.close()


def _run(cli: TrainingCLI, started: float) -> dict[str, Any]:
    verb = cli.verb
    if not processes.rank():
        with whole_file(cli.folder / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(cli.plain, sort_keys=False))
    body = {"fit": fit, "predict": _predict}.get(verb, measure)(cli)
    identity = {name: cli.plain[name] for name in ("model", "data", "seed_everything")}
    results = {
        "verb": verb,
        "config_hash": config_hash(identity),
        "seed": cli.plain["seed_everything"],
        "versions": versions(),
        "run": str(cli.folder),
        **body,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    if not processes.rank():
        write_results(results, cli.folder, Path(cli.config.json) if cli.config.json else None)
    return results


def fit(cli: TrainingCLI, test: bool = True) -> dict[str, Any]:
    """Train, restore the best checkpoint by the validation metric, test it once.

    Where nothing was validated, the last checkpoint is measured; where the data has no test file,
    nothing is tested.

    Args:
        cli: What was built.
        test: Whether the test file is measured; a trial of a sweep leaves it alone.
    """
    model, data = cli.model, cli.datamodule
    started = _train(cli)
    best = _kept(cli.best)
    sizes = {
        "training": training_bytes(model, model.embeddings, cli.trainer.optimizers),
        "checkpoint": checkpoint_bytes(best),
    }
    rate = cli.throughput.samples_per_s
    # The weights only: the checkpoint's loop state belongs to the training that is over.
    load_module(best, cli.read_checkpoint(best), model)
    stages: list[Stage] = ["validation", "test"] if test else ["validation"]
    measured = [_measured(cli, stage) for stage in stages if has_stage(data, stage)]
    body: dict[str, Any] = {
        **started,
        "checkpoint": str(best),
        **_merged(measured),
        "bytes": {**sizes, "serving": module_bytes(served_program(model))},
        "tables": table_report(model.embeddings),
        # Begun, of which the last may not be over; also where the training had ended before.
        "epochs": cli.trainer.fit_loop.epoch_progress.current.ready,
        "samples_per_s": round(rate, 1),
    }
    bound = getattr(data, "best_auc", None)
    return {**body, "best_auc": bound} if bound else body


def _train(cli: TrainingCLI) -> dict[str, Any]:
    """Train; return what is reported of how it began."""
    resumed = cli.config.ckpt_path
    if cli.checkpoint is not None and is_compressed(cli.checkpoint):
        # Its optimizers' state was of other tables: fine-tuning starts from the weights alone.
        _load(cli)
        resumed = None
    elif cli.checkpoint is not None:
        check_resumable(Path(str(resumed)), cli.checkpoint, cli.model)
    started = _warm_start(cli, Path(cli.warm_start)) if cli.warm_start is not None else {}
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=resumed, weights_only=True)
    return started


def _kept(best: BestCheckpoint) -> Path:
    """Return the checkpoint that is measured: the best, or the last where none was compared."""
    if best.best_model_path:
        return Path(best.best_model_path)
    if not best.last_model_path:
        raise RecembError(
            "no step was trained, so there is no checkpoint; raise trainer.max_epochs, "
            "trainer.max_steps or trainer.limit_train_batches"
        )
    last = Path(best.last_model_path)
    kept = last.with_name("best.ckpt")
    if not processes.rank():
        print(f"no epoch was compared by {best.monitor}; the last one is the best")
        copy_checkpoint(last, kept)
    return processes.from_first(kept)


def _warm_start(cli: TrainingCLI, path: Path) -> dict[str, Any]:
    """Let the model take over what it can, and say at once what that is."""
    found = warm_start(
        cli.model,
        cli.datamodule.schema,
        path,
        cli.started_from,
        cli.plain["model"],
        getattr(cli.datamodule, "training_ids", None),
    )
    if not processes.rank():
        print(table(found.rows()), flush=True)
    return {"warm_start": found.report()}


def _load(cli: TrainingCLI) -> None:
    assert cli.checkpoint is not None
    load_module(Path(cli.config.ckpt_path), cli.checkpoint, cli.model)


def measure(cli: TrainingCLI) -> dict[str, Any]:
    """Measure a checkpoint on the validation or the test file."""
    stage: Stage = "validation" if cli.verb == "validate" else "test"
    _load(cli)
    return {"checkpoint": cli.config.ckpt_path, **_merged([_measured(cli, stage)])}


def _measured(cli: TrainingCLI, stage: Stage) -> dict[str, Any]:
    """Return the metrics of a stage, None where one is not defined, and why those are not."""
    method = {"validation": cli.trainer.validate, "test": cli.trainer.test}[stage]
    return metrics_of(cli.model, method(cli.model, datamodule=cli.datamodule, verbose=False))


def _merged(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what several stages have, as one."""
    found: dict[str, Any] = {"metrics": {}}
    for one in measured:
        for name, values in one.items():
            found[name] = {**found.get(name, {}), **values}
    return found


def _predict(cli: TrainingCLI) -> dict[str, Any]:
    """Write the predictions of the test file, in its order: click probabilities, or best items."""
    _load(cli)
    written = predict(cli.trainer, cli.model, cli.datamodule, cli.config.keep, cli.folder)
    return {"checkpoint": cli.config.ckpt_path, **written}
