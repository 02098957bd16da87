"""Start: a model begins with what a checkpoint of another configuration or other data knows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from lightning import LightningModule

from recemb.checkpoint import checkpoint_schema
from recemb.class_paths import class_packages
from recemb.embeddings import Embeddings
from recemb.errors import RecembError
from recemb.rebuild import rebuild_model
from recemb.schema import Schema
from recemb.warm_start.dense import KeptDense, keep_dense
from recemb.warm_start.ids import TrainingIds
from recemb.warm_start.tables import Kept, Side, keep_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmStart:
    """What a model has taken over."""

    checkpoint: str
    tables: dict[str, Kept]
    dense: KeptDense

    def report(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)

    def rows(self) -> dict[str, str]:
        """Return everything for people, a line per table."""
        dense = f"{len(self.dense.kept)} of {len(self.dense.kept) + len(self.dense.fresh)} tensors"
        fresh = [f"{name} ({why})" for name, why in self.dense.fresh.items()]
        return {
            "warm start": self.checkpoint,
            **{f"table {name}": _line(one) for name, one in self.tables.items()},
            "dense": f"{dense}; fresh: {', '.join(fresh)}" if fresh else dense,
        }


def warm_start(
    model: LightningModule,
    schema: Schema,
    path: Path,
    checkpoint: Mapping[str, Any],
    settings: Any,
    training_ids: TrainingIds | None,
) -> WarmStart:
    """Let a freshly built model take over what it can; return what that was.

    Tables as in :mod:`recemb.warm_start.tables`, the rest as in :mod:`recemb.warm_start.dense`.
    The state of the dense optimizer is fresh. Where there are several processes, all call this and
    do the same work on whole tables.

    Args:
        model: Its ``embeddings`` may have any rows store.
        schema: Of the new data.
        path: Of the checkpoint.
        checkpoint: That has been read.
        settings: The section ``model`` of the new configuration: classes from the packages that it
            names are trusted in the checkpoint too.
        training_ids: Lists the raw ids of a column, where they are not numbered.

    Raises:
        RecembError: If the checkpoint has nothing that the model could use.
    """
    before = rebuild_model(path, checkpoint, class_packages(settings))
    old = Side(
        embeddings=cast(Embeddings, before.embeddings),
        schema=checkpoint_schema(checkpoint),
        state=checkpoint.get("rows_optimizer", {}),
    )
    embeddings = cast(Embeddings, model.embeddings)
    new = Side(embeddings=embeddings, schema=schema, state=embeddings.rows.optimizer_state())
    dense = keep_dense(before, model, _inputs(old), _inputs(new))
    found = WarmStart(checkpoint=str(path), tables=keep_tables(old, new, training_ids), dense=dense)
    if not dense.kept and all(one.level == "fresh" for one in found.tables.values()):
        raise RecembError(
            f"{path}: it has nothing that this model could start from: "
            + "; ".join(f"{name}: {line}" for name, line in list(found.rows().items())[1:-1])
            + "; drop --warm_start"
        )
    return found


def _inputs(side: Side) -> dict[str, int]:
    """Return the elements of what a model reads, by name, in order."""
    return {**side.embeddings.dims, **{f"number {name}": 1 for name in side.schema.dense}}


def _line(kept: Kept) -> str:
    """Return what a table has taken over, as a line."""
    parts: list[str] = [kept.level]
    if kept.num_ids and kept.level != "fresh":
        dropped = f" ({kept.dropped:,} dropped)" if kept.dropped else ""
        parts.append(f"{kept.known:,} of {kept.num_ids:,} ids{dropped}")
    if kept.level == "fitted":
        parts.append(f"error {kept.error:.2g} of the old vectors' size")
    if kept.level != "fresh":
        parts.append(f"optimizer state {'kept' if kept.optimizer_state else 'fresh'}")
    return "; ".join([", ".join(parts), *kept.notes])
