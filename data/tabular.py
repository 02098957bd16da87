"""Tabular: parquet or CSV files, or frames, with named columns, as a Lightning data module."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
from lightning import LightningDataModule
from torch import Tensor

from recemb import processes
from recemb.data.columns import (
    AttributeFile,
    Columns,
    IdColumn,
    LabelType,
    ListColumn,
    NumberColumn,
)
from recemb.data.encode import Encoder
from recemb.data.files import TableFile, find
from recemb.data.held_out import rows_of_side
from recemb.data.loader import Loader
from recemb.data.said import said_schema
from recemb.data.schema import build_schema, count_values
from recemb.data.values import as_tensor
from recemb.errors import RecembError
from recemb.frames import Source, path_of
from recemb.hashing import hash_strings
from recemb.schema import Schema

Stage = Literal["train", "validation", "test"]
STAGES: tuple[Stage, ...] = ("train", "validation", "test")


class Tabular(LightningDataModule):
    """Train, validate and test on files, or frames (:mod:`recemb.frames`), with named columns.

    Vocabularies, number scales and attributes come from the training file alone, unless a protocol
    says that the ids of other files are known too.

    Args:
        folder: Where the files are: a folder in the current one, or under ``$RECEMB_DATA``. Frames
            need none.
        label: Column of 0 and 1, or of numbers.
        categorical: Columns with one id per row, by feature name.
        lists: Columns with a list of ids per row, by feature name.
        dense: Columns of numbers, by feature name.
        attributes: What is known of the ids of one column.
        train: Training file (parquet or CSV), in ``folder``; or a frame.
        validation: Validation file or frame; None: there is none, and training keeps its last
            epoch.
        test: Test file or frame.
        label_type: ``click`` for a label of 0 or 1, ``number`` for one such as a rating.
        known_from: Stages whose ids are known, ``train`` among them. Counts, and so the numbering,
            come from training; ids that it lacks have a count of 0 and the last indices.
        batch_size: Samples per training batch; at least 1.
        eval_batch_size: Samples per batch of the other stages; at least 1.
        shuffle_rows: Training rows that are permuted together, and so held in memory.
        cache_bytes: Encoded rows are kept in memory up to this size; the rest of a file is read
            again in every epoch.
        seed: Of the order of the training rows.

    Raises:
        RecembError: If a file or a column does not hold what it should.

    Attributes:
        keys: Columns of the files that say whose row it is, and what predictions call them.
        answers: Columns with one id per row that are what is predicted; a file to predict may lack
            them, as it may lack the label.
    """

    keys: Mapping[str, str] = {}
    answers: Sequence[str] = ()

    def __init__(
        self,
        *,
        label: str,
        folder: str = ".",
        categorical: dict[str, IdColumn] | None = None,
        lists: dict[str, ListColumn] | None = None,
        dense: dict[str, NumberColumn] | None = None,
        attributes: AttributeFile | None = None,
        train: Source = "train.parquet",
        validation: Source | None = "validation.parquet",
        test: Source | None = "test.parquet",
        label_type: LabelType = "click",
        known_from: tuple[Stage, ...] = ("train",),
        batch_size: int = 1024,
        eval_batch_size: int = 8192,
        shuffle_rows: int = 2_000_000,
        cache_bytes: int = 2**31,
        seed: int = 1,
    ) -> None:
        super().__init__()
        for name, size in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if size < 1:
                raise RecembError(f"data: {name} must be at least 1, got {size}")
        if "train" not in known_from or not set(known_from) <= set(STAGES):
            raise RecembError(
                f"data: known_from must be 'train' and any of 'validation' and 'test', got "
                f"{list(known_from)}"
            )
        for stage, path in (("validation", validation), ("test", test)):
            if path is None and stage in known_from:
                raise RecembError(f"data: known_from names {stage!r}, of which there is no file")
        self.known_from = known_from
        self.folder = Path(folder)
        self.columns = Columns(
            label=label,
            label_type=label_type,
            categorical=categorical or {},
            lists=lists or {},
            dense=dense or {},
        )
        self.attributes = attributes
        named = zip(STAGES, (train, validation, test), strict=True)
        self.paths: dict[str, str] = {
            stage: path_of(path, stage) for stage, path in named if path is not None
        }
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.shuffle_rows = shuffle_rows
        self.cache_bytes = cache_bytes
        self.seed = seed
        self.held_out = 0.0
        self._loaders: dict[str, Loader] = {}

    @functools.cached_property
    def schema(self) -> Schema:
        """What the training file says of the columns; read once, at first use."""
        return self._read(self.columns, self.attributes)

    def _read(self, columns: Columns, attributes: AttributeFile | None) -> Schema:
        others = [self.file(stage) for stage in STAGES[1:] if stage in self.known_from]
        return build_schema(
            self.file("train"), columns, attributes, self.found_folder, others, self.files()
        )

    def said_schema(self, num_ids: Mapping[str, int], lengths: Mapping[str, float]) -> Schema:
        """Return the schema with numbers of ids said (:func:`recemb.data.said.said_schema`)."""
        return said_schema(self.columns, self.attributes, num_ids, lengths, self._read)

    def file(self, stage: str) -> TableFile:
        """Return the file of ``train``, ``validation`` or ``test``."""
        return TableFile(self.found_folder / self.paths[stage])

    def files(self) -> list[TableFile]:
        """Return the files of all stages that are there."""
        first = self.file("train")
        paths = [self.found_folder / path for path in self.paths.values()]
        return [first, *(TableFile(path) for path in paths[1:] if path.is_file())]

    @property
    def found_folder(self) -> Path:
        """Where the files are; see :func:`recemb.paths.find`."""
        return find(self.folder, *self.paths.values())

    @property
    def has_validation(self) -> bool:
        """Whether epochs can be compared: by a file, or by training rows that are held out."""
        return "validation" in self.paths or self.held_out > 0

    @property
    def has_test(self) -> bool:
        """Whether there is a test file; not while training rows are held out."""
        return "test" in self.paths and not self.held_out

    def hold_out(self, share: float) -> None:
        """Validate on a share of the training rows, and train on the others.

        The files of validation and test are not opened then: this is for what chooses a model
        before it is validated. Which rows are held out is fixed by their numbers.

        Args:
            share: Above 0 and below 1.

        Raises:
            RecembError: If the share is out of range.
        """
        if not 0 < share < 1:
            raise RecembError(f"data: the share held out must be above 0 and below 1, got {share}")
        self.held_out = share
        self._loaders.clear()

    def _source(self, stage: str) -> tuple[str, Callable[[int, int], Tensor] | None]:
        """Return the file that a stage reads, and which of its rows."""
        if stage == "predict":
            if "test" not in self.paths:
                raise RecembError("data: there is no file to predict; give test, a file of rows")
            return "test", None
        if not self.held_out:
            return stage, None
        if stage == "test":
            raise RecembError("data: there is no test while training rows are held out")
        return "train", functools.partial(rows_of_side, self.held_out, stage != "train")

    def loader(self, stage: str) -> Loader:
        """Return the batches of a stage; its first rows are checked here.

        Beside those of files there is ``search``: the rows that are held out, in the batches and
        the changing order of training; and ``predict``: those of the test file, without labels.
        """
        if stage == "validation" and not self.has_validation:
            raise RecembError("data: there is no validation; all of its rows are for training")
        if stage == "test" and "test" not in self.paths:
            raise RecembError("data: there is no test file; name one in data.init_args.test")
        if stage not in self._loaders:
            source, chosen = self._source(stage)
            file = self.file(source)
            encoder = Encoder(file.path, self.columns, self.schema)
            if stage == "predict":
                columns = self._given(file)
                encoder = Encoder(file.path, columns, self.schema, with_labels=False)
            file.require(encoder.file_columns)
            training = stage in ("train", "search")
            loader = Loader(
                file,
                encoder,
                batch_size=self.batch_size if training else self.eval_batch_size,
                shuffle_rows=self.shuffle_rows if training else 0,
                seed=self.seed,
                cache_bytes=self.cache_bytes,
                part=(processes.rank(), processes.world_size()),
                chosen=chosen,
            )
            loader.fill_cache()
            self._loaders[stage] = loader
        return self._loaders[stage]

    def _given(self, file: TableFile) -> Columns:
        """Return the columns of a file to predict: all but answers that it does not have."""
        kept = {
            name: one
            for name, one in self.columns.categorical.items()
            if name not in self.answers or (one.column or name) in file.names
        }
        return replace(self.columns, categorical=kept)

    @property
    def training_order(self) -> dict[str, int | str]:
        """What the order of training rows follows from (:attr:`recemb.data.loader.Loader.order`).

        A training is resumed with the same alone.
        """
        return self.loader("train").order

    def training_ids(self, column: str) -> tuple[Tensor, Tensor]:
        """Return the distinct raw ids of a column in the training file, and their counts."""
        kinds = {name: one.is_text for name, one in self.schema.columns.items()}
        counts = count_values(self.file("train"), self.columns, column, kinds)
        value = counts["value"]
        raw = hash_strings(value) if kinds[column] else value.cast(pl.Int64)
        return as_tensor(raw), as_tensor(counts["count"])

    def setup(self, stage: str) -> None:
        """Open and check every file that ``stage`` will need, before anything is trained."""
        if stage == "predict":
            self.loader(stage)
            return
        needed = {"fit": STAGES, "validate": ("validation",)}
        for name in needed.get(stage, ("test",)):
            is_there = self.has_validation if name == "validation" else name in self.paths
            if is_there and not (self.held_out and name == "test"):
                self.loader(name)

    def train_dataloader(self) -> Loader:
        """Return shuffled training batches."""
        return self.loader("train")

    def search_dataloader(self) -> Loader:
        """Return the rows that are held out as shuffled batches of the training's size.

        Raises:
            RecembError: If none are.
        """
        if not self.held_out:
            raise RecembError("data: no training rows are held out; call hold_out first")
        return self.loader("search")

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return validation batches in the order of the file; no loader where there are none."""
        return self.loader("validation") if self.has_validation else []

    def test_dataloader(self) -> Loader:
        """Return test batches in the order of the file."""
        return self.loader("test")

    def predict_dataloader(self) -> Loader:
        """Return the rows of the test file in its order; labels, if it has any, are not read."""
        return self.loader("predict")

    def kept_columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Return columns of the test file in its order: what stands beside its predictions.

        Args:
            names: Columns of the file; :attr:`keys` come first.

        Raises:
            RecembError: If one is missing.
        """
        file = self.file("test")
        keys = {name: shown for name, shown in self.keys.items() if name in file.names}
        shown_as = {shown: name for name, shown in keys.items()}
        chosen = {shown_as.get(name, name): None for name in [*keys, *names]}
        if not chosen:
            return pl.DataFrame()
        file.require(list(chosen))
        groups = range(len(file.group_sizes))
        frame = pl.concat([file.read(group, list(chosen)) for group in groups])
        return frame.rename({n: shown for n, shown in keys.items() if shown not in chosen})
