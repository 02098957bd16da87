"""Cache: prepared data, in folders whose names say what they were made from.

A name follows from the content of every source, the settings and the format. So another source, or
one that has changed, is another folder, wherever it lies; and a folder is never changed.

A prepared folder has a manifest (:mod:`recemb.checksums`). It is checked when the folder is opened,
once per process and state of its files; a damaged folder is prepared anew.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from recemb.checksums import check_manifest, checksum, write_manifest
from recemb.errors import RecembError
from recemb.files import reading, whole_folder, writing

State = tuple[tuple[str, int, int, int, int], ...]
"""Name, bytes, times of the last changes (of the content, and of anything) and number of files:
other content has another state, also where somebody has set the first time back."""

_checksums: dict[State, str] = {}
_checked: set[State] = set()


def content_of(path: Path) -> str:
    """Return the checksum of a file's content, which is read once per process and state.

    Raises:
        RecembError: If the file cannot be read.
    """
    with reading(path, "file", "check that it is there and may be read"):
        state = _state([path])
        if state not in _checksums:
            _checksums[state] = checksum(path)
        return _checksums[state]


def cache_name(kind: str, sources: Sequence[Path], settings: Mapping[str, object]) -> str:
    """Return the name of the folder of prepared data.

    Args:
        kind: What is prepared, and the version of its format, such as ``beauty-sequences-2``.
        sources: All files that it is made from, in a fixed order.
        settings: What else the content depends on: values that ``json`` knows, or of which the
            ``repr`` says all.

    Example:
        >>> cache_name("numbers-1", [], {"count": 3})
        'numbers-1-6723d5396d42803a'
    """
    # How a file is read follows from the end of its name.
    contents = [(path.suffix, content_of(path)) for path in sources]
    text = json.dumps([kind, contents, settings], sort_keys=True, default=repr)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def prepared_folder(
    root: Path,
    kind: str,
    sources: Sequence[Path],
    settings: Mapping[str, object],
    write: Callable[[Path], None],
) -> Path:
    """Return the folder of prepared data; it is written if it is not there, or is damaged.

    Two processes may prepare the same folder at once: both end with that of the first.

    Args:
        root: Where prepared data lives.
        kind: See :func:`cache_name`.
        sources: See :func:`cache_name`.
        settings: See :func:`cache_name`.
        write: Writes the files into the folder that it is given.

    Raises:
        RecembError: If a source cannot be read, or the folder cannot be written.
    """
    target = root / cache_name(kind, sources, settings)
    fault = _fault(target) if target.is_dir() else ""
    if fault is None:
        return target
    if fault:
        say(fault)
    with writing(target), whole_folder(target, stays=lambda folder: _fault(folder) is None) as new:
        write(new)
        write_manifest(new)
    return target


def _fault(folder: Path) -> str | None:
    """Return what is wrong with a prepared folder, None if it is as it was written."""
    state = _state(sorted(folder.rglob("*")))
    if state not in _checked:
        try:
            check_manifest(folder, remedy="it is prepared anew")
        except (RecembError, OSError) as error:
            return str(error)
        _checked.add(state)
    return None


def say(line: str) -> None:
    """Print a line for the user that is no result, above any progress bar."""
    tqdm.write(line, file=sys.stderr)


def _state(paths: Sequence[Path]) -> State:
    stats = [(str(path.resolve()), path.stat()) for path in paths]
    return tuple(
        (name, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for name, one in stats
    )
