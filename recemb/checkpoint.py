"""Checkpoints: self-contained, written whole, and read without running anything in them.

Beside Lightning's own entries a checkpoint holds ``recemb``: the configuration as YAML text and its
hash, the schema (vocabularies, attributes, number scales) and the state of torch's random
generator. So a checkpoint alone rebuilds the model, and a resumed run continues bit for bit.
"""

import math
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recemb import processes
from recemb.errors import RecembError
from recemb.files import whole_file
from recemb.schema import Schema

FORMAT = 2
"""Of the ``recemb`` entry; a reader refuses any other."""

SECTIONS = ("model", "data")
"""The parts of a configuration that make a model what it is."""


ORDERED = ("model.init_args.features.", "model.init_args.history.")
"""Settings that are the order of a model's inputs; all others are found by name."""


OF_TRAINING = ("model.init_args.learning_rate", "model.init_args.rows_optimizer.")
"""Settings that do not make a model what it is: weights alone may be trained on with others."""


class WholeFileIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name, then rename: a crash leaves the previous one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save to a local file, whole or not at all."""
        try:
            with whole_file(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            # torch's own writer reports a full disk as a RuntimeError.
            reason = " ".join(str(error).split())[:120]
            raise RecembError(
                f"{path}: the checkpoint could not be written ({reason}); the "
                "previous one is untouched"
            ) from error


class BestCheckpoint(ModelCheckpoint):
    """Keep the best checkpoint by validation and the last one, also when a run goes on elsewhere.

    A resumed run has a folder of its own. Lightning would forget the best score there, and so could
    end with a worse model than it was resumed from; here the best checkpoint so far moves along.

    Args:
        folder: Where checkpoints go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            dirpath=str(folder),
            filename="best",
            monitor="val/auc",
            mode="max",
            save_last=True,
            enable_version_counter=False,
        )

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        """Keep the epoch if it is the best; not before staged tables are in their last stage."""
        embeddings = getattr(trainer.lightning_module, "embeddings", None)
        if embeddings is None or embeddings.is_final():
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, and copy its checkpoint where it lay in another folder."""
        state = {**state_dict, "dirpath": self.dirpath, "last_model_path": ""}
        best = Path(state["best_model_path"] or "none")
        if state_dict["dirpath"] != self.dirpath:
            kept: dict[str, Any] = {}
            if best.is_file():
                copy = Path(str(self.dirpath)) / best.name
                if not processes.rank():
                    with whole_file(copy) as temporary:
                        shutil.copyfile(best, temporary)
                kept = {str(copy): state["best_model_score"]}
            path = next(iter(kept), "")
            state |= {"best_model_path": path, "kth_best_model_path": path, "best_k_models": kept}
            state |= (
                {} if kept else {"best_model_score": None, "kth_value": torch.tensor(-math.inf)}
            )
        super().load_state_dict(state)


class Header(Callback):
    """Put the ``recemb`` entry into checkpoints, and restore the random state of a resumed run.

    Args:
        config: Configuration sections as plain values.
        schema: Of the data that the model trains on.
    """

    def __init__(self, config: dict[str, Any], schema: Schema) -> None:
        self.config = {name: config[name] for name in SECTIONS}
        self.schema = schema
        self._random_state: Tensor | None = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the entry."""
        checkpoint["recemb"] = {
            "format": FORMAT,
            # In the order of the features, which is that of a model's inputs.
            "config": yaml.safe_dump(self.config, sort_keys=False),
            "schema": self.schema.state(),
            "random_state": torch.get_rng_state(),
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the random state until training starts: building the model has used some."""
        self._random_state = checkpoint["recemb"]["random_state"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random state."""
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, tensors and plain values only.

    Raises:
        RecembError: If it is missing, damaged, holds anything that would run code, or was not
            written by recemb.
    """
    if not path.is_file():
        raise RecembError(f"{path}: there is no such checkpoint; check the path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        if "Unsupported" in reason or "GLOBAL" in reason:
            raise RecembError(
                f"{path}: refused, because it holds a pickled object that would run code; only "
                "tensors and plain values are read"
            ) from None
        raise RecembError(f"{path}: not a readable checkpoint ({reason[:120]})") from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise RecembError(
            f"{path}: not a readable checkpoint, perhaps truncated ({reason})"
        ) from None
    header = checkpoint.get("recemb") if isinstance(checkpoint, dict) else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RecembError(f"{path}: not a checkpoint of this version of recemb (format {FORMAT})")
    content: dict[str, Any] = checkpoint
    return content


def checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration sections that a checkpoint was trained with."""
    config: dict[str, Any] = yaml.safe_load(checkpoint["recemb"]["config"])
    return config


def checkpoint_schema(checkpoint: Mapping[str, Any]) -> Schema:
    """Return the schema that a checkpoint was trained with."""
    return Schema.from_state(checkpoint["recemb"]["schema"])


def is_compressed(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint was written by ``compress``: it has weights only."""
    return "compressed" in checkpoint["recemb"]


def check_same_config(
    path: Path, checkpoint: Mapping[str, Any], current: Mapping[str, Any]
) -> None:
    """Raise a :class:`RecembError` naming the first setting of the model that differs."""
    saved = checkpoint_config(checkpoint)
    before, now = _flat(saved["model"], "model"), _flat(current["model"], "model")
    free = OF_TRAINING if is_compressed(checkpoint) else ()
    for key in sorted({*before, *now}):
        if key.startswith(free) or key.endswith(".sharding"):
            continue
        if before.get(key) != now.get(key):
            message = (
                f"{path}: a checkpoint of another configuration: {key} was "
                f"{before.get(key, 'not set')} there and is {now.get(key, 'not set')} here"
            )
            if is_compressed(checkpoint):
                written = path.with_suffix(".yaml").name
                message += f"; its tables were compressed, so give --config {written} beside it"
            raise RecembError(message)
    for there, here in zip(_ordered(before), _ordered(now), strict=True):
        if there != here:
            raise RecembError(
                f"{path}: a checkpoint of another configuration: {there} was where {here} is here; "
                "a model's inputs are in the order of its features, restore it"
            )


def _ordered(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings whose order a model depends on."""
    return [key for key in settings if key.startswith(ORDERED)]


def _flat(value: Any, path: str) -> dict[str, Any]:
    """Return nested settings under dotted names."""
    if isinstance(value, dict) and value:
        return {
            key: one
            for name, inner in value.items()
            for key, one in _flat(inner, f"{path}.{name}").items()
        }
    return {path: value}
