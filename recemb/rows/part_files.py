"""Files of rows: each process's parts of all tables and states, saved and loaded.

Written and read by ``torch.distributed.checkpoint``: each process writes a file of its own, with an
index beside them, and each reads what it needs, however many processes there were and however
tables were cut. So no process ever holds a whole table. DCP would run whatever code its pickled
index names, and take files for whole that are not; here the index may name its own classes only,
and every file is held to the size and the checksum with which it was saved.
"""

import pickle
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from recemb import processes
from recemb.checksums import checksum
from recemb.errors import RecembError
from recemb.files import reading
from recemb.rows.store import Part

INDEX = ".metadata"
"""Of the files in a folder, the one that says what is in the others."""

REMEDY = "restore the checkpoint from a copy"

CHUNK_ELEMENTS = 1 << 24
"""Elements that are written, and later read, at a time."""

Shape = tuple[tuple[int, ...], torch.dtype]
"""Of a whole entry, with its type."""

Files = dict[str, tuple[int, str]]
"""Size and checksum of every file of a folder, by name."""


def save_parts(folder: Path, parts: Iterable[Part]) -> Files:
    """Write the parts of all processes into a folder; return what lies there, in all of them.

    All processes must call it; what fails in one fails in all.

    Raises:
        RecembError: If a file cannot be written.
    """
    writer = FileSystemWriter(folder, thread_count=1, single_file_per_rank=True)
    own = [part for part in parts if not part.is_copy]
    try:
        with _quiet():
            save({}, storage_writer=writer, planner=_Save(own), **_group())
    except CheckpointException as error:
        rank, (reason, _) = min(error.failures.items())
        short = " ".join(str(reason).split())[:120]
        # A full disk has many names: torch's own writer tells of a position.
        free = shutil.disk_usage(folder.parent).free if folder.parent.is_dir() else 0
        raise RecembError(
            f"{folder}: rows could not be written by process {rank} ({short}); {free:,} bytes are "
            "free there; make room, the previous checkpoint is untouched"
        ) from None
    files: Files = {}
    names = [f"__{processes.rank()}_0.distcp", *([] if processes.rank() else [INDEX])]
    own_files = {name: _signature(folder / name) for name in names if (folder / name).is_file()}
    for found in processes.from_all(own_files):
        files |= found
    return files


def load_parts(folder: Path, files: Mapping[str, tuple[int, str]], parts: Iterable[Part]) -> None:
    """Fill the parts of all processes from a folder that any number of processes wrote.

    All processes must call it; what is wrong for one is an error in all.

    Raises:
        RecembError: If a file is missing, of another size or of another checkpoint, or if an entry
            is missing or has another shape or type.
    """
    own = list(parts)
    wanted: dict[str, Shape] = {}
    # A process may have no part of a table.
    for entries in processes.from_all({one.entry: (one.shape, one.tensor.dtype) for one in own}):
        wanted |= entries
    with processes.agreement():
        _check(folder, files)
        _check_entries(folder, wanted)
    with _quiet():
        load({}, storage_reader=_Reader(folder), planner=_Load(own), **_group())


def read_whole(folder: Path, files: Mapping[str, tuple[int, str]]) -> dict[str, Tensor]:
    """Return all entries of a folder, whole, in this process alone.

    Raises:
        RecembError: If a file is missing, of another size or of another checkpoint.
    """
    _check(folder, files, is_alone=True)
    found = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in _entries(folder).items()
    }
    parts = [
        Part(name, tuple(whole.shape), (0,) * whole.ndim, whole) for name, whole in found.items()
    ]
    with _quiet():
        load({}, storage_reader=_Reader(folder), planner=_Load(parts), no_dist=True)
    return found


