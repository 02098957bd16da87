"""Seal: an archive ends with the checksum of all its bytes, so that none of them changes unseen.

The archives that torch writes hold checksums of their parts, at which torch does not look, and much
that no checksum covers. A zip archive may end with a comment, though, which its readers skip: there
the seal is, so that ``torch.load`` reads a sealed file as any other. A seal finds accidents, not
forgeries: whoever can change a file can seal it anew.
"""

import os
from pathlib import Path

import xxhash

MARK = b"recemb XXH3-128 "
"""Begins the seal; after it come the checksum's hexadecimal digits."""
DIGITS = 32
READ_BYTES = 1 << 20
"""Read at a time; a piece is still in the processor's cache when its checksum is taken."""

_END = b"PK\x05\x06"
_END_BYTES = 22
"""Of the record that ends an archive; its last two bytes say how long the comment is."""


def seal(path: Path) -> None:
    """Seal an archive that ends without a comment."""
    with path.open("r+b") as file:
        file.seek(-_END_BYTES, os.SEEK_END)
        end = file.read()
        assert end.startswith(_END), path
        assert end.endswith(b"\0\0"), path
        file.seek(-2, os.SEEK_END)
        file.write((len(MARK) + DIGITS).to_bytes(2, "little") + MARK)
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(digest)


def sealed_checksum(path: Path) -> str | None:
    """Return the checksum with which a file was sealed, unchecked; None if it has no seal.

    It tells the content of one archive from that of another, and takes no time.
    """
    if path.stat().st_size < _END_BYTES + len(MARK) + DIGITS:
        return None
    with path.open("rb") as file:
        file.seek(-len(MARK) - DIGITS, os.SEEK_END)
        found = file.read()
    return found[-DIGITS:].decode("latin-1") if found.startswith(MARK) else None


def is_whole(path: Path) -> bool:
    """Return whether a sealed file is, to the bit, the one that was sealed."""
    found = sealed_checksum(path)
    wanted = _digest(path, path.stat().st_size - DIGITS)
    return found is not None and found.encode("latin-1") == wanted


def _digest(path: Path, num_bytes: int) -> bytes:
    """Return the checksum of the first bytes of a file."""
    digest = xxhash.xxh3_128()
    piece = memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes > 0 and (count := file.readinto(piece[: min(num_bytes, READ_BYTES)])):
            digest.update(piece[:count])
            num_bytes -= count
    return digest.hexdigest().encode()
