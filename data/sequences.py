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

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
import polars.selectors as cs
import torch

from recemb.data.cache import prepared_folder, say
from recemb.data.columns import AttributeFile, Columns, IdColumn, IdType, ListColumn
from recemb.data.encode import Encoder
from recemb.data.events import EventColumns, are_text, hashes, in_order, read_events
from recemb.data.files import ROW_GROUP, TableFile, cache_root, find
from recemb.data.id_types import IdsOfFile
from recemb.data.prepared import Prepared
from recemb.data.tabular import STAGES
from recemb.errors import RecembError
from recemb.frames import Source, path_of
from recemb.jagged import Jagged
from recemb.schema import Schema

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
        keep_strings: Whether items that are strings are kept
            (:class:`recemb.data.columns.IdColumn`).
    """

    keys = {SEQUENCE: SEQUENCE}
    event_columns = EventColumns({SEQUENCE: SEQUENCE, "item": "item"}, None, None)
    """Of a file of events."""

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

    def sessions(self, events: Source) -> tuple[str, pl.Series, Jagged]:
        """Return the sessions of a file of events, of which all is known that has happened.

        Args:
            events: Parquet or CSV file, or a frame, with the columns of :attr:`event_columns`.

        Returns:
            What the file calls sessions, these, and the items of each by index, oldest first.

        Raises:
            RecembError: If the file cannot be read, or does not hold what it should.
        """
        file = TableFile(find(path_of(events, "sessions")))
        text = {"item": self.schema.vocabularies["item"].is_text}
        found = read_sequences(file, self.event_columns, text)
        columns = replace(self.columns, categorical={})
        encoder = Encoder(file.path, columns, self.schema, with_labels=False)
        bags = encoder.encode(found.rename({"items": "history"}), 0).lists[0]
        history = Jagged(bags.values.to(torch.int64), bags.offsets.diff())
        return self.event_columns.ids[SEQUENCE], found[SEQUENCE], history


class Sequences(SequenceData):
    """Any file or frame of events: one row per (user or session, item, time).

    Args:
        source: Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``; or a frame
            (:mod:`recemb.frames`).
        sequence: Column that says whose event it is.
        item: Column of item ids.
        time: Column of times, by which the events of a sequence are ordered: numbers, dates, or
            text as :mod:`recemb.data.times` reads it. Without it they are in the order of the file.
        time_format: How text is read that is no ISO 8601, such as ``%d/%m/%Y %H:%M``.
        sequence_type: What ids of sequences are, ``string`` or ``integer``, where the file does not
            say it; see :class:`recemb.data.columns.IdColumn`.
        item_type: Likewise of items.
        split: How validation and test are cut off; see the module.
        validation_share: Of sequences, under ``last_sequences``.
        test_share: Of sequences, under ``last_sequences``.
        attributes: A file with one row per item; its key is the column of item ids in it.
        max_length: Keep the last so many items of a history; longer training sequences are cut in
            pieces.
        batch_size: Sequences per training batch.
        eval_batch_size: Rows per batch of the other stages.
        seed: Of the order of the training rows.
        keep_strings: Whether items that are strings are kept
            (:class:`recemb.data.columns.IdColumn`).
    """

    def __init__(
        self,
        *,
        source: Source,
        sequence: str = "user",
        item: str = "item",
        time: str | None = None,
        time_format: str | None = None,
        sequence_type: IdType | None = None,
        item_type: IdType | None = None,
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
        self.source = Path(path_of(source, "source"))
        ids = {SEQUENCE: sequence, "item": item}
        types = {SEQUENCE: sequence_type, "item": item_type}
        self.event_columns = EventColumns(ids, time, time_format, types)
        self.keys = {SEQUENCE: sequence}
        self.split = split
        self.shares = (validation_share, test_share)
        self.given_attributes = attributes
        super().__init__(
            folder=cache_root(),
            attributes=attributes
            and replace(attributes, key="item", column=attributes.key_in_file),
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
        # The file of attributes is read where it is; the rows depend on the type of its key alone.
        key = described.key_in_file if described else None
        settings = {
            "columns": repr(self.event_columns), "split": self.split, "shares": self.shares,
            "max_length": self.max_length, "key": key,
        }  # fmt: skip

        def write(folder: Path) -> None:
            events = TableFile(paths[0])
            ids = [IdsOfFile(events, self.event_columns.ids["item"], IdColumn())]
            if described is not None:
                ids.append(IdsOfFile(TableFile(paths[1]), described.key_in_file, IdColumn()))
            own = IdsOfFile(events, self.event_columns.ids[SEQUENCE], IdColumn())
            text = are_text(self.event_columns.types, {SEQUENCE: [own], "item": ids})
            found = read_sequences(events, self.event_columns, text)
            lists, keys = found["items"], found[SEQUENCE]
            ends = int(found["last"].is_duplicated().sum())
            if self.split == "last_sequences" and ends:
                say(
                    f"{events.path}: {ends:,} of {len(found):,} sequences end at the same time as "
                    f"another; those are ordered by a hash of {SEQUENCE}"
                )
            if self.split == "last_items":
                parts = leave_one_out(lists, self.max_length, keys)
            else:
                parts = cut_by_time(lists, self.shares, self.max_length, keys)
            write_parts(parts, None, folder, events.path)

        self.folder = prepared_folder(cache_root(), FORMAT, paths, settings, write)

    def _read(self, columns: Columns, attributes: AttributeFile | None) -> Schema:
        if attributes is not None:
            # Of the user's folders, not of the prepared one.
            attributes = replace(attributes, path=str(find(attributes.path).absolute()))
        return super()._read(columns, attributes)


def read_sequences(
    file: TableFile, columns: EventColumns, text: Mapping[str, bool] | None = None
) -> pl.DataFrame:
    """Return each ``sequence``, its ``items``, oldest first, and the time of the ``last``.

    Sequences are in the order of their last events.

    Without times the order is that of the file.

    Args:
        file: Has a row per event.
        columns: Of ``sequence``, ``item`` and perhaps of times.
        text: See :func:`recemb.data.events.read_events`.

    Raises:
        RecembError: If a column is missing, or at the first event that lacks a value or has a wrong
            one.
    """
    events = read_events(file, columns, text).rows
    if columns.time is None:
        events = events.with_row_index("time")
    else:
        events = in_order(events, SEQUENCE, "item", file.path)
    grouped = events.group_by(SEQUENCE, maintain_order=True).agg(
        items=pl.col("item"), last=pl.col("time").last()
    )
    # Sequences that end at once are in an order that no file decides, as their events are.
    grouped = grouped.with_columns(hashes(grouped[SEQUENCE])).sort("last", "hash", SEQUENCE)
    return grouped.select(SEQUENCE, "items", "last")


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
