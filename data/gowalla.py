"""Gowalla check-ins: 29,858 users, 40,981 places, the split of NGCF and LightGCN.

810,128 pairs for training, of which the last fifth of each user's is validation, and 217,242 for
the test.

The test is no random fifth, though papers say so: its places are on average checked into more often
(91 pairs of training against 75; places of more than 500 pairs have 30 % of theirs in the test),
and those at the end of a user's list in the training file are the most like those of the user's
test, as if the list were in order of time and the test what came after it. So validation is cut off
its end, in the same share (docs/graphs.md has what a random cut did).

Source: Cho, Myers and Leskovec, "Friendship and Mobility", KDD 2011; the split is that of Wang et
al., "Neural Graph Collaborative Filtering", SIGIR 2019, arXiv:1905.08108.
"""

from pathlib import Path

from recemb.data.cache import prepared_folder
from recemb.data.files import cache_root, find_raw
from recemb.data.interactions import FORMAT, InteractionData, TrainOn, write_parts
from recemb.data.raw_files import read_raw

VALIDATION_SHARE = 0.2


def prepare(source: Path, folder: Path, train_on: TrainOn) -> Path:
    """Write the files; return their folder. Nothing is written a second time.

    Args:
        source: Holds ``train.parquet`` and ``test.parquet``.
        folder: Where prepared data lives; see :func:`recemb.data.cache.prepared_folder`.
        train_on: Whether validation is held out of training.

    Raises:
        RecembError: If a source file is missing.
    """
    names = ("train.parquet", "test.parquet")
    source = find_raw(source, names, "Gowalla")
    paths = [source / name for name in names]

    def write(new: Path) -> None:
        # Pairs are in the published order, which the split follows.
        given, test = (
            read_raw(path, {"user": "integers", "item": "integers"})
            .select("user", "item")
            .unique(maintain_order=True)
            for path in paths
        )
        write_parts(given, test, VALIDATION_SHARE, train_on, new, paths[0])

    settings = {"validation_share": VALIDATION_SHARE, "train_on": train_on}
    return prepared_folder(folder, f"gowalla-{FORMAT}", paths, settings, write)


class Gowalla(InteractionData):
    """Gowalla, prepared on first use into the cache folder.

    Args:
        source: Folder of the raw files, in the current folder or ``$RECEMB_DATA``; by default
            ``gowalla``.
        train_on: ``train``: the last fifth of each user's training pairs is validation; ``all``:
            they are training, and the last epoch is tested.
        batch_size: Pairs per training batch.
        eval_batch_size: Pairs per batch of the other stages.
        seed: Of the order of the training rows; the split has a fixed one of its own.
    """

    def __init__(
        self,
        *,
        source: str | None = None,
        train_on: TrainOn = "train",
        batch_size: int = 8192,
        eval_batch_size: int = 65_536,
        seed: int = 1,
    ) -> None:
        self.source = Path(source or "gowalla")
        super().__init__(
            folder=cache_root(),
            train_on=train_on,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Write the prepared files unless they are there."""
        self.folder = prepare(self.source, cache_root(), self.train_on)
