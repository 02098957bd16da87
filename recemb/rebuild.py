"""Rebuild: a checkpoint's model from the checkpoint alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
from lightning import LightningModule

from recemb.checkpoint import checkpoint_config, checkpoint_schema, read_checkpoint
from recemb.errors import RecembError
from recemb.schema import Schema

ALLOWED = ("models.", "data.", "recemb.")
"""Where a checkpoint's classes may come from unless the user allows more."""


class _Saved:
    """Stands where a data module would: the schema flows from it to the model."""


def rebuild(path: Path, allow: Sequence[str] = ()) -> tuple[LightningModule, Schema]:
    """Return the model of a checkpoint with its weights, in evaluation mode, and its schema.

    Args:
        path: The checkpoint.
        allow: Further packages whose classes it may name: importing one runs its code.

    Raises:
        RecembError: If the checkpoint cannot be read, or names a class from elsewhere.
    """
    checkpoint = read_checkpoint(path)
    schema = checkpoint_schema(checkpoint)
    settings = checkpoint_config(checkpoint)["model"]
    prefixes = (*ALLOWED, *(f"{package}." for package in allow))
    for class_path in _class_paths(settings):
        if not class_path.startswith(prefixes):
            raise RecembError(
                f"{path}: refused, because it names the class {class_path!r}, which is outside "
                f"{', '.join(prefixes)}; pass --allow {class_path.split('.')[0]} if you trust it"
            )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(_Saved, "saved")
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    parser.link_arguments(
        "saved", "model.init_args.schema", compute_fn=lambda saved: schema, apply_on="instantiate"
    )
    built = parser.instantiate(parser.parse_object({"model": settings}))
    model: LightningModule = built.model
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval(), schema


def _class_paths(value: Any) -> list[str]:
    """Return every class path in nested settings."""
    if isinstance(value, dict):
        own = [value["class_path"]] if isinstance(value.get("class_path"), str) else []
        return own + [path for one in value.values() for path in _class_paths(one)]
    if isinstance(value, list):
        return [path for one in value for path in _class_paths(one)]
    return []
