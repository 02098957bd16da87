"""Trained: a model from a checkpoint, asked from Python.

Frames come in and go out (:mod:`recemb.frames`); ids are those of the user's files.
"""

import copy
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import polars as pl
import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from recemb.checkpoint import checkpoint_config, checkpoint_schema, read_checkpoint
from recemb.command_line.asked import Asked, all_known, asked_in_file, column_names
from recemb.command_line.export import check_name, export_files
from recemb.command_line.id_files import Key
from recemb.command_line.notices import silence
from recemb.command_line.predict import predictions
from recemb.command_line.recommend import COLUMNS, ITEM, best, best_of_sessions, rows_of
from recemb.compress.methods import PRECISIONS
from recemb.embeddings import embeddings_of
from recemb.errors import RecembError
from recemb.frames import Source, is_frame, path_of
from recemb.global_settings import restored_settings
from recemb.paths import find
from recemb.rebuild import rebuild, rebuild_data, rebuild_model
from recemb.results import read_results
from recemb.run_folder import RESULTS
from recemb.serving.program import with_served_tables
from recemb.vectors import composed, reader_of

BEST = Path("checkpoints/best.ckpt")
"""In a run folder."""


def load(path: str | Path, allow: Sequence[str] = ()) -> "Trained":
    """Return the model of a checkpoint, from whichever current folder.

    Args:
        path: A checkpoint, or a run folder, whose best checkpoint is taken.
        allow: Further packages whose classes the checkpoint may name: importing one runs its code.

    Raises:
        RecembError: If it is not there, is no checkpoint, or names a class from elsewhere.
    """
    return Trained(path, allow)


