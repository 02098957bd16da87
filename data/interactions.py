"""Interactions: who took what, as pairs (user, item): what collaborative filtering trains on.

A file of pairs becomes four, all of distinct pairs:

    train        one row per pair
    validation   pairs cut from training, per user
    test         pairs of a test file, or cut per user too
    users        one row per user: the list of items that training has of them, ``seen``

Models read the graph of users and items, and what to leave out of a ranking, from ``seen``: an
attribute of users that a checkpoint carries. So what validation and test hold is in neither.

The protocol: sizes and epochs are chosen by validation under ``train_on: train``; then one training
under ``train_on: all`` has the validation pairs back in training (and in ``seen``), no validation,
and keeps the last of its epochs (``trainer.max_epochs``), which is tested once.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import AttributeFile, IdColumn, IdType, ListColumn
from recemb.data.events import EventColumns, are_text, in_order, read_events
from recemb.data.files import ROW_GROUP, TableFile, cache_root, find
from recemb.data.id_types import IdsOfFile
from recemb.data.prepared import Prepared
from recemb.data.tabular import STAGES
from recemb.errors import RecembError
from recemb.frames import Source, path_of

TrainOn = Literal["train", "all"]
FORMAT = "interactions-3"
"""Names what is written; it changes with the content, so no stale folder is read."""
USERS = "users.parquet"
SPLIT_SEED = 2020
"""Of what is cut at random; part of the protocol: another one would be another split."""


class InteractionData(Prepared):
    """Pairs of two id spaces, ``user`` and ``item``; a subclass prepares the files.

    Ids of all files are known: those that training lacks have a count of 0 and the last indices.

    Args:
        folder: Where the files are.
        train_on: ``train``: validation pairs are held out of training; ``all``: they are part of
            it, there is no validation, and the last epoch is tested.
        batch_size: Pairs per training batch.
        eval_batch_size: Pairs per batch of the other stages; rankings are made at their end.
        seed: Of the order of the training rows.
        keep_strings: Whether ids that are strings are kept (:class:`recemb.data.columns.IdColumn`).
    """

    keys = {"user": "user", "item": "item"}

    def __init__(
        self,
        *,
        folder: Path,
        train_on: TrainOn,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        keep_strings: bool = True,
    ) -> None:
        self.train_on = train_on
        is_held = train_on == "train"
        super().__init__(
            folder=str(folder),
            label="label",
            categorical={name: IdColumn(keep_strings=keep_strings) for name in ("user", "item")},
            attributes=AttributeFile(
                path=USERS, key="user", lists={"seen": ListColumn(vocabulary="item")}
            ),
            validation="validation.parquet" if is_held else None,
            known_from=STAGES if is_held else ("train", "test"),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )


class Interactions(InteractionData):
    """Any file or frame with one row per (user, item), and perhaps a time.

    Args:
        source: Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``; or a frame
            (:mod:`recemb.frames`).
        test: Test pairs with the same columns, as a file or frame; without it, test is cut from
            ``source``.
        user: Column of user ids.
        item: Column of item ids.
        time: Column of times: what is cut off a user is then the last, else it is drawn at random,
            always the same. Numbers, dates, or text as :mod:`recemb.data.times` reads it.
        time_format: How text is read that is no ISO 8601, such as ``%d/%m/%Y %H:%M``.
        user_type: What ids of users are, ``string`` or ``integer``, where the files do not say it;
            see :class:`recemb.data.columns.IdColumn`.
        item_type: Likewise of items.
        validation_share: Of each user's pairs, after test is cut off; rounded, and at least one
            pair stays in training.
        test_share: Of each user's pairs, where there is no test file.
        train_on: See :class:`InteractionData`.
        batch_size: Pairs per training batch.
        eval_batch_size: Pairs per batch of the other stages.
        seed: Of the order of the training rows.
        keep_strings: Whether ids that are strings are kept (:class:`recemb.data.columns.IdColumn`).
    """

    def __init__(
        self,
        *,
        source: Source,
        test: Source | None = None,
        user: str = "user",
        item: str = "item",
        time: str | None = None,
        time_format: str | None = None,
        user_type: IdType | None = None,
        item_type: IdType | None = None,
        validation_share: float = 0.1,
        test_share: float = 0.2,
        train_on: TrainOn = "train",
        batch_size: int = 8192,
        eval_batch_size: int = 65_536,
        seed: int = 1,
        keep_strings: bool = True,
    ) -> None:
        for name, share in (("validation_share", validation_share), ("test_share", test_share)):
            if not 0 < share < 1:
                raise RecembError(f"data: {name} must be above 0 and below 1, got {share}")
        self.source = Path(path_of(source, "source"))
        test = "" if test is None else path_of(test, "test")
        self.test_source = Path(test) if test else None
        ids, types = {"user": user, "item": item}, {"user": user_type, "item": item_type}
        self.event_columns = EventColumns(ids, time, time_format, types)
        self.keys = {"user": user, "item": item}
        self.shares = (validation_share, test_share)
        super().__init__(
            folder=cache_root(),
            train_on=train_on,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            keep_strings=keep_strings,
        )

    def prepare_data(self) -> None:
        """Write the files unless they are there for these settings."""
        paths = [find(path) for path in (self.source, self.test_source) if path is not None]
        settings = {
            "columns": repr(self.event_columns),
            "shares": self.shares,
            "train_on": self.train_on,
        }

        def write(folder: Path) -> None:
            files = [TableFile(path) for path in paths]
            ids = {
                role: [IdsOfFile(file, name, IdColumn()) for file in files]
                for role, name in self.event_columns.ids.items()
            }
            text = are_text(self.event_columns.types, ids)
            given = read_pairs(files[0], self.event_columns, text)
            if self.test_source is None:
                given, held = cut_per_user(given, self.shares[1])
            else:
                # All of a test file is test, in any order.
                held = read_pairs(files[1], self.event_columns._replace(time=None), text)
            write_parts(given, held, self.shares[0], self.train_on, folder, files[0].path)

        self.folder = prepared_folder(cache_root(), FORMAT, paths, settings, write)


def read_pairs(file: TableFile, columns: EventColumns, text: dict[str, bool]) -> pl.DataFrame:
    """Return distinct pairs in the order in which they are cut: the last of a user go first.

    Args:
        file: Has a row per pair.
        columns: Of ``user``, ``item`` and perhaps of times, without which the order is random.
        text: Whether the ids of users, and of items, are strings.

    Raises:
        RecembError: If a column is missing, or at the first row that lacks a value or has a wrong
            one.
    """
    rows = read_events(file, columns, text, "pair").rows
    if columns.time is None:
        return shuffled(rows.unique())
    # Of a pair that comes again the first time counts: later ones are no news.
    first = rows.group_by("user", "item").agg(pl.col("time").min())
    return in_order(first, "user", "item", file.path).drop("time")


def shuffled(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return pairs in a random order that depends on nothing but which pairs they are."""
    ordered = pairs.select("user", "item").sort("user", "item")
    # The old generator: numpy promises that its numbers never change.
    return ordered[np.random.RandomState(SPLIT_SEED).permutation(len(ordered))]


