"""Import path: where modules are looked for that a configuration or a checkpoint names.

The current folder is not among it: what happens to lie there must not run because a checkpoint
names it, or because it has the name of a module. The project's models and data readers are found
beside the package itself, wherever the command is run; a user's own classes on ``PYTHONPATH``.
"""

import os
import sys
from pathlib import Path

import recemb


def leave_out_current_folder() -> None:
    """Take back that ``python -m`` looks for modules in the current folder first."""
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]


def add_clone() -> None:
    """Find ``models`` and ``data`` in the clone that this package is part of, before others."""
    clone = Path(recemb.__file__).parents[1]
    if (clone / "models").is_dir() and (clone / "data").is_dir() and str(clone) not in sys.path:
        sys.path.insert(0, str(clone))
