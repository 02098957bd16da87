"""Import path: where modules are looked for that a configuration or a checkpoint names.

The current folder is not among it: what happens to lie there must not run because a checkpoint
names it, or because it has the name of a module. A user's own classes are found on ``PYTHONPATH``.
"""

import os
import sys


def leave_out_current_folder() -> None:
    """Take back that ``python -m`` looks for modules in the current folder first."""
    if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
        del sys.path[0]
