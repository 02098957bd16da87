"""Avazu mobile advertising (Kaggle 2014): 21 categories per impression, and its hour.

``hour`` (YYMMDDHH) never comes back, so it becomes three features: the hour of the day (0 to 23),
the weekday (1 Monday to 7 Sunday) and whether it is a weekend. C20 holds -1, so it is read as text:
an integer id is never negative. The impression's ``id`` says nothing and is left out. Values seen
fewer than ``min_count`` times in training share one index.

Source: Song et al., "AutoInt", CIKM 2019, arXiv:1810.11921, for the random split in 8:1:1; Zhu et
al., "BARS", SIGIR 2022, arXiv:2205.09626, setting Avazu_x4, for the three features and min_count.
"""

from pathlib import Path

import polars as pl

from recemb.data.cache import prepared_folder
from recemb.data.columns import IdColumn
from recemb.data.files import cache_root, find
from recemb.data.prepared import Prepared
from recemb.data.raw_log import scan_log, write_log

TEXTS = (
    "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category",
    "device_id", "device_ip", "device_model", "C20",
)  # fmt: skip
INTEGERS = (
    "C1", "banner_pos", "device_type", "device_conn_type", "C14", "C15", "C16", "C17", "C18",
    "C19", "C21",
)  # fmt: skip
TIMES = ("hour", "weekday", "weekend")
FORMAT = "2"
"""Names what :func:`prepare` writes; it changes with the content, so no stale folder is read."""

RULE = "must be an hour as YYMMDDHH"

RAW: dict[str, type[pl.DataType]] = {
    "click": pl.Int8,
    "hour": pl.Int32,
    **dict.fromkeys(INTEGERS, pl.Int32),
    **dict.fromkeys(TEXTS, pl.String),
}
"""The columns of the raw file that are read."""


def prepare(source: Path, folder: Path) -> Path:
    """Write the three parquet files; return their folder. Nothing is written a second time.

    Args:
        source: Kaggle's ``train.csv``, or its columns as parquet or TSV.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.

    Raises:
        RecembError: If the source is missing or does not hold what it should.
    """
    rows = scan_log(source, RAW)

    def write(new: Path) -> None:
        write_log(rows.with_columns(**_times()), source, new, RAW, {"hour": (_is_no_time(), RULE)})

    return prepared_folder(folder, f"avazu-{FORMAT}", [source], {}, write)


def _times() -> dict[str, pl.Expr]:
    """Return hour of the day, weekday and weekend of YYMMDDHH."""
    hour = pl.col("hour") % 100
    weekday = _day(strict=True).dt.weekday()
    # Its own when it is one; else the whole ends in an error.
    hour = pl.datetime(2000, 1, 1, hour).dt.hour().cast(pl.Int32)
    return {"hour": hour, "weekday": weekday, "weekend": (weekday > 5).cast(pl.Int8)}


def _day(*, strict: bool) -> pl.Expr:
    """Return the date of YYMMDDHH; what is none is an error if ``strict``, else null."""
    digits = (pl.col("hour") // 100).cast(pl.String).str.zfill(6)
    return pl.format("20{}", digits).str.to_date("%Y%m%d", strict=strict)


def _is_no_time() -> pl.Expr:
    """Return whether a value of ``hour`` is none."""
    stamp = pl.col("hour").cast(pl.Int64)
    return stamp.is_not_null() & (_day(strict=False).is_null() | (stamp % 100 > 23))


class Avazu(Prepared):
    """Avazu's impressions, prepared on first use into the cache folder.

    Args:
        source: The raw file (see :func:`prepare`), in the current folder or ``$RECEMB_DATA``.
        min_count: Values seen less often in training are unknown.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch of the other stages.
        seed: Of the order of the training rows; the split depends on the row's number alone.
    """

    def __init__(
        self,
        *,
        source: str = "avazu/train.csv",
        min_count: int = 2,
        batch_size: int = 4096,
        eval_batch_size: int = 8192,
        seed: int = 1,
    ) -> None:
        self.source = Path(source)
        names = (*TIMES, *INTEGERS, *TEXTS)
        super().__init__(
            folder=str(cache_root()),
            label="click",
            categorical={name: IdColumn(min_count=min_count) for name in names},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(find(self.source), cache_root())
