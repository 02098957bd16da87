"""Behaviour log: one file of (user, item, category, behaviour, time), as Taobao and Tmall publish.

Which item does a user turn to next, after a long history? The rows are those of
:mod:`recemb.data.long_histories`; ``items.parquet`` holds each item's category.

    Taobao   UserBehavior.csv       names: [user, item, category, behaviour, time] (no header)
    Tmall    user_log_format1.csv   seconds: false, columns: {user: user_id, item: item_id,
                                    category: cat_id, behaviour: action_type, time: time_stamp}

The behaviours of the users that have enough are in memory, 8 bytes a value; histories are not.

Sources: Zhu et al., "Learning Tree-based Deep Model for Recommender Systems", KDD 2018 (Taobao);
the Tmall repeat buyers prediction, IJCAI 2015.
"""

from dataclasses import asdict, replace
from pathlib import Path

import polars as pl

from recemb.data.cache import cache_name, prepared_folder
from recemb.data.columns import AttributeFile, IdColumn, ListColumn
from recemb.data.events import EventColumns, Events, check_events
from recemb.data.files import SEPARATORS, TableFile, cache_root, exactly, find
from recemb.data.long_histories import Protocol, read_log, write_rows
from recemb.data.prepared import Prepared
from recemb.errors import RecembError
from recemb.files import reading
from recemb.frames import Source, path_of, shown

FORMAT = "behaviours-3"
"""Names what is written; it changes with the content, so no stale folder is read."""
ROW = "number of the row"
"""A column for the while of reading; no log has such a name."""
ROLES = ("user", "item", "category", "behaviour", "time")
NEEDED = ("user", "item", "time")


