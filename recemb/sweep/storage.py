"""Storages: databases of Optuna's studies, and what is wrong when one cannot be reached."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from recemb.errors import RecembError
from recemb.packages import needed
from recemb.sweep.trials import Trial, trial_of

if TYPE_CHECKING:
    import optuna

SETTINGS = "recemb"
"""The attribute of a study that says how it was begun."""


def optuna_module() -> Any:
    """Return optuna.

    Raises:
        RecembError: If it is not installed.
    """
    optuna = needed("optuna", "a sweep")
    optuna.logging.set_verbosity(logging.ERROR)
    # Names of metrics, and trees of parameters that depend on others.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


def backend_of(library: Any, storage: str) -> "optuna.storages.BaseStorage":
    """Return a storage, as SQLAlchemy names databases: ``sqlite:///study.db``."""
    import sqlalchemy

    # Several processes write: SQLite waits for its turn, long on a busy machine.
    options = {"connect_args": {"timeout": 120}} if storage.startswith("sqlite") else {}
    try:
        sqlalchemy.engine.make_url(storage)
    except ValueError as error:
        raise sqlalchemy.exc.ArgumentError(str(error)) from error
    return cast(
        "optuna.storages.BaseStorage", library.storages.RDBStorage(storage, engine_kwargs=options)
    )


def without_password(storage: str) -> str:
    """Return the address of a storage as it may be shown: a password in it is replaced by stars.

    Also of an address that is none, which is shown to say so.
    """
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", storage)


@contextmanager
def reached(storage: str) -> Iterator[None]:
    """Say on one line that a storage cannot be reached."""
    import sqlalchemy.exc
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ImportError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        words = " ".join(str(cause).split())[:200]
        raise RecembError(
            f"--storage: {without_password(storage)} cannot be reached ({words}); it must be such "
            "as sqlite:///study.db in a folder that is there, or the address of a database"
        ) from error


def read_trials(storage: str, name: str | None) -> tuple[dict[str, Any], list[Trial]]:
    """Return how a study in a storage was begun, and its trials.

    Args:
        storage: As SQLAlchemy names databases.
        name: Of the study; None where there is only one.

    Raises:
        RecembError: If there is no such study, or it is not one of recemb.
    """
    optuna, shown = optuna_module(), without_password(storage)
    with reached(storage):
        backend = backend_of(optuna, storage)
        known = sorted(one.study_name for one in optuna.get_all_study_summaries(backend))
        if name is None and len(known) == 1:
            name = known[0]
        if name not in known:
            raise RecembError(f"{shown}: --study must be one of {known}, got {name!r}")
        study = optuna.load_study(study_name=name, storage=backend)
        begun = study.user_attrs.get(SETTINGS)
        if begun is None:
            raise RecembError(f"{shown}: study {name!r} was not begun by recemb")
        return dict(begun), [trial_of(one) for one in study.get_trials(deepcopy=False)]
