"""Configurations: where the files that ``--config`` and ``--space`` name are looked for.

One rule: in the current folder; and what is not there, among recemb's own configurations, which are
part of the wheel as of a clone, with ``configs/`` before it or without.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import recemb
from recemb.errors import RecembError

OPTIONS = ("--config", "-c", "--space")
ENDS = (".yaml", ".yml")
FOLDER = "configs"


def with_found_configurations(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command with the paths of configurations where they were found.

    Raises:
        RecembError: If one is nowhere.
    """
    found: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        if equals and option in OPTIONS:
            found.append(f"{option}={_found(value)}")
        elif found and found[-1] in OPTIONS:
            found.append(_found(word))
        else:
            found.append(word)
    return found


def _found(name: str) -> str:
    """Return where a configuration is; what names no file of YAML, such as YAML itself, stays."""
    path = Path(name)
    if "\n" in name or path.suffix not in ENDS or path.exists() or path.is_absolute():
        return name
    inside = Path(*path.parts[1:]) if path.parts[0] == FOLDER else path
    folders = list(_own_folders())
    for folder in folders:
        # Not ``..``: what lies beside the configurations is none.
        if ".." not in inside.parts and (folder / inside).is_file():
            return str(folder / inside)
    own = sorted(
        one.relative_to(folder).as_posix() for folder in folders for one in folder.rglob("*.yaml")
    )
    alike = [one for one in own if Path(one).name == path.name] or own
    shown = ", ".join(alike[:3]) + (", ..." if len(alike) > 3 else "")
    raise RecembError(
        f"{name}: there is no such file in the current folder, nor among recemb's own "
        f"configurations ({shown}); check the path"
    )


def _own_folders() -> Iterator[Path]:
    """Yield the folder of recemb's own configurations: in the wheel, or beside the engine."""
    for place in recemb.__path__:
        if (Path(place) / FOLDER).is_dir():
            yield Path(place) / FOLDER