class BehaviourLog(Prepared):
    """A log of behaviours with long histories, prepared on first use into the cache folder.

    Columns: ``item`` and its history ``history_item``, which share a vocabulary; the attribute
    ``category`` of an item; and, raw, ``history_seconds`` (before the target).

    Args:
        source: The file (.csv, .tsv or .parquet), in the current folder or ``$RECEMB_DATA``; or a
            frame (:mod:`recemb.frames`). Ids are integers or strings; times are numbers, dates, or
            text as :mod:`recemb.data.times` reads it.
        names: Columns of a text file without a header, in order.
        columns: Names in the file of ``user``, ``item``, ``time``, ``category`` and ``behaviour``,
            as far as they differ; null for a category or behaviour that the file does not have.
        behaviours: Kinds of behaviour that count, such as ``[pv]``; by default all.
        seconds: Whether times that are numbers are seconds. Otherwise only their order is used.
        time_format: How times are read that are text and no ISO 8601; see :mod:`recemb.data.times`.
        protocol: How rows are made.
        min_count: Items seen less often in training are unknown.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows; the protocol has one of its own.

    Raises:
        RecembError: If the file, a column or a value is not what it should be.
    """

    keys = {"user": "user", "item": "item"}

    def __init__(
        self,
        *,
        source: Source,
        names: list[str] | None = None,
        columns: dict[str, str | None] | None = None,
        behaviours: list[str] | None = None,
        seconds: bool = True,
        time_format: str | None = None,
        protocol: Protocol | None = None,
        min_count: int = 1,
        batch_size: int = 2048,
        eval_batch_size: int = 2048,
        seed: int = 1,
    ) -> None:
        self.source = find(path_of(source, "source"))
        self.names = names
        self.roles = check_roles(columns or {})
        self.behaviours = behaviours
        self.seconds = seconds
        self.time_format = time_format
        self.protocol = protocol or Protocol()
        self.protocol.check()
        if behaviours is not None and self.roles["behaviour"] is None:
            raise RecembError("data: behaviours are chosen, but columns has no behaviour; name it")
        has_category = self.roles["category"] is not None
        lists = {"history_item": ListColumn(vocabulary="item")}
        if seconds:
            lists["history_seconds"] = ListColumn(raw=True)
        super().__init__(
            folder=str(cache_root() / cache_name(*self._identity())),
            label="label",
            categorical={"item": IdColumn(min_count=min_count)},
            lists=lists,
            attributes=AttributeFile(
                path="items.parquet", key="item", categorical={"category": IdColumn()}
            )
            if has_category
            else None,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def _identity(self) -> tuple[str, list[Path], dict[str, object]]:
        """Return what names the folder: the format, the file and the settings of the rows."""
        settings: dict[str, object] = {
            "names": self.names, "roles": self.roles, "behaviours": self.behaviours,
            "seconds": self.seconds, "time_format": self.time_format,
            "protocol": asdict(self.protocol),
        }  # fmt: skip
        return FORMAT, [self.source], settings

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepared_folder(cache_root(), *self._identity(), self._write)

    def _write(self, folder: Path) -> None:
        rows, per_second = read_behaviours(
            self.source, self.names, self.roles, self.behaviours, self.time_format
        )
        log = read_log(rows, shown(self.source), self.protocol.min_behaviours, per_second)
        write_rows(log if self.seconds else replace(log, time_N=None), self.protocol, folder)
        if "category" in rows.columns:
            # The most frequent of an item's; of as frequent ones the smallest.
            counts = rows.group_by("item", "category").len()
            counts = counts.sort("item", -pl.col("len").cast(pl.Int64), "category")
            items = counts.unique("item", keep="first", maintain_order=True)
            items.select("item", "category").write_parquet(folder / "items.parquet")


def check_roles(columns: dict[str, str | None]) -> dict[str, str | None]:
    """Return the column of the file by role.

    Raises:
        RecembError: If a role is unknown, or one that is needed has no column.
    """
    for role in columns:
        if role not in ROLES:
            raise RecembError(f"data: columns must name some of {list(ROLES)}, got {role!r}")
    roles = {role: columns.get(role, role) for role in ROLES}
    for role in NEEDED:
        if roles[role] is None:
            raise RecembError(f"data: columns must have a column for {role!r}, got null")
    return roles


def read_behaviours(
    path: Path,
    names: list[str] | None,
    roles: dict[str, str | None],
    kept: list[str] | None,
    time_format: str | None = None,
) -> Events:
    """Return user, item, time and, if there is one, category of the behaviours that count.

    Args:
        path: The file.
        names: Its columns, where it has no header.
        roles: Column by role.
        kept: Kinds of behaviour that count, or None for all.
        time_format: See :func:`recemb.data.times.times_of`.

    Raises:
        RecembError: If the file cannot be read, or a column is missing or holds what it may not.
    """
    given = {role: name for role, name in roles.items() if name is not None}
    if kept is None:
        given.pop("behaviour", None)
    read = list(dict.fromkeys(given.values()))
    if names is None:
        file = TableFile(path)
        file.require(read)
        rows, place = file.scan(), file.place
    else:
        rows, place = _without_header(path, names, read), lambda row: f"line {row + 1}"
    rows = rows.select(exactly(name) for name in read).with_row_index(ROW)
    if kept is not None:
        rows = rows.filter(exactly(given.pop("behaviour")).cast(pl.String).is_in(kept))
    with reading(path, "log", "write it again"):
        frame = rows.collect(engine="streaming")
    if frame.is_empty():
        raise RecembError(f"{shown(path)}: no row is of behaviours {kept}; name those of the file")
    number_N = frame[ROW]
    columns = EventColumns(
        {role: name for role, name in given.items() if role != "time"}, given["time"], time_format
    )
    return check_events(
        frame, columns, shown(path), lambda row: place(int(number_N[row])), what="behaviour"
    )


def _without_header(path: Path, names: list[str], read: list[str]) -> pl.LazyFrame:
    """Return the columns ``read`` of a text file without a header.

    Each is of integers if all its cells are the text of one, as in files with a header.
    """
    for name in read:
        if name not in names:
            raise RecembError(f"{path}: column {name!r} is missing; names has {names}")
    if path.suffix not in SEPARATORS:
        raise RecembError(
            f"{path}: names are of files that end in .csv or .tsv, got {path.suffix!r}; leave them "
            "out"
        )
    with reading(path, "text file", "write it again"):
        rows = pl.scan_csv(
            path,
            separator=SEPARATORS[path.suffix],
            has_header=False,
            new_columns=names,
            infer_schema=False,
            glob=False,
        ).select(exactly(name) for name in read)
        is_whole = [
            exactly(name).cast(pl.Int64, strict=False).cast(pl.String).eq_missing(exactly(name))
            for name in read
        ]
        found = rows.select(one.all() for one in is_whole).collect(engine="streaming").row(0)
    whole = [name for name, is_all in zip(read, found, strict=True) if is_all]
    return rows.with_columns(exactly(name).cast(pl.Int64) for name in whole)
