"""A checkpoint's file: sealed, and read without running anything in it.

It is an archive of torch with a seal (:mod:`recemb.seal`) at its end. What is read is what was
written, to the bit, tensors and plain values only, and has what a checkpoint must have.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from recemb.errors import RecembError
from recemb.files import reading
from recemb.seal import is_whole, sealed_checksum

FORMAT = 4
"""Of the ``recemb`` entry and of the file, which is sealed; a reader refuses any other."""

HEADER = {"config": str, "schema": dict, "random_states": list, "device_random_states": list}
"""What the ``recemb`` entry has beside the format; random states are by process."""

LOADED_AT_ONCE = ("state_dict", "rows_optimizer")
"""Entries that are copied into a model and then done with."""

REMEDY = "restore it from a copy, or train again"

VERSION = "pytorch-lightning_version"
"""The entry that says which Lightning wrote a checkpoint."""

SECTIONS = ("model", "data")
"""The parts of a configuration that make a model what it is."""


def read_file(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint's file; rows in files of their own are only named there.

    Tensors of :data:`LOADED_AT_ONCE` stay in the file until they are used.

    Args:
        path: Where it is.

    Raises:
        RecembError: If it is missing, damaged, holds anything that would run code, or was not
            written by recemb.
    """
    if not path.is_file():
        raise RecembError(f"{path}: there is no such checkpoint; check the path")
    with reading(path, "checkpoint", REMEDY):
        is_sealed = sealed_checksum(path) is not None
        is_damaged = is_sealed and not is_whole(path)
    if is_damaged:
        raise RecembError(
            f"{path}: not a readable checkpoint: damaged, its content is not what was written; "
            f"{REMEDY}"
        )
    checkpoint = _loaded(path)
    header = checkpoint.get("recemb") if isinstance(checkpoint, dict) else None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise RecembError(f"{path}: not a checkpoint of this version of recemb (format {FORMAT})")
    # A plain trainer's own writer seals nothing, and what it writes says so.
    if not is_sealed and header.get("is_sealed") is not False:
        raise RecembError(
            f"{path}: not a readable checkpoint: the checksum that ends one is missing; {REMEDY}"
        )
    for fault in _faults(checkpoint):
        raise RecembError(
            f"{path}: not a readable checkpoint: {fault}; it was not written by recemb, {REMEDY}"
        )
    return {
        name: value if name in LOADED_AT_ONCE else _in_memory(value)
        for name, value in checkpoint.items()
    }


def _loaded(path: Path) -> Any:
    """Return what a file of torch holds; its tensors are read when they are used.

    A checkpoint that was read into memory whole would take longer, and twice its size.
    """
    with reading(path, "checkpoint", REMEDY), path.open("rb") as file:
        is_archive = file.read(4) == b"PK\x03\x04"
    if not is_archive:
        raise RecembError(f"{path}: not a readable checkpoint (it is no archive); {REMEDY}")
    with reading(path, "checkpoint", REMEDY):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            if "Unsupported global" not in str(error) and "Unsupported class" not in str(error):
                raise
            raise RecembError(
                f"{path}: refused, because it holds a pickled object that would run code; only "
                "tensors and plain values are read"
            ) from None


def _in_memory(value: Any) -> Any:
    """Return nested values with copies of their tensors, which the file's fate does not touch."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _in_memory(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_in_memory(one) for one in value)
    return value


def _faults(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a checkpoint should have and has not."""
    header = checkpoint["recemb"]
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(
        isinstance(one, torch.Tensor) for one in state.values()
    ):
        yield "'state_dict' must hold its tensors"
    for name, kind in HEADER.items():
        if not isinstance(header.get(name), kind):
            yield f"{name!r} must be a {kind.__name__}, got {type(header.get(name)).__name__}"
    states = [*(header.get("random_states") or []), *(header.get("device_random_states") or [])]
    if not all(one is None or isinstance(one, torch.Tensor) for one in states):
        yield "random states must be tensors"
    rows = header.get("rows")
    if rows is not None:
        entries = {"folder": str, "files": dict, "prefix": str, "step": int}
        if not isinstance(rows, dict) or any(
            not isinstance(rows.get(name), kind) for name, kind in entries.items()
        ):
            yield f"'rows' must have {', '.join(entries)}"
        # Names and no paths: nothing is read but what lies beside the checkpoint.
        elif any(Path(name).name != name for name in (rows["folder"], *rows["files"])):
            yield "'rows' must name a folder beside it and files in that"
