"""Notices: what libraries say that a user can do nothing about."""

import logging
import warnings


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