def cut_per_user(pairs: pl.DataFrame, share: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the pairs that stay, and those cut off: the last ``share`` of each user's, rounded.

    A user keeps one pair at least.
    """
    count = pl.len().over("user").cast(pl.Int64)
    num_cut = pl.min_horizontal((count * share).round().cast(pl.Int64), count - 1)
    is_cut = pl.int_range(pl.len()).over("user") >= count - num_cut
    marked = pairs.with_columns(is_cut=is_cut)
    kept, cut = marked.filter(~pl.col("is_cut")), marked.filter("is_cut")
    return kept.drop("is_cut"), cut.drop("is_cut")


def write_parts(
    given: pl.DataFrame,
    test: pl.DataFrame,
    share: float,
    train_on: TrainOn,
    folder: Path,
    where: Path,
) -> None:
    """Write all files into a folder.

    Args:
        given: All pairs but those of test, in the order in which they are cut.
        test: Pairs; those that are given are dropped: what a user has is not ranked.
        share: Of each user's pairs that is validation.
        train_on: Whether validation is held out of training.
        folder: An existing one.
        where: The file of pairs, which errors name.

    Raises:
        RecembError: If a stage has no pair.
    """
    parts = {"train": given, "test": test.join(given, on=["user", "item"], how="anti")}
    if parts["test"].is_empty() and len(test):
        raise RecembError(
            f"{where}: all {len(test):,} pairs of the test file are in training too, and what a "
            "user has is not ranked; give a test file of other pairs, or leave it out"
        )
    if train_on == "train":
        parts["train"], parts["validation"] = cut_per_user(given, share)
    for stage, pairs in parts.items():
        if pairs.is_empty():
            raise RecembError(
                f"{where}: there are no pairs for {stage}; users need more of them, or the "
                "shares must be larger"
            )
    for stage, pairs in parts.items():
        rows = pairs.sort("user", "item").with_columns(label=pl.lit(1, pl.Int8))
        rows.write_parquet(folder / f"{stage}.parquet", row_group_size=ROW_GROUP)
    users = parts["train"].sort("user", "item").group_by("user", maintain_order=True)
    users.agg(seen=pl.col("item")).write_parquet(folder / USERS)
