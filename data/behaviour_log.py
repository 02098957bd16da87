"""Behaviour log: one file of (user, item, category, behaviour, time), as Taobao and Tmall publish.

Which item does a user turn to next, after a long history? The rows are those of
:mod:`data.long_histories`; ``items.parquet`` holds each item's category.

    Taobao   UserBehavior.csv       names: [user, item, category, behaviour, time] (no header)
    Tmall    user_log_format1.csv   seconds: false, columns: {user: user_id, item: item_id,
                                    category: cat_id, behaviour: action_type, time: time_stamp}

The behaviours of the users that have enough are in memory, 8 bytes a value; histories are not.

Sources: Zhu et al., "Learning Tree-based Deep Model for Recommender Systems", KDD 2018 (Taobao);
the Tmall repeat buyers prediction, IJCAI 2015.
"""

from dataclasses import asdict
from pathlib import Path

import polars as pl

from data.cache import cache_name, prepared_folder
from data.columns import AttributeFile, IdColumn, ListColumn
from data.files import cache_root, find
from data.long_histories import Log, Protocol, read_log, write_rows
from data.prepared import Prepared
from recemb.errors import RecembError
from recemb.files import one_line

FORMAT = "behaviours-2"
"""Names what is written; it changes with the content, so no stale folder is read."""
ROLES = ("user", "item", "category", "behaviour", "time")
NEEDED = ("user", "item", "time")


class BehaviourLog(Prepared):
    """A log of behaviours with long histories, prepared on first use into the cache folder.

    Columns: ``item`` and its history ``history_item``, which share a vocabulary; the attribute
    ``category`` of an item; and, raw, ``history_seconds`` (before the target).

    Args:
        source: The file (.csv, .tsv or .parquet), in the current folder or ``$RECEMB_DATA``. Ids
            and times are integers.
        names: Columns of a text file without a header, in order.
        columns: Names in the file of ``user``, ``item``, ``time``, ``category`` and ``behaviour``,
            as far as they differ; null for a category or behaviour that the file does not have.
        behaviours: Kinds of behaviour that count, such as ``[pv]``; by default all.
        seconds: Whether times are seconds. Otherwise only their order is used.
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
        source: str,
        names: list[str] | None = None,
        columns: dict[str, str | None] | None = None,
        behaviours: list[str] | None = None,
        seconds: bool = True,
        protocol: Protocol | None = None,
        min_count: int = 1,
        batch_size: int = 2048,
        eval_batch_size: int = 2048,
        seed: int = 1,
    ) -> None:
        self.source = find(source)
        self.names = names
        self.roles = check_roles(columns or {})
        self.behaviours = behaviours
        self.seconds = seconds
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
            "seconds": self.seconds, "protocol": asdict(self.protocol),
        }  # fmt: skip
        return FORMAT, [self.source], settings

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepared_folder(cache_root(), *self._identity(), self._write)

    def _write(self, folder: Path) -> None:
        frame = read_behaviours(self.source, self.names, self.roles, self.behaviours)
        log = read_log(frame, str(self.source), self.protocol.min_behaviours)
        if not self.seconds:
            log = Log(log.user_U, log.start_U, log.item_N, None)
        write_rows(log, self.protocol, folder)
        if "category" in frame.columns:
            items = frame.group_by("item").agg(pl.col("category").first()).sort("item")
            items.write_parquet(folder / "items.parquet")


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
    path: Path, names: list[str] | None, roles: dict[str, str | None], kept: list[str] | None
) -> pl.DataFrame:
    """Return user, item, time and, if there is one, category of the behaviours that count.

    Args:
        path: The file.
        names: Its columns, where it has no header.
        roles: Column by role.
        kept: Kinds of behaviour that count, or None for all.

    Raises:
        RecembError: If the file cannot be read, or a column is missing or holds what it may not.
    """
    rows = _scan(path, names)
    wanted = {role: name for role, name in roles.items() if name is not None}
    if kept is None:
        wanted.pop("behaviour", None)
    try:
        found = rows.collect_schema().names()
        for name in wanted.values():
            if name not in found:
                raise RecembError(f"{path}: column {name!r} is missing; the file has {found}")
        rows = rows.with_row_index("row").select("row", **wanted)
        if kept is not None:
            rows = rows.filter(pl.col("behaviour").cast(pl.String).is_in(kept)).drop("behaviour")
        frame = rows.collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecembError(f"{path}: cannot be read ({one_line(error)})") from error
    if frame.is_empty():
        raise RecembError(f"{path}: no row is of behaviours {kept}; name those of the file")
    for role in frame.columns[1:]:
        number = frame[role].cast(pl.Int64, strict=False)
        wrong = number.is_null()
        if wrong.any():
            first = wrong.to_list().index(True)
            raise RecembError(
                f"{path}: column {wanted[role]!r}, row {frame['row'][first]}: must be an integer, "
                f"got {frame[role][first]!r}"
            )
        frame = frame.with_columns(number.alias(role))
    return frame.drop("row")


def _scan(path: Path, names: list[str] | None) -> pl.LazyFrame:
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    if path.suffix not in (".csv", ".tsv"):
        raise RecembError(
            f"{path}: must end in .parquet, .csv or .tsv, got {path.suffix!r}; unpack or rename it"
        )
    separator = "\t" if path.suffix == ".tsv" else ","
    if names is None:
        return pl.scan_csv(path, separator=separator)
    return pl.scan_csv(path, separator=separator, has_header=False, new_columns=names)
