"""MovieLens-1M in the layout that FuxiCTR's LongCTR loader reads, with its dataset configuration.

The loader wants rows that are integers already, a sequence for each user, and an item corpus:

- ``train``, ``valid``, ``test``: ``user_index``, ``item_index``, ``seq_len``, the user's features
  and the label. A row's history is the first ``seq_len`` items of its user's sequence; the loader
  itself cuts it to the last ``max_len`` of them.
- ``user_info``: ``full_item_seq``, one row for each ``user_index``.
- ``item_info``: ``item_index`` and the features of an item; row 0 is the padding item, all zeros.

Index 0 is padding everywhere, so the values of a feature start at 1. As a script it takes the
prepared folder and the folder to write; a process of its own keeps its memory out of that of the
training.
"""

import json
import sys
from pathlib import Path

import polars as pl

DATASET = "movielens1m"
USER_FEATURES = ("user", "gender", "age", "occupation", "zip")
COLUMNS = "columns.json"
"""The user's and item's columns as FuxiCTR's dataset configuration describes them."""
PARTS = {"train": "train", "validation": "valid", "test": "test"}
"""Our names of the parts, and those of FuxiCTR."""


def write_layout(prepared: Path, folder: Path) -> None:
    """Write the layout of the prepared data into ``folder``; what is there whole is kept.

    Args:
        prepared: What ``data.movielens.prepare`` returned.
        folder: Becomes FuxiCTR's folder of the data set; its ``columns.json`` is written last.

    Raises:
        ValueError: If a history that the loader would build differs from the prepared one.
    """
    if (folder / COLUMNS).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    movies, item_columns = item_corpus(pl.read_parquet(prepared / "movies.parquet", glob=False))
    rows = pl.concat(
        pl.read_parquet(prepared / f"{part}.parquet", glob=False).with_columns(part=pl.lit(name))
        for part, name in PARTS.items()
    )
    # The parts follow each other in time within a user, so this order is the user's order.
    rows = rows.sort("user", maintain_order=True)
    rows = rows.join(movies.select("movie", "item_index"), on="movie", maintain_order="left")
    positives_before = pl.col("label").cast(pl.Int64).cum_sum().over("user") - pl.col("label")
    rows = rows.with_columns(seq_len=positives_before)
    sequences = user_sequences(rows)
    check_histories(rows, sequences, movies)
    coded = rows.with_columns(
        pl.col(name).rank("dense").cast(pl.Int64) for name in USER_FEATURES
    ).with_columns(user_index=pl.col("user") - 1)
    kept = ("user_index", "item_index", "seq_len", *USER_FEATURES, "label")
    for name in PARTS.values():
        part = coded.filter(pl.col("part") == name).select(pl.col(kept).cast(pl.Int64))
        part.write_parquet(folder / f"{name}.parquet")
    sequences.select("full_item_seq").write_parquet(folder / "user_info.parquet")
    movies.drop("movie").write_parquet(folder / "item_info.parquet")
    user_columns = [category(name, "user", largest(coded[name]) + 1) for name in USER_FEATURES]
    (folder / COLUMNS).write_text(json.dumps(user_columns + item_columns, indent=2))


def item_corpus(movies: pl.DataFrame) -> tuple[pl.DataFrame, list[dict[str, object]]]:
    """Return the corpus, its padding item first, and the FuxiCTR columns of an item.

    The corpus keeps the column ``movie`` (0 for the padding item) for joins.
    """
    genres = sorted(set(movies["genres"].explode()))
    longest = largest(movies["genres"].list.len())
    code = {name: place for place, name in enumerate(genres, start=1)}
    padded = [
        [code[name] for name in names] + [0] * (longest - len(names)) for names in movies["genres"]
    ]
    corpus = movies.select(
        "movie",
        item_index=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
        item_id=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
        genres=pl.Series(padded),
        year=pl.col("year").rank("dense").cast(pl.Int64),
    )
    padding = pl.DataFrame(
        {"movie": [0], "item_index": [0], "item_id": [0], "genres": [[0] * longest], "year": [0]},
        schema=corpus.schema,
    )
    columns = [
        category("item_id", "item", len(movies) + 1),
        category("genres", "item", len(genres) + 1) | {"type": "sequence", "max_len": longest},
        category("year", "item", largest(corpus["year"]) + 1),
    ]
    return pl.concat([padding, corpus]), columns


def user_sequences(rows: pl.DataFrame) -> pl.DataFrame:
    """Return ``user`` and ``full_item_seq``, the items of the user's positive rows in order."""
    positives = pl.col("item_index").filter(pl.col("label") == 1)
    return rows.group_by("user", maintain_order=True).agg(full_item_seq=positives)


def check_histories(rows: pl.DataFrame, sequences: pl.DataFrame, movies: pl.DataFrame) -> None:
    """Raise a ValueError unless the loader's cut gives the prepared history of every row."""
    length = largest(rows["history_movie"].list.len())
    built = (
        rows.select("user", "seq_len")
        .join(sequences, on="user", maintain_order="left")
        .select(pl.col("full_item_seq").list.head(pl.col("seq_len")).list.tail(length))
    )
    movie_of = movies["movie"]
    found = movie_of.gather(built["full_item_seq"].explode().drop_nulls())
    expected = rows["history_movie"].explode().drop_nulls()
    same_lengths = (built["full_item_seq"].list.len() == rows["history_movie"].list.len()).all()
    if not same_lengths or not (found.cast(pl.Int64) == expected.cast(pl.Int64)).all():
        raise ValueError("prepared histories: they are not the last positives of each user")


def largest(values: pl.Series) -> int:
    """Return the largest of integer ``values``."""
    return int(values.to_numpy().max())


def category(name: str, source: str, vocab_size: int) -> dict[str, object]:
    """Return a categorical column of FuxiCTR; ``source`` "item" puts it into the item vector."""
    return {
        "name": name,
        "active": True,
        "dtype": "int",
        "type": "categorical",
        "source": source,
        "vocab_size": vocab_size,
    }


def dataset_configuration(folder: Path) -> dict[str, object]:
    """Return the dataset configuration of the layout in ``folder``.

    Like those that FuxiCTR ships for LongCTR it says ``rebuild_dataset: False`` and gives
    vocabulary sizes: FuxiCTR's own feature processor cannot encode an item corpus.
    """
    columns = json.loads((folder / COLUMNS).read_text())
    meta = [
        {"name": name, "active": True, "dtype": "int", "type": "meta"}
        for name in ("user_index", "item_index", "seq_len")
    ]
    paths = {
        "train_data": "train",
        "valid_data": "valid",
        "test_data": "test",
        "user_info": "user_info",
        "item_info": "item_info",
    }
    return {
        "data_root": str(folder.parent),
        "data_format": "parquet",
        **{key: str(folder / f"{name}.parquet") for key, name in paths.items()},
        "rebuild_dataset": False,
        "feature_cols": meta + columns,
        "label_col": {"name": "label", "dtype": "float"},
    }


if __name__ == "__main__":
    write_layout(Path(sys.argv[1]), Path(sys.argv[2]))
