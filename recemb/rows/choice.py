"""Choice: which rows store a model gets that is built now.

A model asks for a store by what it needs of it, physical tables and an optimizer; whether that is
the local one or one over many processes is a matter of how the program was started.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from recemb.packages import check_torch
from recemb.physical import PhysicalTable
from recemb.rows.local import LocalRowsStore
from recemb.rows.optimizers import UpdateRule
from recemb.rows.store import RowsStore

MakeStore = Callable[
    [Mapping[str, PhysicalTable], UpdateRule | Mapping[str, UpdateRule]], RowsStore
]

_make: ContextVar[MakeStore] = ContextVar("rows store", default=LocalRowsStore)


def new_store(
    physical: Mapping[str, PhysicalTable], optimizer: UpdateRule | Mapping[str, UpdateRule]
) -> RowsStore:
    """Return a store of the kind that is in use; a :class:`LocalRowsStore` unless told.

    Raises:
        RecembError: If torch is too old.
    """
    check_torch()
    return _make.get()(physical, optimizer)


@contextmanager
def stores_made_by(make: MakeStore) -> Iterator[None]:
    """Let models that are built in the block get their stores from ``make``."""
    token = _make.set(make)
    try:
        yield
    finally:
        _make.reset(token)