def check_index(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
    """Raise a :class:`RecembError` if a folder's index is not the one that was saved."""
    _check(folder, {name: one for name, one in files.items() if name == INDEX}, is_alone=True)


def saved_bytes(folder: Path) -> int:
    """Return the bytes of all entries of a folder."""
    return sum(
        entry.size.numel() * entry.properties.dtype.itemsize for entry in _entries(folder).values()
    )


def _entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    saved = _Reader(folder).read_metadata().state_dict_metadata
    return {name: one for name, one in saved.items() if isinstance(one, TensorStorageMetadata)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what DCP says to a process that is alone, as this one means to be."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _group() -> dict[str, Any]:
    group = processes.patient_group()
    return {"process_group": group} if group else {"no_dist": True}


# What is written and read: for each part, by DCP's planners


def _chunks(part: Part) -> Iterator[tuple[torch.Size, Tensor]]:
    """Yield a part in pieces of some rows each, and where in the whole each begins."""
    tensor = part.tensor
    if not tensor.numel():
        return
    step = max(1, CHUNK_ELEMENTS * len(tensor) // tensor.numel())
    for first in range(0, len(tensor), step):
        yield (
            torch.Size((part.offset[0] + first, *part.offset[1:])),
            tensor[first : first + step],
        )


class _Save(SavePlanner):
    """Write parts."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = list(parts)
        self.tensors: dict[tuple[str, torch.Size | None], Tensor] = {}

    def set_up_planner(
        self,
        state_dict: Any,
        storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take nothing: what is written came with the constructor."""

    def create_local_plan(self) -> SavePlan:
        """Say what this process writes."""
        items = []
        for part in self.parts:
            for offset, tensor in _chunks(part):
                self.tensors[part.entry, offset] = tensor
                items.append(
                    WriteItem(
                        index=MetadataIndex(part.entry, offset),
                        type=WriteItemType.SHARD,
                        tensor_data=TensorWriteData(
                            chunk=ChunkStorageMetadata(offset, tensor.shape),
                            properties=TensorProperties.create_from_tensor(tensor),
                            size=torch.Size(part.shape),
                        ),
                    )
                )
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Join what all write."""
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """Write what was planned."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        """Return what is to be written."""
        return self.tensors[write_item.index.fqn, write_item.index.offset].detach()


class _Load(LoadPlanner):
    """Fill parts."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.tensors = {
            (part.entry, torch.Size(part.offset)): part.tensor
            for part in parts
            if part.tensor.numel()
        }
        self.metadata = Metadata({})

    def set_up_planner(
        self,
        state_dict: Any,
        metadata: Metadata | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Take what was saved."""
        assert metadata is not None
        self.metadata = metadata

    def create_local_plan(self) -> LoadPlan:
        """Say what this process reads: of each saved chunk that meets one of its parts."""
        items: list[ReadItem] = []
        for (entry, offset), tensor in self.tensors.items():
            saved = self.metadata.state_dict_metadata[entry]
            assert isinstance(saved, TensorStorageMetadata)
            chunk = ChunkStorageMetadata(offset, tensor.shape)
            items += create_read_items_for_chunk_list(entry, saved, [chunk])
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Each reads for itself."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Read what was planned."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        """Refuse: nothing but tensors is saved."""
        raise RecembError(f"{read_item.dest_index.fqn}: not a tensor; it is of no use here")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """Return the place that a saved piece goes to."""
        offset = read_item.dest_index.offset
        assert offset is not None
        target = self.tensors[read_item.dest_index.fqn, offset]
        for axis, (first, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            target = target.narrow(axis, first, length)
        return target

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Do nothing: it has been filled in place."""


# What is refused


class _Unpickler(pickle.Unpickler):
    """Read an index, which may name the classes that an index is made of and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class of an index."""
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


_METADATA = "torch.distributed.checkpoint.metadata"
_CLASSES = {
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    *(("torch", name) for name in ("float32", "float16", "bfloat16")),
    *(("torch", name) for name in ("uint8", "int8", "int16", "int32", "int64")),
}


class _Reader(FileSystemReader):
    """Read a folder whose index may be anyone's."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index."""
        path = Path(self.path) / INDEX
        with reading(path, "index of rows", REMEDY), path.open("rb") as file:
            try:
                metadata: Metadata = _Unpickler(file).load()
            except pickle.UnpicklingError as error:
                raise RecembError(f"{path}: not an index that recemb wrote ({error})") from None
        return metadata


def _check(folder: Path, files: Mapping[str, tuple[int, str]], is_alone: bool = False) -> None:
    """Hold the files of a folder to what they were saved with; each process looks at its share."""
    if not folder.is_dir():
        raise RecembError(
            f"{folder}: the folder of the checkpoint's rows is missing; move it along with the "
            "checkpoint that names it"
        )
    if INDEX not in files:
        raise RecembError(f"{folder}: the checkpoint does not name its {INDEX}; restore it")
    for name, (size, _) in files.items():
        path = folder / name
        if not path.is_file():
            raise RecembError(f"{path}: a file of the checkpoint's rows is missing; restore it")
        if path.stat().st_size != size:
            raise RecembError(
                f"{path}: a file of the checkpoint's rows must have {size:,} bytes, got "
                f"{path.stat().st_size:,}; it is truncated or of another checkpoint, restore it"
            )
    share = slice(None) if is_alone else slice(processes.rank(), None, processes.world_size())
    for name in sorted(files)[share]:
        if _signature(folder / name)[1] != files[name][1]:
            raise RecembError(
                f"{folder / name}: a file of the checkpoint's rows is not the one that was saved "
                "(its checksum differs); it is damaged or of another checkpoint, restore it"
            )


def _signature(path: Path) -> tuple[int, str]:
    return path.stat().st_size, checksum(path)


def _check_entries(folder: Path, wanted: Mapping[str, Shape]) -> None:
    saved = {
        name: (tuple(entry.size), entry.properties.dtype)
        for name, entry in _entries(folder).items()
    }
    for entry in [*wanted, *saved]:
        table = entry.partition("/")[2]
        if entry not in saved or entry not in wanted:
            place = "in the checkpoint" if entry not in saved else "in the model"
            raise RecembError(
                f"{folder}: table {table!r} is not {place}; it was saved by another configuration"
            )
        if saved[entry] != wanted[entry]:
            (shape, dtype), (got, got_dtype) = wanted[entry], saved[entry]
            raise RecembError(
                f"{folder}: table {table!r} must have shape {shape} of {dtype}, got {got} of "
                f"{got_dtype}; it was saved by another configuration"
            )
