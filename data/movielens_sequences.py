"""MovieLens-1M as sequences: 6,040 users, 3,416 movies, 999,611 ratings in the order of time.

Leave one out, all movies ranked: the statistics and the protocol of SASRec and BERT4Rec. A movie's
attributes are its genres and year.

Source: Harper and Konstan, "The MovieLens Datasets", ACM TiiS 2015.
"""

from pathlib import Path

from recemb.data.cache import prepared_folder
from recemb.data.columns import AttributeFile, IdColumn, ListColumn
from recemb.data.files import cache_root, find_raw
from recemb.data.movielens import read_movies
from recemb.data.raw_files import read_raw
from recemb.data.sequences import FORMAT, ITEMS, SEQUENCE, SequenceData, leave_one_out, write_parts


def prepare(source: Path, folder: Path, max_length: int) -> Path:
    """Write the files; return their folder. Nothing is written a second time.

    Args:
        source: Holds ``sequences_5core.parquet`` and ``movies.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.
        max_length: Of histories.

    Raises:
        RecembError: If a source file is missing.
    """
    names = ("sequences_5core.parquet", "movies.parquet")
    source = find_raw(source, names, "MovieLens-1M")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        rows = read_raw(paths[0], {"items": "lists"})
        keys = rows.get_column("user", default=None)
        movies = read_movies(paths[1]).rename({"movie": "item"})
        write_parts(leave_one_out(rows["items"], max_length, keys), movies, new, paths[0])

    settings = {"max_length": max_length}
    return prepared_folder(folder, f"movielens1m-{FORMAT}", paths, settings, write)


class MovieLensSequences(SequenceData):
    """MovieLens-1M's sequences, prepared on first use into the cache folder.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``ml-1m``.
        max_length: Keep the last so many movies of a history; longer training sequences are cut in
            pieces.
        batch_size: Sequences per training batch.
        eval_batch_size: Rows per batch of the other stages.
        seed: Of the order of the training rows.
    """

    keys = {SEQUENCE: "user"}

    def __init__(
        self,
        *,
        source: str | None = None,
        max_length: int = 200,
        batch_size: int = 64,
        eval_batch_size: int = 512,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "ml-1m")
        super().__init__(
            folder=cache_root(),
            attributes=AttributeFile(
                path=ITEMS,
                key="item",
                categorical={"year": IdColumn()},
                lists={"genres": ListColumn()},
            ),
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root(), self.max_length)
