"""Rebuild: a checkpoint's model, and its data, from the checkpoint alone."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from lightning import LightningDataModule, LightningModule

from recemb.checkpoint import checkpoint_config, checkpoint_schema, load_module, read_checkpoint
from recemb.checkpoint_file import VERSION
from recemb.class_paths import check_classes, imports_only_from
from recemb.embeddings import Embeddings
from recemb.schema import Schema


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
    return rebuild_model(path, checkpoint, allow), checkpoint_schema(checkpoint)


def rebuild_model(
    path: Path, checkpoint: Mapping[str, Any], allow: Sequence[str] = ()
) -> LightningModule:
    """Return the model of a checkpoint that has been read; see :func:`rebuild`."""
    settings = checkpoint_config(checkpoint)["model"]
    check_classes(path, settings, allow)
    parser = _model_parser(checkpoint_schema(checkpoint))
    with imports_only_from(path, allow):
        parsed = parser.parse_object({"model": settings})
        model: LightningModule = parser.instantiate(parsed).model
    load_module(path, checkpoint, model)
    return model.eval()


def rebuild_data(
    path: Path, checkpoint: Mapping[str, Any], settings: Any, allow: Sequence[str] = ()
) -> LightningDataModule:
    """Return a data module whose ids mean what they do in a checkpoint.

    Args:
        path: Where the settings are from.
        checkpoint: That has been read.
        settings: The section ``data`` of a configuration.
        allow: Further packages whose classes it may name.

    Raises:
        RecembError: If the settings name a class from elsewhere.
    """
    check_classes(path, settings, allow)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=LightningDataModule, required=True)
    with imports_only_from(path, allow):
        # A copy: the parser writes into what it is given.
        parsed = parser.parse_object({"data": copy.deepcopy(settings)})
        data: Any = parser.instantiate(parsed).data
    data.schema = checkpoint_schema(checkpoint)
    module: LightningDataModule = data
    return module


def written_model(checkpoint: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section ``model`` as fit writes it: every setting, class paths as they are named.

    Args:
        checkpoint: Whose schema the model has.
        settings: The section as a user may write it.
    """
    parser = _model_parser(checkpoint_schema(checkpoint))
    parsed = parser.parse_object({"model": copy.deepcopy(dict(settings))})
    text = parser.dump(parsed, skip_none=False)
    model: dict[str, Any] = yaml.safe_load(text)["model"]
    return model


def with_tables(
    checkpoint: Mapping[str, Any],
    config: Mapping[str, Any],
    model: LightningModule,
    embeddings: Embeddings,
    changed: Sequence[str],
    method: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a checkpoint of weights alone in which some tables are others, and its configuration.

    Args:
        checkpoint: The model's own.
        config: Its sections, and what else goes into the new configuration.
        model: Rebuilt; it gets the new embeddings.
        embeddings: The new ones.
        changed: The tables that are others.
        method: Which made them; the checkpoint remembers it.
    """
    settings = config["model"]
    tables = {name: asdict(embeddings.tables[name]) for name in changed}
    renewed = settings["init_args"]["tables"] | tables
    section = {**settings, "init_args": {**settings["init_args"], "tables": renewed}}
    written = {**config, "model": written_model(checkpoint, section)}
    old = checkpoint["recemb"]
    sections = {name: written[name] for name in ("model", "data")}
    model.embeddings = embeddings
    weights = {
        VERSION: checkpoint[VERSION],
        "state_dict": model.state_dict(),
        "recemb": {
            **old,
            "config": yaml.safe_dump(sections, sort_keys=False),
            "compressed": [*old.get("compressed", []), method],
        },
    }
    return weights, written


def _model_parser(schema: Schema) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(_Saved, "saved")
    parser.add_argument("--model", type=LightningModule, required=True)
    parser.link_arguments(
        "saved", "model.init_args.schema", compute_fn=lambda saved: schema, apply_on="instantiate"
    )
    return parser
