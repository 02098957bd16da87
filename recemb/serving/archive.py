"""The file of a served program: what it holds, and how damage to it is found.

A TorchScript file is a zip archive of code, tensors and, here, a description of the inputs. torch
puts beside each piece of code where its source lay on the exporting machine; that is left out. The
zip's own checksums are not looked at when torch loads a file, so beside the program lies
``<program>.checksum``, one line as ``xxh128sum`` writes it:

    <XXH3, 128 bits, in hexadecimal digits>  <program's name>

:func:`load_program` and :func:`read_description` compare it first; elsewhere
``xxh128sum -c model.pt.checksum`` does.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from recemb.checksums import checksum
from recemb.errors import RecembError
from recemb.files import reading, whole_file, writing
from recemb.serving.torchscript import torchscript_expected

DESCRIPTION = "inputs.json"
"""The extra file inside the archive that says what the inputs are."""
CHECKSUM = ".checksum"
"""Ends the name of the file beside a program."""
SOURCES = ".debug_pkl"
"""Ends the names of what torch keeps of the source code: its text and its place."""
ALIGNMENT = 64
"""Bytes of which the place of an entry's data is a multiple, as torch has it."""
REMEDY = "export the program again, or copy both files once more"


def write_program(
    program: torch.jit.ScriptModule, path: Path, description: Mapping[str, object]
) -> None:
    """Write a program without a trace of where it was made.

    Args:
        program: Of TorchScript.
        path: The file; nothing is written beside it.
        description: Of its inputs.
    """
    extra = {DESCRIPTION: json.dumps(description, indent=1)}
    buffer = io.BytesIO()
    with torchscript_expected():
        torch.jit.save(program, buffer, _extra_files=extra)
    with zipfile.ZipFile(buffer) as given, zipfile.ZipFile(path, "w") as kept:
        for entry in given.infolist():
            if not entry.filename.endswith(SOURCES):
                kept.writestr(_aligned(entry, kept.start_dir), given.read(entry))


def _aligned(entry: zipfile.ZipInfo, start: int) -> zipfile.ZipInfo:
    """Return the header of an entry that begins at ``start``, so long that its data lie aligned."""
    new = zipfile.ZipInfo(entry.filename)
    # Where sizes need eight bytes, zipfile adds them behind ours.
    long = 20 if entry.file_size > zipfile.ZIP64_LIMIT else 0
    end = start + 30 + len(entry.filename.encode()) + long + 4
    padding = -end % ALIGNMENT
    new.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
    return new


def checksum_file(path: Path) -> Path:
    """Return the file beside another that holds its checksum."""
    return path.with_name(path.name + CHECKSUM)


def write_checksum(path: Path) -> str:
    """Write the checksum of a program, or of a file of it, beside that, and return it."""
    digest, beside = checksum(path), checksum_file(path)
    with writing(beside), whole_file(beside) as temporary:
        temporary.write_text(f"{digest}  {path.name}\n")
    return digest


def check_file(path: Path, what: str = "program") -> None:
    """Compare a program, or another file that was written with it, with the checksum beside it.

    Raises:
        RecembError: If either is missing, or the file is not what was written.
    """
    beside = checksum_file(path)
    for one in (path, beside):
        if not one.is_file():
            raise RecembError(f"{one}: the file is missing; {REMEDY}")
    with reading(beside, "checksum", REMEDY):
        wanted = beside.read_bytes().split(maxsplit=1)[0].decode()
    with reading(path, what, REMEDY):  # a disk may fail too
        found = checksum(path)
    if found != wanted:
        raise RecembError(f"{path}: damaged, its content is not what was written; {REMEDY}")


def load_program(path: Path) -> torch.jit.ScriptModule:
    """Return a program whose bytes are those that were written.

    Raises:
        RecembError: If the program or its checksum is missing, damaged or no program at all.
    """
    check_file(path)
    with reading(path, "program", REMEDY), torchscript_expected():
        return torch.jit.load(path)  # type: ignore[no-any-return]


def read_description(path: Path) -> dict[str, dict[str, object]]:
    """Return what a program says of its inputs, by name, without loading it.

    Raises:
        RecembError: If the program or its checksum is missing, damaged or no program at all.
    """
    check_file(path)
    with reading(path, "program", REMEDY), zipfile.ZipFile(path) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(f"/extra/{DESCRIPTION}"))
        found: dict[str, dict[str, object]] = json.loads(archive.read(name))
    return found
