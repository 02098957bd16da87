"""Complements: which items go together, as ordered pairs (item, context), and which are alike.

Pairs come from baskets (or sessions), from relations of items such as "also bought", or from both:

* baskets: each row is an event (basket, item, time). Of two events of a basket, at most ``window``
  events apart in the order of time, the earlier is the item and the later its context; as often as
  it happens. With ``directions: both`` also the other way round, as a skip-gram's window has it.
* relations: a file of items with a list of complements, and perhaps one of substitutes, per item.
  A relation counts once, however it is stored (one way, or both), and is a pair in both orders.

What is held out are *unordered* pairs, by a hash of the two ids: if a and b are held out, neither
"a, b" nor "b, a" is in training, from whatever source. Files of validation and test have the
complements held out, and substitutes, of which training knows nothing, in both orders:

    train        item, context, label 1
    validation   item, context, label 1 for complements, 0 for substitutes
    test         likewise
    catalogue    every item, so that all are known
    items        per item ``seen`` (itself and the contexts of training, which are not ranked) and
                 ``synthetic``

Complements are those of the relations where there is a file of them, else all pairs of baskets.

An item without pairs can have synthetic ones (:mod:`recemb.data.synthetic_pairs`).

Files are read and written in parts: what is in memory is the pairs of a part of the baskets, the
distinct pairs, and the catalogue.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow.parquet as pq
import torch

from recemb.data.cache import prepared_folder
from recemb.data.columns import AttributeFile, Columns, IdColumn, ListColumn
from recemb.data.events import are_text
from recemb.data.files import ROW_GROUP, TableFile, cache_root, find
from recemb.data.held_out import PARTS
from recemb.data.id_types import IdsOfFile
from recemb.data.pair_sources import Baskets, Relations, basket_parts, items_in, related
from recemb.data.prepared import Prepared
from recemb.data.schema import build_schema
from recemb.data.synthetic_pairs import Synthetic, synthetic_pairs
from recemb.data.tabular import STAGES
from recemb.data.values import as_tensor
from recemb.errors import RecembError
from recemb.hashing import hash_strings, rows_of
from recemb.schema import Schema

FORMAT = "complements-3"
"""Names what is written; it changes with the content, so no stale folder is read."""
ITEMS, CATALOGUE = "items.parquet", "catalogue.parquet"
SALT_COMPLEMENTS, SALT_SUBSTITUTES = 0xC0FFEE, 0x5AB5
Sources = Literal["relations", "baskets", "both"]


class Complements(Prepared):
    """Pairs (item, context) of one id space, ``item``, from baskets, relations or both.

    Args:
        baskets: Events; needed unless relations are given.
        relations: Of items; needed unless baskets are given.
        sources: Which of them training pairs come from.
        exclusive: Whether a pair that is said to be both is a complement alone; else it is a
            substitute as well, unless training has it.
        synthetic: If given, items without training pairs get those of similar items.
        validation_share: Of unordered pairs of complements; of substitutes, half are validation.
        test_share: Likewise; the other half of substitutes is test.
        batch_size: Pairs per training batch.
        eval_batch_size: Pairs per batch of the other stages; rankings are made at their end.
        cache_bytes: Training pairs are kept in memory up to this size; the rest is read again in
            every epoch.
        seed: Of the order of the training pairs; the split has a fixed one of its own.
        keep_strings: Whether items that are strings are kept
            (:class:`recemb.data.columns.IdColumn`).

    Raises:
        RecembError: If a file or a column does not hold what it should, or a setting is out of
            range.
    """

    keys = {"item": "item", "context": "context"}

    def __init__(
        self,
        *,
        baskets: Baskets | None = None,
        relations: Relations | None = None,
        sources: Sources = "both",
        exclusive: bool = False,
        synthetic: Synthetic | None = None,
        validation_share: float = 0.1,
        test_share: float = 0.1,
        batch_size: int = 4096,
        eval_batch_size: int = 65_536,
        cache_bytes: int = 2**31,
        seed: int = 1,
        keep_strings: bool = True,
    ) -> None:
        for name, share in (("validation_share", validation_share), ("test_share", test_share)):
            if not 0 < share < 0.5:
                raise RecembError(f"data: {name} must be above 0 and below 0.5, got {share}")
        given = {"baskets": baskets is not None, "relations": relations is not None}
        needed = ("baskets", "relations") if sources == "both" else (sources,)
        if not any(given.values()) or (sources != "both" and not given[sources]):
            raise RecembError(
                f"data: sources={sources!r} needs {' or '.join(needed)}, got "
                f"{[name for name, is_given in given.items() if is_given]}; give the section"
            )
        if baskets is not None:
            baskets.check()
        if synthetic is not None:
            synthetic.check(has_baskets=baskets is not None)
        self.baskets, self.relations = baskets, relations
        self.sources, self.synthetic = sources, synthetic
        self.exclusive = exclusive
        self.shares = (validation_share, test_share)
        super().__init__(
            folder=str(cache_root()),
            label="label",
            categorical={
                "item": IdColumn(keep_strings=keep_strings),
                "context": IdColumn(vocabulary="item"),
            },
            attributes=AttributeFile(
                path=ITEMS,
                key="item",
                lists={
                    "seen": ListColumn(vocabulary="item"),
                    "synthetic": ListColumn(vocabulary="item"),
                },
            ),
            known_from=STAGES,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            cache_bytes=cache_bytes,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the files unless they are there for these settings."""
        alike = self.synthetic.vectors if self.synthetic else None
        sections = {"baskets": self.baskets, "relations": self.relations, "vectors": alike}
        paths = {name: find(one.path) for name, one in sections.items() if one is not None}
        # Where a file lies changes nothing.
        settings = {
            name: one and asdict(one) | {"path": None} for name, one in sections.items()
        } | {
            "synthetic": self.synthetic and replace(self.synthetic, vectors=None),
            "sources": self.sources,
            "shares": self.shares,
            "exclusive": self.exclusive,
        }

        def write(folder: Path) -> None:
            write_parts(self, {name: TableFile(path) for name, path in paths.items()}, folder)

        sources = list(paths.values())
        self.folder = prepared_folder(cache_root(), FORMAT, sources, settings, write)

    def _read(self, columns: Columns, attributes: AttributeFile | None) -> Schema:
        files = [self.file(stage) for stage in STAGES]
        catalogue = TableFile(self.folder / CATALOGUE)
        others = [*files[1:], catalogue]
        return build_schema(files[0], columns, attributes, self.folder, others)