class Trained:
    """A trained model; see :func:`load`.

    Attributes:
        path: Of the checkpoint.
        model: In evaluation mode, on the CPU.
        schema: What it knows of its data.
        config: The sections ``model`` and ``data`` that it was trained with.
        metrics: What its run measured, by name; empty where it has no results.
    """

    def __init__(self, path: str | Path, allow: Sequence[str] = ()) -> None:
        given = Path(path).expanduser().absolute()
        self.path = given / BEST if given.is_dir() else given
        if not self.path.is_file():
            raise RecembError(
                f"{self.path}: there is no such checkpoint; name a checkpoint or the run folder of "
                "a fit"
            )
        self.allow = tuple(allow)
        checkpoint = read_checkpoint(self.path)
        self.model: LightningModule = rebuild_model(self.path, checkpoint, self.allow)
        self.schema = checkpoint_schema(checkpoint)
        self.config = checkpoint_config(checkpoint)
        self._header = {"recemb": checkpoint["recemb"]}  # without what the model has now
        self.metrics: dict[str, float | None] = _metrics_beside(self.path)

    def __repr__(self) -> str:
        return f"<{type(self.model).__name__} from {self.path}>"

    def predict(self, frame: Source, keep: Sequence[str] = ()) -> Any:
        """Return what the model predicts for rows, in their order.

        Args:
            frame: A frame or file with the columns of training; it need not have the label.
            keep: Columns of it that stand beside the predictions.

        Returns:
            A frame with a row per row: of pandas, with its index, if ``frame`` is of pandas, else
            of polars. A model of clicks has the column ``probability``.

        Raises:
            RecembError: If a column is missing or holds a wrong value, or the data that the model
                was trained on is not of rows.
        """
        with _in_file(frame, "predict") as path, restored_settings(), silence():
            data: Any = rebuild_data(self.path, self._header, self._data_of(path), self.allow)
            data.answers = getattr(self.model, "answers", ())
            data.setup("predict")
            trainer = Trainer(
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            return _as_given(predictions(trainer, self.model, data, keep), frame, has_its_rows=True)

    def _data_of(self, path: Path) -> dict[str, Any]:
        """Return the section ``data`` with a file to predict."""
        section = copy.deepcopy(self.config["data"])
        settings = section.get("init_args") or {}
        if not {"folder", "train", "test"} <= set(settings):
            raise RecembError(
                f"{self.path}: it was trained on {section['class_path']}, which makes rows of its "
                "own, so none can be given; use recommend, or train on recemb.data.tabular.Tabular"
            )
        return {**section, "init_args": {**settings, "folder": ".", "test": str(path)}}

    def recommend(self, users: Any = None, k: int = 10) -> Any:
        """Return the best items of users (or sessions, or items), but those that they have.

        Args:
            users: Ids as the training's files had them: a list, an array, a column, or a frame or
                file with a column of them; None: all that are known. For a model of sessions a
                frame or file of events with the columns of training.
            k: Items per user; at least 1.

        Returns:
            A frame with a row per user and item, best first: the column of users (by its name in
            training's files), ``item``, ``score``, ``rank`` from 1, and ``known``: whether
            training had the user. Those that it did not have get what fits most. Of pandas if
            ``users`` is.

        Raises:
            RecembError: If the model ranks no items, or ids are of another type than in training.
        """
        if k < 1:
            raise RecembError(f"recommend: k must be at least 1, got {k}")
        if hasattr(self.model, "best"):
            column, asked, found = self._of_sessions(users, k)
            items = self.schema.vocabularies[ITEM]
        elif hasattr(self.model, "recommend"):
            query = cast(str, self.model.query)
            called = column_names(self.config, query)
            column = "query" if called[0] in COLUMNS else called[0]
            asked = self._asked(users, query, called)
            found = best(with_served_tables(self.model), asked.index_B, k)
            items = self.schema.vocabularies[self.schema.id_space(cast(str, self.model.answer))]
        else:
            raise RecembError(
                f"{self.path}: {type(self.model).__name__} ranks no items; use predict"
            )
        rows = rows_of(column, asked, found, items, 0, len(asked.names))
        return _as_given(rows.select(column, "item", "score", "rank", "known"), users)

    def _asked(self, users: Any, query: str, called: list[str]) -> Asked:
        vocabulary = self.schema.vocabularies[self.schema.id_space(query)]
        if users is None:
            return all_known(vocabulary)
        if not (is_frame(users) or isinstance(users, str | os.PathLike)):
            users = _column(users, query)
        key = Key(None, called, repr(called[0]))
        with _in_file(users, f"{query}s") as path:
            return asked_in_file(path, key, vocabulary)

    def _of_sessions(self, events: Source, k: int) -> tuple[str, Asked, tuple[Tensor, Tensor]]:
        if events is None:
            raise RecembError("recommend: a model of sessions needs a frame or file of events")
        with _in_file(events, "sessions") as path:
            return best_of_sessions(self.path, self._header, self.model, path, k, self.allow)

    @torch.no_grad()
    def vectors(self, table: str) -> pl.DataFrame:
        """Return the vector of each known id of a table, the most frequent first.

        Args:
            table: A table that one id space reads; or a feature, where several do.

        Returns:
            A frame of ``id``, as the training's files had it, and ``vector``, an array of floats.

        Raises:
            RecembError: If there is no such table, or its ids are not known.
        """
        embeddings = embeddings_of(self.model)
        feature = reader_of(embeddings, table)
        if feature.space.name not in self.schema.vocabularies:
            raise RecembError(
                f"vectors: the ids of table {table!r} are raw, so the checkpoint does not list "
                "them; train with a vocabulary"
            )
        vocabulary = self.schema.vocabularies[feature.space.name]
        ids_V = torch.arange(vocabulary.num_known)
        vectors_VD = composed(embeddings, feature, ids_V).numpy()
        return pl.DataFrame({"id": vocabulary.values(ids_V), "vector": vectors_VD})

    def export(self, path: str | Path, quantize: str | None = None) -> dict[str, Any]:
        """Write the model as TorchScript that needs only torch, after checking that it agrees.

        Args:
            path: The program, whose name ends in ``.pt``; its checksum and its vocabulary are
                written beside it.
            quantize: ``int8`` or another precision that rows are stored in; None: as they are.

        Returns:
            What the command ``export`` reports: the files, their bytes, inputs, and the largest
            differences.
        """
        output = Path(path)
        check_name(output)
        if quantize is not None and quantize not in PRECISIONS:
            raise RecembError(
                f"export: quantize must be one of {list(PRECISIONS)}, got {quantize!r}"
            )
        # A model of its own: what is exported is frozen, and may be made smaller.
        model, schema = rebuild(self.path, self.allow)
        with silence():
            return export_files(model, schema, output, quantize)


def _metrics_beside(path: Path) -> dict[str, float | None]:
    """Return what a run measured of a checkpoint in its folder."""
    results = path.parent.parent / RESULTS
    if not results.is_file():
        return {}
    found = read_results(results)
    is_own = Path(str(found.get("checkpoint"))).name == path.name
    return dict(found.get("metrics", {})) if is_own else {}


@contextmanager
def _in_file(source: Source, name: str) -> Iterator[Path]:
    """Give the file of a file or frame; that of a frame is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="recemb-") as folder:
        yield find(path_of(source, name, Path(folder))).absolute()


def _column(values: Any, name: str) -> pl.DataFrame:
    """Return ids as a frame of one column."""
    try:
        column = pl.Series(values)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise RecembError(
            f"recommend: {name}s must be a list, an array, a column or a frame of ids of one type, "
            f"got {type(values).__name__} ({error}); convert them"
        ) from error
    if column.is_empty():
        raise RecembError(f"recommend: there are no {name}s to ask for; name some, or leave it out")
    return pl.DataFrame({name: column})


def _as_given(rows: pl.DataFrame, given: Any, has_its_rows: bool = False) -> Any:
    """Return rows as a frame of the library that a given frame or column is of."""
    if type(given).__module__.split(".")[0] != "pandas":
        return rows
    frame = rows.to_pandas()
    if has_its_rows:
        frame.index = given.index
    return frame
