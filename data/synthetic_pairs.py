"""Synthetic pairs: items without pairs get those of the items that they are like.

    score(c) = sum over the most similar items s of similarity(x, s) [c is a context of s]

The best contexts c of an item x become pairs (x, c): x learns where it belongs, and nothing else
does, for a synthetic pair says nothing new of c.

Two items are alike by given vectors (of texts, images or clicks), by the cosine; or by what they
share: the values of metadata columns, and the baskets that they came into, each a set of tokens,
by the cosine of their TF-IDF weights. A token that very many items have tells nothing and is left
out, so that no pair of items is compared for it.

Source: Kvernadze et al., "Two Is Better Than One: Dual Embeddings for Complementary Product
Recommendations", ICKG 2022, arXiv:2211.14982 (synthetic samples for coverage).
"""

import math
from dataclasses import dataclass, field

import polars as pl
import torch
from torch.nn import functional as F

from recemb.data.files import TableFile
from recemb.data.pair_sources import Baskets, Relations, values_of
from recemb.errors import RecembError
from recemb.frames import Source, path_of

MAX_ITEMS = 1000
"""Tokens of more items than this tell nothing of them."""
PART = 256
"""Items that are compared with all others at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """A file of items' vectors."""

    path: Source
    """Parquet or CSV file, in the current folder or under ``$RECEMB_DATA``; or a frame."""
    item: str = "item"
    """Column of item ids."""
    vector: str = "vector"
    """Column of lists of numbers, all of one length."""
    separator: str = "|"
    """In CSV files, what separates the numbers of a list."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", path_of(self.path, "vectors"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthetic:
    """Which items are alike, and how many pairs they lend."""

    vectors: Vectors | None = None
    """Given vectors; then nothing else says what is alike."""
    columns: list[str] = field(default_factory=list)
    """Metadata: columns of the file of relations, of one value or a list of values per item."""
    baskets: bool = False
    """Whether items are alike that came into the same baskets, whenever: buyers in common."""
    num_similar: int = 10
    """Of the most similar items with pairs, so many lend theirs."""
    num_pairs: int = 20
    """Synthetic pairs of an item at most."""

    def check(self, has_baskets: bool) -> None:
        """Raise a :class:`RecembError` if a setting is out of range.

        Args:
            has_baskets: Whether there is a file of baskets.
        """
        for name in ("num_similar", "num_pairs"):
            if getattr(self, name) < 1:
                raise RecembError(
                    f"synthetic: {name} must be at least 1, got {getattr(self, name)}"
                )
        if (self.vectors is None) != bool(self.columns or self.baskets):
            raise RecembError(
                "synthetic: items must be alike by vectors, or by columns and baskets, got "
                f"vectors={self.vectors}, columns={self.columns}, baskets={self.baskets}"
            )
        if self.baskets and not has_baskets:
            raise RecembError("synthetic: baskets=true needs data.baskets; give the section")


def synthetic_pairs(
    settings: Synthetic,
    baskets: Baskets | None,
    relations: Relations | None,
    files: dict[str, TableFile],
    catalogue: pl.DataFrame,
    pairs: pl.DataFrame,
) -> pl.DataFrame:
    """Return pairs ``item``, ``context`` of items that have none, best first.

    Args:
        settings: What is alike.
        baskets: Which events there are, if any.
        relations: What the file of items holds, if there is one.
        files: Open, by section: ``baskets``, ``relations``, ``vectors``.
        catalogue: All items.
        pairs: Of training, in both orders, distinct.

    Raises:
        RecembError: If a column is missing or vectors differ in length.
    """
    with_pairs = pairs.select("item").unique()
    without = catalogue.join(with_pairs, on="item", how="anti")
    if settings.vectors is not None:
        similar = similar_by_vectors(files["vectors"], settings, without, with_pairs)
    else:
        tokens = tokens_of(settings, baskets, relations, files, catalogue)
        similar = similar_by_tokens(tokens, settings.num_similar, without, with_pairs)
    lent = similar.join(pairs.rename({"item": "similar"}), on="similar")
    scored = lent.group_by("item", "context").agg(similarity=summed_similarity())
    ranked = scored.filter(pl.col("item") != pl.col("context")).sort(
        "item", "similarity", "context", descending=[False, True, False]
    )
    return ranked.group_by("item", maintain_order=True).head(settings.num_pairs).select(
        "item", "context"
    )  # fmt: skip


def summed_similarity() -> pl.Expr:
    """Return the sum of a group, rounded: threads add in any order, and ties must stay ties."""
    return pl.col("similarity").sum().round(9)


def tokens_of(
    settings: Synthetic,
    baskets: Baskets | None,
    relations: Relations | None,
    files: dict[str, TableFile],
    catalogue: pl.DataFrame,
) -> pl.DataFrame:
    """Return what items have, distinct: ``item``, ``token``; each token begins with its column."""
    kind = catalogue["item"].dtype
    parts = []
    for name in settings.columns:
        if relations is None:
            raise RecembError("synthetic: columns are of the file of relations; give the section")
        file = files["relations"]
        file.require([relations.item, name])
        token = values_of(file, name, relations.separator)
        rows = file.scan().select(item=pl.col(relations.item), token=token)
        if isinstance(rows.collect_schema()["token"], pl.List):
            rows = rows.explode("token")
        parts.append((file, f"{name}=", rows))
    if settings.baskets and baskets is not None:
        rows = files["baskets"].scan()
        rows = rows.select(item=pl.col(baskets.item), token=pl.col(baskets.basket))
        parts.append((files["baskets"], "basket=", rows))
    found = [
        file.collect(
            rows.drop_nulls()
            .select(
                pl.col("item").cast(kind), token=pl.lit(start) + pl.col("token").cast(pl.String)
            )
            .unique()
        )
        for file, start, rows in parts
    ]
    return pl.concat(found)


def similar_by_tokens(
    tokens: pl.DataFrame, count: int, without: pl.DataFrame, with_pairs: pl.DataFrame
) -> pl.DataFrame:
    """Return the most similar items with pairs of those without: item, similar, similarity.

    Args:
        tokens: ``item``, ``token``, distinct.
        count: Similar items of each.
        without: Items that ask.
        with_pairs: Items that may be found.
    """
    num_items = tokens["item"].n_unique()
    weight = pl.lit(math.log(num_items + 1)) - pl.len().over("token").cast(pl.Float64).log()
    weighted = tokens.with_columns(weight=weight, many=pl.len().over("token"))
    norm = pl.col("weight").pow(2).sum().over("item").sqrt()
    weighted = weighted.with_columns(pl.col("weight") / norm).filter(pl.col("many") <= MAX_ITEMS)
    own = weighted.join(without, on="item", how="semi")
    others = weighted.join(with_pairs, on="item", how="semi").select(
        "token", similar="item", other="weight"
    )
    parts = []
    for first in range(0, len(without), PART):
        asked = own.join(without.slice(first, PART), on="item", how="semi")
        both = asked.join(others, on="token").with_columns(
            similarity=pl.col("weight") * pl.col("other")
        )
        summed = both.group_by("item", "similar").agg(similarity=summed_similarity())
        ranked = summed.sort("item", "similarity", "similar", descending=[False, True, False])
        parts.append(ranked.group_by("item", maintain_order=True).head(count))
    kind = without["item"].dtype
    nothing = pl.DataFrame(schema={"item": kind, "similar": kind, "similarity": pl.Float64})
    return pl.concat([nothing, *parts])


def similar_by_vectors(
    file: TableFile, settings: Synthetic, without: pl.DataFrame, with_pairs: pl.DataFrame
) -> pl.DataFrame:
    """Return the most similar items with pairs of those without; see :func:`similar_by_tokens`.

    Items that have no vector ask for nothing and are not found; nor are those that are not alike.

    Raises:
        RecembError: If a column is missing or vectors differ in length or are not finite.
    """
    given, kind = settings.vectors, without["item"].dtype
    assert given is not None
    file.require([given.item, given.vector])
    vector = values_of(file, given.vector, given.separator)
    if file.is_text:
        # What is no number becomes null, and is refused as what is not finite.
        vector = vector.cast(pl.List(pl.Float32), strict=False)
    rows = file.collect(
        file.scan().select(item=pl.col(given.item).cast(kind), vector=vector)
    ).unique("item", keep="first", maintain_order=True)
    lengths = rows["vector"].list.len()
    if lengths.null_count() or lengths.n_unique() != 1:
        raise RecembError(
            f"{file.path}: column {given.vector!r}: vectors must be equally long, got lengths "
            f"{sorted(lengths.unique().to_list(), key=str)[:5]}; fix the file"
        )
    asked, found = (rows.join(side, on="item", how="semi") for side in (without, with_pairs))
    asked_AD, found_VD = (
        F.normalize(torch.tensor(one["vector"].list.to_array(lengths[0]).to_numpy()).float(), dim=1)
        for one in (asked, found)
    )
    if not bool(asked_AD.isfinite().all() and found_VD.isfinite().all()):
        raise RecembError(f"{file.path}: column {given.vector!r}: numbers must be finite; fix them")
    parts = []
    for first in range(0, len(asked), PART):
        best = (asked_AD[first : first + PART] @ found_VD.t()).topk(
            min(settings.num_similar, len(found)), 1
        )
        items = asked["item"][first : first + PART]
        count = best.indices.shape[1]
        parts.append(
            pl.DataFrame(
                {
                    "item": items.gather(
                        pl.arange(0, len(items), eager=True).repeat_by(count).explode()
                    ),
                    "similar": found["item"].gather(best.indices.flatten().numpy()),
                    "similarity": best.values.flatten().double().numpy(),
                }
            )
        )
    nothing = pl.DataFrame(schema={"item": kind, "similar": kind, "similarity": pl.Float64})
    return pl.concat([nothing, *parts]).filter(pl.col("similarity") > 0)
