"""Checkpoints: self-contained, written whole, and read without running anything in them.

Beside Lightning's own entries a checkpoint holds ``recemb``: the configuration as YAML text and its
hash, the schema (vocabularies, attributes, number scales) and the state of torch's random
generator. So a checkpoint alone rebuilds the model, and a resumed run continues bit for bit.
"""

import glob
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import LightningModule
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from recemb import processes
from recemb.accounting import nested_tensors, tensor_bytes
from recemb.checkpoint_file import REMEDY, SECTIONS, VERSION, read_file
from recemb.errors import RecembError
from recemb.files import one_line, reading, whole_file
from recemb.renamed import current_paths
from recemb.rows.store import STATE, TABLE, RowsStore
from recemb.schema import Schema
from recemb.seal import seal, sealed_checksum

ROWS = ".rows-"
"""Between a checkpoint's name and what tells apart the folders of rows that were saved under it."""

ORDERED = ("model.init_args.features.", "model.init_args.history.")
"""Settings that are the order of a model's inputs; all others are found by name."""


OF_RESUMING = (
    VERSION,
    "epoch",
    "global_step",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "training",
)
"""Entries of Lightning's, and :mod:`recemb.resuming`'s, without which no training goes on."""


OF_TRAINING = ("model.init_args.learning_rate", "model.init_args.rows_optimizer.")
"""Settings that do not make a model what it is: weights alone may be trained on with others."""


class WholeFileIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name, then rename: a crash leaves the previous one."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a checkpoint with all its rows."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and the folders of its rows."""
        super().remove_checkpoint(path)
        remove_rows(Path(path))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Save to a local file, whole or not at all."""
        try:
            with whole_file(Path(path)) as temporary:
                torch.save(checkpoint, temporary)
                seal(temporary)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            # torch's own writer reports a full disk as a RuntimeError.
            raise RecembError(
                f"{path}: the checkpoint could not be written ({one_line(error)}); the "
                "previous one is untouched"
            ) from error


# Rows in files of their own: what several processes hold is not written by one


def save_sharded(checkpoint: dict[str, Any], path: Path, module: LightningModule) -> None:
    """Save a checkpoint whose rows are spread over processes; all must call it.

    The rows go into a folder of their own beside ``path``, each process's into a file of its own;
    ``path``, written last and at once, names the folder, its files and their checksums. So until
    then, and whatever fails before, the previous checkpoint is there with its folder.

    Args:
        checkpoint: All but the rows.
        path: Where it goes.
        module: Whose rows.

    Raises:
        RecembError: In all processes, if one cannot write.
    """
    from recemb.rows.part_files import save_parts

    prefix, store = _rows_of(module)
    name = processes.from_first(f"{path.name}{ROWS}{uuid.uuid4().hex[:8]}")
    folder = path.with_name(name)
    try:
        files = save_parts(folder, store.parts())
        rows = {"folder": name, "files": files, "prefix": prefix, "step": store.num_steps}
        checkpoint["recemb"]["rows"] = rows
        with processes.agreement():
            if not processes.rank():
                WholeFileIO().save_checkpoint(checkpoint, path)
    except RecembError:
        if not processes.rank():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not processes.rank():
        remove_rows(path, but=name)


def load_module(path: Path, checkpoint: Mapping[str, Any], module: LightningModule) -> None:
    """Load the weights of a checkpoint that was read; with several processes all must call it.

    Args:
        path: Where it was read.
        checkpoint: As :func:`read_checkpoint` returned it, with or without its rows.
        module: Of the same configuration.

    Raises:
        RecembError: If the checkpoint is of another configuration, if it lacks anything that the
            module has, or if a file of its rows is not the one that was saved.
    """
    check_complete(path, checkpoint, module)
    # What may still be missing are rows that come from files of their own.
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    rows = checkpoint["recemb"].get("rows")
    if rows is not None:
        from recemb.rows.part_files import load_parts

        _, store = _rows_of(module)
        load_parts(path.with_name(rows["folder"]), rows["files"], store.parts())
        store.num_steps = rows["step"]


def check_complete(path: Path, checkpoint: Mapping[str, Any], module: LightningModule) -> None:
    """Raise a :class:`RecembError` unless a checkpoint has every tensor that a module has.

    Nothing that a model starts with by chance may pass for trained. Rows in files of their own are
    held to the module where they are loaded.
    """
    prefix, store = _rows_of(module)
    wanted: dict[str, torch.Size | None] = {
        name: one.shape for name, one in module.state_dict().items()
    }
    if checkpoint["recemb"].get("rows") is None:
        # A store compares the shapes of rows itself.
        wanted |= dict.fromkeys(prefix + name for name in store.entry_bytes())
    else:
        wanted = {name: one for name, one in wanted.items() if not name.startswith(prefix)}
    saved = {name: one.shape for name, one in checkpoint["state_dict"].items()}
    for name in [*wanted, *saved]:
        if name not in saved or name not in wanted:
            place = "the checkpoint has none" if name in wanted else "the model has none"
            raise RecembError(
                f"{path}: every tensor of the model must come from the checkpoint, but {place} "
                f"called {name!r}; it was saved by another configuration, or is incomplete"
            )
        shape = wanted[name]
        if shape is not None and saved[name] != shape:
            raise RecembError(
                f"{path}: {name!r} must have shape {tuple(shape)}, got {tuple(saved[name])}; it "
                "was saved by another configuration"
            )