def unordered(pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Return pairs of columns ``item`` and ``context`` as distinct ``low`` and ``high``."""
    low, high = pl.min_horizontal("item", "context"), pl.max_horizontal("item", "context")
    return pairs.select(low=low, high=high).filter(pl.col("low") != pl.col("high")).unique()


def distinct(file: TableFile, relations: Relations, column: str, text: bool) -> pl.DataFrame:
    """Return the unordered pairs of a list column, in an order that depends on nothing else."""
    pairs = related(file, relations, column, text)
    return unordered(pairs.lazy()).collect().sort("low", "high")


def both_orders(pairs: pl.DataFrame) -> pl.DataFrame:
    """Return unordered pairs as ``item`` and ``context`` in both orders."""
    first = pairs.rename({"low": "item", "high": "context"})
    second = pairs.rename({"low": "context", "high": "item"}).select(first.columns)
    return pl.concat([first, second])


def place_of(pairs: pl.DataFrame, first: str, second: str, salt: int) -> pl.Series:
    """Return a number from 0 to 1 for each pair that depends on its two ids alone."""
    raw = [
        as_tensor(hash_strings(one) if one.dtype == pl.String else one.cast(pl.Int64))
        for one in (pairs[first], pairs[second])
    ]
    # Unordered: the smaller of the raw ids first.
    low, high = torch.minimum(*raw), torch.maximum(*raw)
    inner = rows_of(high, torch.full_like(high, salt), torch.full_like(high, 2**31 - 1))
    part = rows_of(low, inner, torch.full_like(low, PARTS))
    return pl.Series("place", (part / PARTS).numpy())


def stage_of(pairs: pl.DataFrame, shares: tuple[float, float]) -> pl.Series:
    """Return for pairs ``item``, ``context`` (in any order) which stage they are of."""
    place = place_of(pairs, "item", "context", SALT_COMPLEMENTS).to_frame()
    validation, test = shares
    return place.select(
        stage=pl.when(pl.col("place") < validation)
        .then(pl.lit("validation"))
        .when(pl.col("place") < validation + test)
        .then(pl.lit("test"))
        .otherwise(pl.lit("train"))
    )["stage"]


def write_parts(data: Complements, files: dict[str, TableFile], folder: Path) -> None:
    """Write all files into a folder that is there.

    Raises:
        RecembError: If a stage has no pair, or a column does not hold what it should.
    """
    relations = data.relations
    where = next(iter(files.values())).path
    text = are_text({}, {"item": id_columns(data, files)})["item"]
    truth, substitutes = None, None
    if relations is not None:
        file = files["relations"]
        truth = distinct(file, relations, relations.complements, text)
        if relations.substitutes is not None:
            substitutes = distinct(file, relations, relations.substitutes, text)
    writer = TrainingWriter(folder / "train.parquet", data.shares)
    if truth is not None and data.sources != "baskets":
        writer.write(both_orders(truth))
    if data.baskets is not None and (data.sources != "relations" or truth is None):
        for pairs in basket_parts(files["baskets"], data.baskets, text):
            writer.write(pairs, keep_held_out=truth is None)
    if writer.kind is None:
        raise RecembError(f"{where}: there are no pairs; check the columns and window")
    trained, held_out = writer.distinct()
    if truth is not None:
        held_out = truth
    pairs = held_out.rename({"low": "item", "high": "context"})
    pairs = pairs.with_columns(stage_of(pairs, data.shares)).filter(pl.col("stage") != "train")
    pairs = pairs.with_columns(label=pl.lit(1, pl.Int8))
    if substitutes is not None:
        # A pair that training has as a complement is not ranked, so it is no answer.
        own = substitutes.join(trained, on=["low", "high"], how="anti")
        if data.exclusive and truth is not None:
            own = own.join(truth, on=["low", "high"], how="anti")
        own = own.rename({"low": "item", "high": "context"})
        half = place_of(own, "item", "context", SALT_SUBSTITUTES) < 0.5
        of_half = pl.Series("stage", ["test", "validation"]).gather(half.cast(pl.UInt32))
        pairs = pl.concat([pairs, own.with_columns(of_half, label=pl.lit(0, pl.Int8))])
    for stage in ("validation", "test"):
        held = pairs.filter(pl.col("stage") == stage).drop("stage")
        held = held.rename({"item": "low", "context": "high"})
        write_stage(both_orders(held).sort("item", "context", "label"), folder, stage)
    catalogue = all_items(data, files, trained, pairs)
    made = pl.DataFrame(schema={"item": writer.kind, "context": writer.kind})
    if data.synthetic is not None:
        pairs = both_orders(trained)
        alike = (data.synthetic, data.baskets, data.relations)
        made = synthetic_pairs(*alike, files, catalogue, pairs)
        writer.write_synthetic(made)
    writer.close()
    catalogue.select(
        "item",
        context=pl.lit(None, writer.kind),
        label=pl.lit(1, pl.Int8),
    ).write_parquet(folder / CATALOGUE, row_group_size=ROW_GROUP)
    described = catalogue
    known = pl.concat([catalogue.select("item", context="item"), both_orders(trained)])
    for name, own in (("seen", known), ("synthetic", made)):
        lists = own.sort("item", "context").group_by("item").agg(pl.col("context").alias(name))
        described = described.join(lists, on="item", how="left", maintain_order="left")
    described.with_columns(pl.col("seen", "synthetic").fill_null([])).write_parquet(folder / ITEMS)


def id_columns(data: Complements, files: dict[str, TableFile]) -> list[IdsOfFile]:
    """Return all columns of items' ids, with their files."""
    found = []
    if data.baskets is not None:
        found.append(IdsOfFile(files["baskets"], data.baskets.item, IdColumn()))
    if data.relations is not None:
        file, one = files["relations"], data.relations
        found.append(IdsOfFile(file, one.item, IdColumn()))
        lists = [name for name in (one.complements, one.substitutes) if name is not None]
        found += [IdsOfFile(file, name, ListColumn(separator=one.separator)) for name in lists]
    if data.synthetic is not None and data.synthetic.vectors is not None:
        found.append(IdsOfFile(files["vectors"], data.synthetic.vectors.item, IdColumn()))
    return found


def write_stage(rows: pl.DataFrame, folder: Path, stage: str) -> None:
    """Write the held-out pairs of a stage.

    Raises:
        RecembError: If it has no complements.
    """
    if rows.filter(pl.col("label") == 1).is_empty():
        raise RecembError(
            f"data: there are no complements for {stage}; there must be more pairs, or the shares "
            "must be larger"
        )
    rows.write_parquet(folder / f"{stage}.parquet", row_group_size=ROW_GROUP)


def all_items(
    data: Complements, files: dict[str, TableFile], trained: pl.DataFrame, held: pl.DataFrame
) -> pl.DataFrame:
    """Return the catalogue: every item of any file, in order: ``item``."""
    parts = [
        trained.select(item="low"),
        trained.select(item="high"),
        held.select("item"),
        held.select(item="context"),
    ]
    text = trained["low"].dtype == pl.String
    for name, one in (("baskets", data.baskets), ("relations", data.relations)):
        if one is not None:
            parts.append(items_in(files[name], one.item, text))
    return pl.concat(parts).unique().sort("item")


class TrainingWriter:
    """Writes training pairs part by part and keeps the distinct ones.

    Args:
        path: The file.
        shares: Of validation and test.

    Attributes:
        kind: Type of ids; None while nothing has been written.
    """

    def __init__(self, path: Path, shares: tuple[float, float]) -> None:
        self.path = path
        self.shares = shares
        self.kind: pl.DataType | None = None
        self._writer: pq.ParquetWriter | None = None
        self._trained: list[pl.DataFrame] = []
        self._held: list[pl.DataFrame] = []

    def write(self, pairs: pl.DataFrame, keep_held_out: bool = False) -> None:
        """Write those of training.

        Args:
            pairs: ``item`` and ``context``.
            keep_held_out: Whether the others are kept for :meth:`distinct`.
        """
        if pairs.is_empty():
            return
        is_training = stage_of(pairs, self.shares) == "train"
        own = pairs.filter(is_training)
        self._append(own)
        self._trained = [_merged([*self._trained, own])]
        if keep_held_out:
            self._held = [_merged([*self._held, pairs.filter(~is_training)])]

    def write_synthetic(self, pairs: pl.DataFrame) -> None:
        """Write pairs that nobody has seen; they are not among the distinct ones."""
        self._append(pairs)

    def _append(self, pairs: pl.DataFrame) -> None:
        rows = pairs.with_columns(label=pl.lit(1, pl.Int8)).to_arrow()
        if self._writer is None:
            self.kind = pairs["item"].dtype
            self._writer = pq.ParquetWriter(self.path, rows.schema)
        self._writer.write_table(rows.cast(self._writer.schema), row_group_size=ROW_GROUP)

    def distinct(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the distinct unordered pairs of training, and those held out: low, high."""
        nothing = pl.DataFrame(schema={"low": self.kind, "high": self.kind})
        return pl.concat([nothing, *self._trained]), pl.concat([nothing, *self._held])

    def close(self) -> None:
        """End the file."""
        assert self._writer is not None
        self._writer.close()


def _merged(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the distinct unordered pairs of frames of pairs in any form."""
    named = [frame.rename({"low": "item", "high": "context"}, strict=False) for frame in frames]
    return unordered(pl.concat(named).lazy()).collect()
