"""Files: what users have is read, and what they get is written, behind one boundary each.

Files and folders are written whole or not at all: under a temporary name first, then one rename.
Temporary names are unique among all machines. While a writer lives it holds a lock file beside what
it writes; what a dead one left is removed by the next writer of the same path.
"""

import errno
import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from recemb.errors import RecembError

LOCK, PART, ASIDE = ".lock", ".part", ".old"
"""Ends of the names of what a writer has beside its path: a lock, the new one, the old one."""


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


def read_yaml(path: Path, what: str = "configuration") -> Any:
    """Return what a YAML file of the user's holds.

    Args:
        path: The file.
        what: What it should be.

    Raises:
        RecembError: If there is no such file, or it is no YAML text.
    """
    text = _text_of(path, what)
    with reading(path, f"{what} in YAML", "mend it"):
        return yaml.safe_load(text)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: The file.
        what: What it should be.

    Raises:
        RecembError: If there is no such file, or it holds no JSON object.
    """
    text = _text_of(path, what)
    with reading(path, f"{what} in JSON", "make it anew"):
        content = json.loads(text)
    if not isinstance(content, dict):
        raise RecembError(
            f"{path}: a {what} must be a JSON object, got {type(content).__name__}; make it anew"
        )
    return content


def _text_of(path: Path, what: str) -> str:
    if path.is_dir():
        raise RecembError(f"{path}: a {what} must be a file, got a folder; check the path")
    if not path.exists():
        raise RecembError(f"{path}: there is no such file; check the path")
    with reading(path, what, "check what it is, and that it may be read"):
        return path.read_text(encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the system to write (full, read-only, not permitted) into one clear error.

    Args:
        path: The file or folder that is written, as the user named it.

    Raises:
        RecembError: If the block raises an :class:`OSError`, unless it names a file that is neither
            the path, nor in it, nor above it, nor a temporary one of it.
    """
    try:
        yield
    except OSError as error:
        if not _is_about(error, path):
            raise
        raise RecembError(
            f"{path}: cannot be written ({error.strerror or one_line(error)}); make room there, "
            "allow writing, or name another place"
        ) from error


def check_place(path: Path, *, is_folder: bool) -> None:
    """Refuse a place for a result before the work for it begins.

    Args:
        path: Of a file or folder that may not be there yet, nor the folders above it.
        is_folder: Which of both it is to be.

    Raises:
        RecembError: If there is a folder in the place of a file or the other way round, a file
            where a folder must be, or nothing may be written there.
    """
    if path.exists() and path.is_dir() != is_folder:
        wanted, got = ("folder", "file") if is_folder else ("file", "folder")
        raise RecembError(f"{path}: must be a {wanted}, got a {got}; name another place")
    above = path if is_folder else path.parent
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise RecembError(f"{path}: {above} is no folder, got a file there; name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise RecembError(f"{path}: nothing may be written in {above}; name another place")


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error is about writing a path; one that names no file is."""
    if not isinstance(error.filename, str | Path):
        return True
    named, folder = Path(error.filename).absolute(), path.absolute().parent
    if not named.is_relative_to(folder):
        return folder.is_relative_to(named)
    inside = named.relative_to(folder).parts
    return not inside or inside[0] == path.name or inside[0].startswith(f".{path.name}.")


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, short; its type where it has none."""
    return " ".join(str(error).split())[:160] or type(error).__name__


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    A reader sees the old file or the new one, never a part. On an exception the temporary file is
    removed and ``path`` is as it was.

    Raises:
        RecembError: If the system refuses to write there.
    """
    with writing(path), _temporary(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path, stays: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; put it in the place of ``path`` at success.

    On an exception the temporary folder is removed and ``path`` is as it was.

    Args:
        path: The folder.
        stays: Asked at the end about a folder that is there by then: whether it stays, and the new
            one is dropped. By default it is replaced.

    Raises:
        RecembError: If the system refuses to write there.
    """
    with writing(path), _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        while True:
            try:
                os.rename(temporary, path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            if stays is not None and stays(path):
                return
            # Aside first: a rename is at once, a removal is not, and a crash may come in between.
            aside = temporary.with_suffix(ASIDE)
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(FileNotFoundError):
                os.rename(path, aside)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a path beside ``path`` that nobody else has; remove in the end what is left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    lock, file = _new_lock(path)
    try:
        yield lock.with_suffix(PART)
    finally:
        _remove_left(path, lock)
        os.close(file)


def _new_lock(path: Path) -> tuple[Path, int]:
    """Return a lock file of a writer of ``path``, and its descriptor, by which it is held."""
    while True:
        lock = path.with_name(f".{path.name}.{uuid.uuid4().hex}{LOCK}")
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.fstat(file).st_nlink > 0
        except BlockingIOError:
            is_ours = False
        except OSError:
            # Files cannot be locked here: what a dead writer leaves will stay.
            is_ours = True
        if is_ours:
            return lock, file
        # Another writer came before the lock was held, and took it for left behind.
        os.close(file)


def _remove_stale(path: Path) -> None:
    """Remove what writers of ``path`` have left that are no more."""
    for lock in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 32}{LOCK}"):
        try:
            file = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            # Gone by now, or another user's.
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_left(path, lock)
        except OSError:
            # Its writer lives, or it may not be removed.
            continue
        finally:
            os.close(file)


def _remove_left(path: Path, lock: Path) -> None:
    """Remove what a writer of ``path`` has beside it, its lock file last."""
    aside, part = lock.with_suffix(ASIDE), lock.with_suffix(PART)
    if aside.exists() and not path.exists():
        # It ended between two renames.
        with suppress(OSError):
            os.rename(aside, path)
    shutil.rmtree(aside, ignore_errors=True)
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        part.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
