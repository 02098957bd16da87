"""Checksums: every byte of a file or folder that is read back is the byte that was written.

A folder's manifest is the text file ``checksums.txt``: a line ``checksum  bytes  name`` per file,
and a last one with the checksum of the lines above it. So the manifest covers itself.
"""

from collections.abc import Iterable
from pathlib import Path

import xxhash

from recemb.errors import RecembError

MANIFEST = "checksums.txt"
READ_BYTES = 1 << 22
"""Read at a time: no file is held in memory."""


def checksum(path: Path) -> str:
    """Return the checksum of a file's content: XXH3, 128 bits, in hexadecimal digits.

    It finds accidents, not forgeries: whoever can change a file can change its checksum too.
    """
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files in a folder, its sub-folders included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    rows = (
        f"{checksum(path)}  {path.stat().st_size}  {path.relative_to(folder).as_posix()}\n"
        for path in files
    )
    text = "".join(rows).encode()
    (folder / MANIFEST).write_bytes(text + _last_line(text))


def check_manifest(folder: Path, names: Iterable[str] | None = None, *, remedy: str) -> None:
    """Compare files of a folder with its manifest.

    Args:
        folder: Written with :func:`write_manifest`.
        names: The files that are about to be read; all that the manifest names by default.
        remedy: What the user can do about a damaged folder; it ends the message.

    Raises:
        RecembError: If the manifest or a file is missing, or is not what was written.
    """
    found = _read_manifest(folder, remedy)
    for name in found if names is None else names:
        if name not in found:
            raise RecembError(
                f"{folder / name}: the folder's {MANIFEST} does not name it; {remedy}"
            )
        size, wanted = found[name]
        path = folder / name
        if not path.is_file():
            raise RecembError(f"{path}: the file is missing; {remedy}")
        if path.stat().st_size != size:
            raise RecembError(
                f"{path}: damaged, must have {size:,} bytes, got {path.stat().st_size:,}; {remedy}"
            )
        if checksum(path) != wanted:
            raise RecembError(f"{path}: damaged, its content is not what was written; {remedy}")


def _read_manifest(folder: Path, remedy: str) -> dict[str, tuple[int, str]]:
    """Return size and checksum of each file."""
    path = folder / MANIFEST
    if not path.is_file():
        raise RecembError(f"{path}: the file is missing; {remedy}")
    *lines, own = path.read_bytes().splitlines(keepends=True) or [b""]
    if own != _last_line(b"".join(lines)):
        raise RecembError(f"{path}: damaged, its content is not what was written; {remedy}")
    rows = (line.decode().rstrip("\n").split("  ", 2) for line in lines)
    return {name: (int(size), digest) for digest, size, name in rows}


def _last_line(text: bytes) -> bytes:
    return xxhash.xxh3_128_hexdigest(text).encode() + b"\n"
