"""Paths: where the files that users name are looked for. One rule for every setting and option."""

import os
from pathlib import Path

from recemb.errors import RecembError


def data_root() -> Path:
    """Return the folder of raw data sets: ``$RECEMB_DATA``, or ``~/.cache/recemb`` without it."""
    return Path(os.environ.get("RECEMB_DATA") or Path.home() / ".cache" / "recemb")


def cache_root() -> Path:
    """Return where prepared files go: ``$RECEMB_CACHE``, or ``~/.cache/recemb/prepared``."""
    default = Path.home() / ".cache" / "recemb" / "prepared"
    return Path(os.environ.get("RECEMB_CACHE") or default)


def find(path: str | Path, *inside: str, missing: str = "there is no such file") -> Path:
    """Return where a file or folder of data is: in the current folder, else under the data's root.

    A path is literal: ``*``, ``?`` and ``[`` stand for themselves. ``~`` is the home folder.

    Args:
        path: Absolute, or relative to the current folder or to what :func:`data_root` returns; the
            current folder comes first.
        inside: For a folder: names of files, one of which at least must be in it. So a folder that
            only happens to have the name is passed over.
        missing: What the error says if it is in neither place.

    Raises:
        RecembError: If it is in neither place; the message names all that was tried.

    Example:
        >>> find("shop", "train.csv")  # doctest: +SKIP
        PosixPath('shop')
        >>> find("no such folder", "train.csv")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        recemb.errors.RecembError: .../no such folder/train.csv: there is no such file, nor ...
    """
    try:
        given = Path(path).expanduser()
    except RuntimeError as error:
        raise RecembError(f"{path}: there is no such home folder; write the path out") from error
    # An absolute path stays as it is under any root.
    places = list(dict.fromkeys([given, data_root().expanduser() / given]))
    for place in places:
        # Of os.path, not of Path: a path that may not be looked at is not there, and no fault.
        if os.path.exists(place) and (
            not inside or any(os.path.exists(place / name) for name in inside)
        ):
            return place
    tried = [os.path.abspath(place / inside[0] if inside else place) for place in places]
    rest = "".join(f", nor {place}" for place in tried[1:])
    advice = "" if len(tried) == 1 else " (relative paths are of the current folder or RECEMB_DATA)"
    raise RecembError(f"{tried[0]}: {missing}{rest}; check the path{advice}")
