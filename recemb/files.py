"""Files: what users have is read, and what they get is written, behind one boundary each.

Files and folders are written whole or not at all: under a temporary name first, then one rename.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from recemb.errors import RecembError


@contextmanager
def reading(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises while it parses a user's file into one clear error.

    Damaged bytes can raise anything in a parser, so the block must hold the parser's call alone:
    a fault of our own in it would pass for the user's.

    Args:
        path: The file or folder, as the user named it.
        what: What it should be, such as ``parquet file``.
        remedy: What the user can do; it ends the message.

    Raises:
        RecembError: If the block raises anything but a :class:`RecembError`.

    Example:
        >>> with reading(Path("old.json"), "JSON file", "write it again"):
        ...     raise KeyError("tables")
        Traceback (most recent call last):
            ...
        recemb.errors.RecembError: old.json: not a readable JSON file ('tables'); write it again
    """
    try:
        yield
    except (RecembError, MemoryError):
        raise
    # A panic of polars is no Exception.
    except (Exception, pl.exceptions.PanicException) as error:
        raise RecembError(f"{path}: not a readable {what} ({one_line(error)}); {remedy}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the system to write (full, read-only, not permitted) into one clear error.

    Args:
        path: The file or folder that is written, as the user named it.

    Raises:
        RecembError: If the block raises an :class:`OSError`.
    """
    try:
        yield
    except OSError as error:
        raise RecembError(
            f"{path}: cannot be written ({error.strerror or one_line(error)}); make room there, "
            "allow writing, or name another place"
        ) from error


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, short; its type where it has none."""
    return " ".join(str(error).split())[:160] or type(error).__name__


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    A reader sees the old file or the new one, never a part. On an exception the temporary file is
    removed and ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; put it in the place of ``path`` at success.

    On an exception the temporary folder is removed and ``path`` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            # Aside first: a rename is at once, a removal is not, and a crash may come in between.
            aside = path.with_name(f".{path.name}.{os.getpid()}.old")
            os.replace(path, aside)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
