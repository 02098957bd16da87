"""One trial: how large it is, and what its training comes to."""

import contextlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, cast

import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer

from recemb import processes
from recemb.command_line.mistakes import mistake_in
from recemb.command_line.notices import quiet
from recemb.command_line.plan import PlanningCLI
from recemb.command_line.train import TrainingCLI, fit, measure
from recemb.distributed import lost
from recemb.global_settings import restored_settings
from recemb.locks import held
from recemb.measured import value_of
from recemb.monitor import Monitor, monitor_of
from recemb.results import write_results
from recemb.serving.latency import latency_ms
from recemb.stages import has_stage, require_stage
from recemb.sweep.paths import simplified
from recemb.sweep.team import IS_LOST
from recemb.sweep.trials import COMPLETE, FAILED, PRUNED, REFUSED
from recemb.sweep.worker import Ask

Outcome = dict[str, Any]
SIZE, EPOCH = "size", "epoch"
"""What a trial tells while it runs: its bytes, and its quality after an epoch; the answer to both
is whether it goes on."""


class PrunedError(Exception):
    """Ends a training that is not worth going on with.

    Args:
        epochs: That it has been trained.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(f"after {epochs} epochs")
        self.epochs = epochs


class Stopper(Callback):
    """Tell the quality after each epoch, and end the training when the answer says so.

    Args:
        monitor: Of the model.
        ask: Whether it goes on; the same answer in all processes.
    """

    def __init__(self, monitor: Monitor, ask: Ask) -> None:
        self.monitor, self.ask = monitor, ask

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell and hear.

        Raises:
            PrunedError: If it does not go on.
            RecembError: If the data does not define the metric.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        epoch = trainer.current_epoch + 1
        undefined = getattr(pl_module, "undefined", {})
        measured = {"metrics": trainer.callback_metrics, "undefined": undefined}
        value = value_of(measured, self.monitor.name)
        if not self.ask(EPOCH, {"epoch": epoch, "value": value, "last": trainer.max_epochs}):
            raise PrunedError(epoch)


class KeptData:
    """Data modules of former trials: one that has the same settings is used again as it is."""

    def __init__(self) -> None:
        self._kept: dict[str, LightningDataModule] = {}

    def use_in(self, cli: TrainingCLI) -> None:
        """Let a command that is about to build its data look here first."""
        key = yaml.safe_dump([cli.plain["data"], cli.plain["seed_everything"]])

        def instantiate(
            module: type[LightningDataModule], *args: Any, **kwargs: Any
        ) -> LightningDataModule:
            if key not in self._kept:
                self._kept.clear()  # one data set is in memory at a time
                self._kept[key] = module(*args, **kwargs)
            return self._kept[key]

        cli.parser.add_instantiator(instantiate, LightningDataModule, prepend=True)


class SizeCLI(PlanningCLI):
    """Build a configuration without allocating its tables."""

    def __init__(self, data: KeptData, arguments: list[str]) -> None:
        self.data = data
        super().__init__(arguments)

    def before_instantiate_classes(self) -> None:
        """Use what was prepared."""
        super().before_instantiate_classes()
        self.data.use_in(self)


class TrialCLI(TrainingCLI):
    """Build a training, with data that was prepared."""

    def __init__(self, data: KeptData, verb: str, arguments: list[str]) -> None:
        self.data = data
        super().__init__(verb, [*arguments, "--trainer.enable_progress_bar", "false"])

    def before_instantiate_classes(self) -> None:
        """Use what was prepared."""
        super().before_instantiate_classes()
        self.data.use_in(self)


class Trials:
    """Does what a request says; data stays prepared from one to the next.

    Args:
        meeting: Where the workers of several processes meet, which do it together; empty for one.

    Requests are sections with ``do``: ``describe`` (a configuration), ``train`` (a run folder that
    has a config.yaml) or ``test`` (the best checkpoint of one).
    """

    def __init__(self, meeting: str = "") -> None:
        quiet()
        if meeting:
            processes.start(meeting)
        self.data = KeptData()

    def __call__(self, request: dict[str, Any], ask: Ask) -> Outcome:
        """Do it, and return the outcome; a user's mistake is one too."""
        arguments = ["--config", str(request["config"])]

        def asked(what: str, payload: Any) -> Any:
            return processes.from_first(None if processes.rank() else ask(what, payload))

        try:
            with restored_settings():
                return cast(Outcome, getattr(self, request["do"])(request, arguments, asked))
        except Exception as error:
            line = mistake_in(error, arguments)
            if line is None and processes.world_size() > 1 and lost.is_sign(error):
                reason = f"another process was lost ({lost.short(error)})"
                return {"state": FAILED, "reason": reason, IS_LOST: True}
            if line is None:
                raise
            return {"state": FAILED, "reason": line}

    def describe(self, request: dict[str, Any], arguments: list[str], ask: Ask) -> Outcome:
        """Return all settings of a configuration, its bytes and its monitor."""
        cli = SizeCLI(self.data, arguments)
        require_stage(cli.datamodule, "validation")
        monitor = monitor_of(cli.model)
        return {
            "state": COMPLETE,
            "config": simplified(cli.plain),
            "table_bytes": sum(cli.model.embeddings.serving_bytes().values()),
            "monitor": (monitor.name, monitor.mode),
            "epochs": cli.plain["trainer"]["max_epochs"],
            "has_test": has_stage(cli.datamodule, "test"),
        }

    def train(self, request: dict[str, Any], arguments: list[str], ask: Ask) -> Outcome:
        """Train a configuration in its run folder, from the last checkpoint if there is one."""
        started = time.perf_counter()
        folder = Path(request["folder"])
        size, line = 0, None
        try:
            embeddings = SizeCLI(self.data, arguments).model.embeddings
            size = sum(embeddings.serving_bytes().values())
        except Exception as error:
            line = mistake_in(error, arguments)
            if line is None:
                raise
        mistakes = [one for one in processes.from_all(line) if one is not None]
        if mistakes:
            return {"state": REFUSED, "reason": mistakes[0]}
        if not ask(SIZE, size):
            return {"state": REFUSED, "table_bytes": size}
        # A process that was left behind by a command that died may write here for a moment more.
        # Of several processes the first one waits, and the others for it.
        alone = contextlib.nullcontext() if processes.rank() else held(Path(request["lock"]))
        options = [*arguments, "--run", str(folder), "--resume"]
        with alone, TrialCLI(self.data, "fit", options) as cli:
            monitor = monitor_of(cli.model)
            # After the one that looks for numbers that are not finite.
            cli.trainer.callbacks.insert(1, Stopper(monitor, ask))  # type: ignore[attr-defined]
            try:
                body = fit(cli, test=False)
            except PrunedError as ended:
                seconds = round(time.perf_counter() - started, 3)
                found = {"table_bytes": size, "epochs": ended.epochs, "seconds": seconds}
                return {"state": PRUNED, **found}
        outcome = {
            "state": COMPLETE,
            "quality": value_of(body, monitor.name),
            "table_bytes": sum(one["bytes"] for one in body["tables"].values()),
            "seconds": round(time.perf_counter() - started, 3),
            **{key: body[key] for key in ("metrics", "tables", "epochs", "checkpoint")},
        }
        if request.get("latency"):
            outcome["latency_ms"] = latency_ms(cli.model, cli.datamodule.schema)
        return outcome

    def test(self, request: dict[str, Any], arguments: list[str], ask: Ask) -> Outcome:
        """Measure the best checkpoint of a training on the test file."""
        best = ["--ckpt_path", str(request["checkpoint"]), "--run", str(request["folder"])]
        with TrialCLI(self.data, "test", [*arguments, *best]) as cli:
            return {"state": COMPLETE, **measure(cli)}


def record(folder: Path, outcome: Outcome) -> Outcome:
    """Keep the outcome of a training in its folder, and no more of its checkpoints than the best.

    Whoever takes over a trial that has an outcome has only to tell it.
    """
    kept = {"verb": "trial", "run": str(folder), **outcome}
    write_results(json.loads(json.dumps(kept)), folder, None)
    checkpoints = folder / "checkpoints"
    if outcome["state"] != COMPLETE:
        shutil.rmtree(checkpoints, ignore_errors=True)
    for path in checkpoints.glob("last*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return outcome
