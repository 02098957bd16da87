"""Notices: what libraries say that a user can do nothing about."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric", "torch.fx._symbolic_trace")


def quiet() -> None:
    """Silence notices of libraries that a user can do nothing about."""
    # Lightning sets its loggers' levels when it is imported: import first, then set ours.
    import lightning.pytorch  # noqa: F401

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # our loader is no DataLoader and needs none
        ".*is deprecated.*",
        ".*args parameter is intended to run from within Python.*",
        ".*GPU available but not used.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*Checkpoint directory .* exists and is not empty.*",  # of a resumed run
    ):
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def silence() -> Iterator[None]:
    """Silence such notices within the block: they are as before where others go on."""
    import lightning.pytorch  # noqa: F401

    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