def check_resumable(path: Path, checkpoint: Mapping[str, Any], module: LightningModule) -> None:
    """Raise a :class:`RecembError` unless a training can go on from a checkpoint."""
    check_complete(path, checkpoint, module)
    for name in OF_RESUMING:
        if name not in checkpoint:
            raise RecembError(
                f"{path}: training cannot go on from it, because it has no {name!r}; begin another "
                "with --warm_start"
            )


def fingerprint(path: Path) -> str:
    """Return what tells a checkpoint's content from any other's: 32 hexadecimal digits.

    It is the checksum with which the file was sealed, which covers those of the files of its rows,
    and is read without reading the content.

    Raises:
        RecembError: If there is no such checkpoint.
    """
    if not path.is_file():
        raise RecembError(f"{path}: there is no such checkpoint; check the path")
    with reading(path, "checkpoint", REMEDY):
        found = sealed_checksum(path)
    if found is None:
        raise RecembError(f"{path}: not a readable checkpoint (it is not sealed); {REMEDY}")
    return found


def checkpoint_bytes(path: Path) -> int:
    """Return the bytes of the tensors of a checkpoint, its rows included."""
    checkpoint = read_checkpoint(path, with_rows=False)
    own = tensor_bytes(nested_tensors(checkpoint))
    rows = checkpoint["recemb"].get("rows")
    if rows is None:
        return own
    from recemb.rows.part_files import check_index, saved_bytes

    folder = path.with_name(rows["folder"])
    check_index(folder, rows["files"])
    return own + saved_bytes(folder)


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint with the folder of its rows; whole or not at all."""
    checkpoint = read_checkpoint(source, with_rows=False)
    rows = checkpoint["recemb"].get("rows")
    if rows is None:
        with whole_file(target) as temporary:
            shutil.copyfile(source, temporary)
        return
    folder = target.with_name(f"{target.name}{ROWS}{uuid.uuid4().hex[:8]}")
    shutil.copytree(source.with_name(rows["folder"]), folder)
    rows["folder"] = folder.name
    WholeFileIO().save_checkpoint(checkpoint, target)
    remove_rows(target, but=folder.name)


def remove_rows(path: Path, but: str = "") -> None:
    """Remove the folders of a checkpoint's rows: those of earlier ones and of ones that failed."""
    for folder in path.parent.glob(f"{glob.escape(path.name)}{ROWS}*"):
        if folder.name != but:
            shutil.rmtree(folder, ignore_errors=True)


def _rows_of(module: LightningModule) -> tuple[str, RowsStore]:
    """Return the rows store of a module, and what begins its names among the module's."""
    return next(
        (f"{name}.", one) for name, one in module.named_modules() if isinstance(one, RowsStore)
    )


def _add_rows(path: Path, checkpoint: dict[str, Any]) -> None:
    """Read the rows that a checkpoint names into where one process would have saved them."""
    from recemb.rows.part_files import read_whole

    rows = checkpoint["recemb"].pop("rows", None)
    if rows is None:
        return
    state = {"step": torch.tensor(rows["step"])}
    for entry, tensor in read_whole(path.with_name(rows["folder"]), rows["files"]).items():
        if entry.startswith(TABLE):
            checkpoint["state_dict"][rows["prefix"] + entry.removeprefix(TABLE)] = tensor
        else:
            state[entry.removeprefix(STATE)] = tensor
    checkpoint["rows_optimizer"] = state


def read_checkpoint(path: Path, with_rows: bool = True) -> dict[str, Any]:
    """Return a checkpoint's content, tensors and plain values only, of which every byte is checked.

    Weights and the state of rows stay in the file until they are copied into a model.

    Args:
        path: Where it is.
        with_rows: Whether rows that several processes saved are read, whole; without them
            :func:`load_module` has each process load its own.

    Raises:
        RecembError: If it is missing, damaged, holds anything that would run code, or was not
            written by recemb.
    """
    content = read_file(path)
    if with_rows:
        _add_rows(path, content)
    return content


def checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration sections that a checkpoint was trained with.

    Raises:
        RecembError: If they are not YAML, or not there.
    """
    with reading(Path("the checkpoint's configuration"), "YAML text", REMEDY):
        config: dict[str, Any] = yaml.safe_load(checkpoint["recemb"]["config"])
        for name in SECTIONS:
            config[name]
    return {**config, **{name: current_paths(config[name]) for name in SECTIONS}}


def checkpoint_schema(checkpoint: Mapping[str, Any]) -> Schema:
    """Return the schema that a checkpoint was trained with.

    Raises:
        RecembError: If it is none.
    """
    with reading(Path("the checkpoint's schema"), "schema", REMEDY):
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
