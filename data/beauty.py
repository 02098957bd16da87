"""Amazon Beauty, 5-core: 22,363 users, 12,101 items, 198,502 actions, with items' attributes.

Leave one out, all items ranked. An item's attributes are its categories and brand, numbered
together; the first is its most specific category, the last its brand or widest one.

Source: the form of Zhou et al., "S3-Rec", CIKM 2020, arXiv:2008.07873; McAuley et al., SIGIR 2015.
"""

from pathlib import Path

from recemb.data.cache import prepared_folder
from recemb.data.columns import AttributeFile, ListColumn
from recemb.data.files import cache_root, find_raw
from recemb.data.raw_files import read_raw
from recemb.data.sequences import FORMAT, ITEMS, SEQUENCE, SequenceData, leave_one_out, write_parts


def prepare(source: Path, folder: Path, max_length: int) -> Path:
    """Write the files; return their folder. Nothing is written a second time.

    Args:
        source: Holds ``Beauty.parquet`` and ``Beauty_item2attributes.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.
        max_length: Of histories.

    Raises:
        RecembError: If a source file is missing.
    """
    names = ("Beauty.parquet", "Beauty_item2attributes.parquet")
    source = find_raw(source, names, "Amazon Beauty")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        rows = read_raw(paths[0], {"items": "lists"})
        keys = rows.get_column("user", default=None)
        items = read_raw(paths[1], {"item": "integers", "attributes": "lists"})
        write_parts(leave_one_out(rows["items"], max_length, keys), items, new, paths[0])

    settings = {"max_length": max_length}
    return prepared_folder(folder, f"beauty-{FORMAT}", paths, settings, write)


class Beauty(SequenceData):
    """Amazon Beauty, prepared on first use into the cache folder.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``beauty``.
        max_length: Keep the last so many items of a history.
        batch_size: Sequences per training batch.
        eval_batch_size: Rows per batch of the other stages.
        seed: Of the order of the training rows.
    """

    keys = {SEQUENCE: "user"}

    def __init__(
        self,
        *,
        source: str | None = None,
        max_length: int = 50,
        batch_size: int = 256,
        eval_batch_size: int = 1024,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "beauty")
        super().__init__(
            folder=cache_root(),
            attributes=AttributeFile(path=ITEMS, key="item", lists={"attributes": ListColumn()}),
            max_length=max_length,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root(), self.max_length)
