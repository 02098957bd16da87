"""Sequences: what users or sessions did, in the order of time, as rows (history, next item).

Events (sequence, item, time) of any file become three files, one row per sequence or prefix of one:

    history   list of items, oldest first
    item      the one that came next
    sequence  in validation and test, where the events say it: whose row it is

A training row stands for all its prefixes: a model that predicts at every position learns from each
item but the first. Rows of validation and test stand for one prediction.

Two protocols cut events into the three:

* ``last_items``: of every sequence of three items or more the last is test, the one before it
  validation, the rest training (leave one out);
* ``last_sequences``: of all sequences in the order of their last event, a share at the end is test,
  a share before it validation; there every prefix is a row.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
import polars.selectors as cs
import torch

from data.cache import prepared_folder
from data.columns import AttributeFile, IdColumn, ListColumn
from data.encode import Encoder
from data.files import ROW_GROUP, TableFile, cache_root, find
from data.prepared import Prepared
from data.tabular import STAGES
from recemb.errors import RecembError
from recemb.jagged import Jagged

Split = Literal["last_items", "last_sequences"]
FORMAT = "sequences-3"
"""Names what is written; it changes with the content, so no stale folder is read."""
SEQUENCE = "sequence"
"""The column that says whose row it is."""
ITEMS = "items.parquet"
"""What is known of items, beside the three files."""


class SequenceData(Prepared):
    """Rows (history, next item) of one id space, ``item``; a subclass prepares the files.

    Items of all three files are known: those that training lacks have a count of 0 and the last
    indices, so that what is new can be told from what is known.

    Args:
        folder: Where the three files are.
        attributes: What is known of items.
        max_length: Keep the last so many items of a history.
        batch_size: Sequences per training batch.
        eval_batch_size: Rows per batch of the other stages.
        seed: Of the order of the training rows.
        keep_strings: Whether items that are strings are kept (:class:`data.columns.IdColumn`).
    """

    keys = {SEQUENCE: SEQUENCE}
    named: dict[str, str | None] = {"sequence": SEQUENCE, "item": "item", "time": None}
    """Columns of a file of events."""

    def __init__(
        self,
        *,
        folder: Path,
        attributes: AttributeFile | None,
        max_length: int,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        keep_strings: bool = True,
    ) -> None:
        self.max_length = max_length
        super().__init__(
            folder=str(folder),
            label="label",
            categorical={"item": IdColumn(keep_strings=keep_strings)},
            lists={"history": ListColumn(vocabulary="item", max_length=max_length)},
            attributes=attributes,
            known_from=STAGES,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def sessions(self, path: Path) -> tuple[str, pl.Series, Jagged]:
        """Return the sessions of a file of events, of which all is known that has happened.

        Args:
            path: Parquet or CSV file with the columns of :attr:`named`.

        Returns:
            What the file calls sessions, these, and the items of each by index, oldest first.

        Raises:
            RecembError: If the file cannot be read, or does not hold what it should.
        """
        file = TableFile(find(path))
        found = read_sequences(file, **self.named)  # type: ignore[arg-type]
        is_text = self.schema.vocabularies["item"].is_text
        dtype = found["items"].dtype.inner  # type: ignore[attr-defined]
        if file.is_text and is_text:  # of a text file, integers are texts that look like them
            found = found.with_columns(pl.col("items").cast(pl.List(pl.String)))
        elif is_text != (dtype == pl.String) or (not is_text and not dtype.is_integer()):
            kind = "strings" if is_text else "integers"
            raise RecembError(
                f"{file.path}: column {self.named['item']!r}: items must be {kind} as in training, "
                f"got type {dtype}"
            )
        columns = replace(self.columns, categorical={})
        encoder = Encoder(file.path, columns, self.schema, with_labels=False)
        bags = encoder.encode(found.rename({"items": "history"}), 0).lists[0]
        history = Jagged(bags.values.to(torch.int64), bags.offsets.diff())
        return str(self.named["sequence"]), found[SEQUENCE], history


class Sequences(SequenceData):
    """Any file of events: one row per (user or session, item, time).

    Args:
        source: Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``.
        sequence: Column that says whose event it is.
        item: Column of item ids.
        time: Column of numbers or times that orders the events of a sequence; without it they are
            in the order of the file.
        split: How validation and test are cut off; see the module.
        validation_share: Of sequences, under ``last_sequences``.
        test_share: Of sequences, under ``last_sequences``.
        attributes: A file with one row per item; its key is the column of item ids in it.
        max_length: Keep the last so many items of a history; longer training sequences are cut in
            pieces.
        batch_size: Sequences per training batch.
        eval_batch_size: Rows per batch of the other stages.
        seed: Of the order of the training rows.
        keep_strings: Whether items that are strings are kept (:class:`data.columns.IdColumn`).
    """

    def __init__(
        self,
        *,
        source: str,
        sequence: str = "user",
        item: str = "item",
        time: str | None = None,
        split: Split = "last_items",
        validation_share: float = 0.05,
        test_share: float = 0.05,
        attributes: AttributeFile | None = None,
        max_length: int = 50,
        batch_size: int = 256,
        eval_batch_size: int = 1024,
        seed: int = 1,
        keep_strings: bool = True,
    ) -> None:
        for name, share in (("validation_share", validation_share), ("test_share", test_share)):
            if not 0 < share < 0.5:
                raise RecembError(f"data: {name} must be above 0 and below 0.5, got {share}")
        self.source = Path(source)
        self.named = {"sequence": sequence, "item": item, "time": time}
        self.keys = {SEQUENCE: sequence}
        self.split = split
        self.shares = (validation_share, test_share)
        self.given_attributes = attributes
        super().__init__(
            folder=cache_root(),
            attributes=attributes and replace(attributes, path=ITEMS, key="item"),
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            keep_strings=keep_strings,
        )

    def prepare_data(self) -> None:
        """Write the files unless they are there for these settings."""
        described = self.given_attributes
        paths = [find(self.source), *([find(described.path)] if described else [])]
        # What attributes are called, and where their file lies, changes nothing in these files.
        key = described.key if described else None
        settings = {
            "named": self.named, "split": self.split, "shares": self.shares,
            "max_length": self.max_length, "key": key,
        }  # fmt: skip

        def write(folder: Path) -> None:
            found = read_sequences(TableFile(paths[0]), **self.named)  # type: ignore[arg-type]
            lists, keys = found["items"], found[SEQUENCE]
            if self.split == "last_items":
                parts = leave_one_out(lists, self.max_length, keys)
            else:
                parts = cut_by_time(lists, self.shares, self.max_length, keys)
            known = read_items(TableFile(paths[1]), described.key) if described else None
            write_parts(parts, known, folder, paths[0])

        self.folder = prepared_folder(cache_root(), FORMAT, paths, settings, write)


def read_sequences(file: TableFile, sequence: str, item: str, time: str | None) -> pl.DataFrame:
    """Return each ``sequence`` and its ``items``, oldest first, in the order of their last events.

    Raises:
        RecembError: If a column is missing or an event lacks what orders or names it.
    """
    names = [sequence, item, *([time] if time else [])]
    file.require(names)
    events = file.collect(file.scan().select(names))
    for name in names:
        if events[name].null_count():
            row = events[name].is_null().arg_max()
            raise RecembError(
                f"{file.path}: column {name!r}, row {row}: an event must have it, got null; fill "
                "it or drop the row"
            )
    ordered = events.with_row_index("row").sort([time, "row"] if time else ["row"])
    grouped = ordered.group_by(sequence, maintain_order=True).agg(
        items=pl.col(item), last=pl.col(time or "row").last(), row=pl.col("row").last()
    )
    return grouped.sort("last", "row").select(pl.col(sequence).alias(SEQUENCE), "items")


def read_items(file: TableFile, key: str) -> pl.DataFrame:
    """Return what is known of items, with the key under the name ``item``."""
    file.require([key])
    return file.collect(file.scan()).rename({key: "item"})


def leave_one_out(
    lists: pl.Series, max_length: int, keys: pl.Series | None = None
) -> dict[str, pl.DataFrame]:
    """Return the rows of the three stages under ``last_items``.

    Sequences of fewer than three items are training alone.

    Args:
        lists: The items of each sequence.
        max_length: Of histories.
        keys: What each sequence is called, if it is known.
    """
    count = pl.col("items").list.len().cast(pl.Int64)
    frame = _with_keys(lists, keys).with_columns(
        count=count, kept=pl.when(count < 3).then(count).otherwise(count - 2)
    )
    training = frame.select(items=pl.col("items").list.head(pl.col("kept")))["items"]
    long = frame.filter(pl.col("count") >= 3)
    parts = {"train": training_rows(training, max_length)}
    for stage, place in (("validation", pl.col("count") - 2), ("test", pl.col("count") - 1)):
        parts[stage] = long.select(
            cs.by_name(SEQUENCE, require_all=False),
            history=pl.col("items").list.head(place).list.tail(max_length),
            item=pl.col("items").list.get(place),
        )
    return parts


def cut_by_time(
    lists: pl.Series,
    shares: tuple[float, float],
    max_length: int,
    keys: pl.Series | None = None,
) -> dict[str, pl.DataFrame]:
    """Return the rows of the three stages under ``last_sequences``; see :func:`leave_one_out`."""
    count = len(lists)
    frame = _with_keys(lists, keys)
    test = count - round(count * shares[1])
    validation = test - round(count * shares[0])
    return {
        "train": training_rows(lists[:validation], max_length),
        "validation": _prefixes(frame[validation:test], max_length),
        "test": _prefixes(frame[test:], max_length),
    }


def _with_keys(lists: pl.Series, keys: pl.Series | None) -> pl.DataFrame:
    """Return sequences as a frame, in which columns are in the order of the files."""
    named = {} if keys is None else {SEQUENCE: keys}
    return pl.DataFrame({**named, "items": lists})


def training_rows(lists: pl.Series, max_length: int) -> pl.DataFrame:
    """Return training sequences as rows, long ones cut from their end in pieces of ``max_length``.

    A piece begins with the item that the one before it ended with: no step from an item to the next
    is lost or comes twice. Sequences of one item have no step.
    """
    steps = pl.col("items").list.len().cast(pl.Int64) - 1
    frame = pl.DataFrame({"items": lists}).with_columns(steps=steps).filter(pl.col("steps") > 0)
    pieces = frame.with_columns(
        piece=pl.int_ranges(0, (pl.col("steps") + max_length - 1) // max_length)
    ).explode("piece")
    end = pl.col("steps") - pl.col("piece") * max_length
    start = pl.max_horizontal(end - max_length, pl.lit(0))
    return pieces.select(
        history=pl.col("items").list.slice(start, end - start), item=pl.col("items").list.get(end)
    )


def prefixes(lists: pl.Series, max_length: int) -> pl.DataFrame:
    """Return a row for every item of a sequence but the first, with what came before it."""
    return _prefixes(_with_keys(lists, None), max_length)


def _prefixes(frame: pl.DataFrame, max_length: int) -> pl.DataFrame:
    frame = frame.with_columns(place=pl.int_ranges(1, pl.col("items").list.len().cast(pl.Int64)))
    frame = frame.explode("place").drop_nulls("place")
    return frame.select(
        cs.by_name(SEQUENCE, require_all=False),
        history=pl.col("items").list.head(pl.col("place")).list.tail(max_length),
        item=pl.col("items").list.get(pl.col("place")),
    )


def write_parts(
    parts: dict[str, pl.DataFrame], items: pl.DataFrame | None, folder: Path, where: Path
) -> None:
    """Write the files of all stages, and what is known of items.

    Args:
        parts: Rows by stage.
        items: What is known of items.
        folder: An existing one.
        where: The file of events, which errors name.

    Raises:
        RecembError: If a stage has no row.
    """
    for stage, rows in parts.items():
        if rows.is_empty():
            raise RecembError(
                f"{where}: no sequence is long enough for {stage}, which needs one of 2 "
                "items in training and 3 else; check the column of sequences"
            )
    for stage, rows in parts.items():
        labelled = rows.with_columns(label=pl.lit(1, pl.Int8))
        labelled.write_parquet(folder / f"{stage}.parquet", row_group_size=ROW_GROUP)
    if items is not None:
        items.write_parquet(folder / ITEMS)
