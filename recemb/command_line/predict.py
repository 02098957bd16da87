"""What the verb ``predict`` writes: a row per row of the test file, in its order.

Beside what the model predicts stand columns of the file: those that say whose row it is, where the
data module prepared the file itself, and those that were asked for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from recemb.errors import RecembError
from recemb.files import whole_file, writing
from recemb.vocabulary import Vocabulary

PREDICTIONS = "predictions.parquet"


def predict(
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    keep: Sequence[str],
    folder: Path,
) -> dict[str, Any]:
    """Write what a model predicts for the test file, and return where.

    Args:
        trainer: See :func:`predictions`.
        model: See :func:`predictions`.
        data: See :func:`predictions`.
        keep: See :func:`predictions`.
        folder: Of the run.
    """
    rows = predictions(trainer, model, data, keep)
    path = folder / PREDICTIONS
    with writing(path), whole_file(path) as temporary:
        rows.write_parquet(temporary)
    return {"predictions": str(path), "rows": len(rows)}


def predictions(
    trainer: Trainer, model: LightningModule, data: LightningDataModule, keep: Sequence[str]
) -> pl.DataFrame:
    """Return what a model predicts for the rows of the test file, in their order.

    Args:
        trainer: Runs the model.
        model: With its weights.
        data: Whose test file it is; labels are not looked at, and need not be there.
        keep: Columns of the file that stand beside the predictions.

    Raises:
        RecembError: If a column is not in the file, or is called as a prediction is.
    """
    kept = kept_columns(data, keep)
    found: Any = trainer.predict(model, datamodule=data) or [{}]
    parts = {name: torch.cat([one[name] for one in found]) for name in found[0]}
    predicted = pl.DataFrame(named(parts, model))
    for name in predicted.columns:
        if name in kept.columns:
            raise RecembError(
                f"predict: column {name!r} of the file is called as what is predicted; rename it"
            )
    # The trainer may have been told to stop early.
    return kept.head(len(predicted)).hstack(predicted) if kept.columns else predicted


def kept_columns(data: LightningDataModule, keep: Sequence[str]) -> pl.DataFrame:
    """Return the columns of the test file that are written beside predictions.

    Raises:
        RecembError: If one is missing, or the data module does not say what its file holds.
    """
    read = getattr(data, "kept_columns", None)
    if read is not None:
        kept: pl.DataFrame = read(keep)
        return kept
    if keep:
        raise RecembError(
            f"predict: {type(data).__name__} does not say what columns its test file has; drop "
            "--keep"
        )
    return pl.DataFrame()


def named(parts: Mapping[str, Tensor], model: LightningModule) -> dict[str, pl.Series]:
    """Return predictions as columns in which ids are called as in the user's files.

    Minus infinity says that there is no answer. One prediction is null then, and a list of the
    best is shorter.

    Args:
        parts: By name (N,) or (N, K): numbers, or indices of what ``model.predicted_ids`` says.
        model: That predicted them.
    """
    spaces: Mapping[str, str] = getattr(model, "predicted_ids", {})
    columns = {}
    for name, part in parts.items():
        flat = part.reshape(-1)
        if name in spaces:
            vocabulary: Vocabulary = model.schema.vocabularies[spaces[name]]  # type: ignore[union-attr, index, assignment]
            series = vocabulary.values(flat)
        else:
            series = pl.Series(flat.cpu().numpy())
            if part.is_floating_point():
                is_none = pl.Series(torch.isneginf(flat).cpu().numpy())
                series = series.set(is_none, None)
        if part.ndim == 2:
            series = series.reshape(tuple(part.shape)).arr.to_list().list.drop_nulls()
        columns[name] = series.alias(name)
    return columns
