"""Loader: an endless supply of batches in a reproducible order that can be resumed in the middle.

An epoch visits the row groups in a random order, a *window* of them at a time; the rows of a window
are permuted together. Memory is one window (and the next one's row groups while they are read), not
the file; a window that holds the whole file is a perfect shuffle. Rows left over at the end of a
window open the next one, so every batch but the last is full.

Batches are made by a thread of their own, a few ahead of the model: reading, looking up and
indexing release Python's lock.
"""

import atexit
import functools
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import xxhash
from tqdm import tqdm

from recemb.checksums import checksum
from recemb.data.batch import Batch, batch_of
from recemb.data.chunk import Chunk, concatenate
from recemb.data.encode import Encoder
from recemb.data.files import PROGRESS_ROWS, TableFile
from recemb.errors import RecembError

WHOLE_BYTES = 2**30
"""Of files up to this size every byte is part of what a resumed training compares."""
END_BYTES = 2**22
"""Of larger ones so much of both ends: the last bytes of parquet tell its rows and their range."""


class Loader:
    """Batches of one file.

    Args:
        file: The rows.
        encoder: Turns row groups into chunks.
        batch_size: Samples per batch; the last one of an epoch may be smaller.
        shuffle_rows: Rows permuted together; 0 keeps the order of the file.
        seed: Together with the epoch's number, all that the order depends on.
        cache_bytes: Encoded row groups are kept in memory up to this size.
        part: This process's number and how many there are; each gets its part of every batch.
        chosen: Which rows of the file there are (default: all): from the number of a row group's
            first row and its size, the places of its rows.

    Raises:
        RecembError: If no row is chosen.

    A Lightning trainer drives the three methods of its protocol for resumable loaders:
    ``state_dict``, ``load_state_dict`` and, through ``sampler``, ``set_epoch``.
    """

    batch_sampler = None
    """There is none; the trainer reads the attribute of everything that has a ``sampler``."""

    def __init__(
        self,
        file: TableFile,
        encoder: Encoder,
        *,
        batch_size: int,
        shuffle_rows: int,
        seed: int,
        cache_bytes: int,
        part: tuple[int, int] = (0, 1),
        chosen: Callable[[int, int], torch.Tensor] | None = None,
    ) -> None:
        self.part = part
        self.group_sizes: list[int] = file.group_sizes
        self._chosen: list[torch.Tensor] | None = None
        if chosen is not None:
            self._chosen = [
                chosen(file.first_row(group), size) for group, size in enumerate(file.group_sizes)
            ]
            self.group_sizes = [len(rows) for rows in self._chosen]
            if not sum(self.group_sizes):
                raise RecembError(
                    f"{file.path}: no row is left of {file.num_rows}; hold out others"
                )
        self.file = file
        self.encoder = encoder
        self.batch_size = batch_size
        self.shuffle_rows = shuffle_rows
        self.seed = seed
        self.cache_bytes = cache_bytes
        self.names = [*encoder.columns.categorical, *encoder.columns.lists]
        self.epoch = 0
        self._cache: dict[int, Chunk] = {}
        self._cached_bytes = 0
        self._delivered = 0
        self._resume_at: tuple[int, int] | None = None

    def __len__(self) -> int:
        return math.ceil(sum(self.group_sizes) / self.batch_size)

    @property
    def sampler(self) -> "Loader":
        """Return itself: where a trainer looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        if epoch != self.epoch:
            self._delivered = 0
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches have been delivered."""
        epoch, batches = self._resume_at or (self.epoch, self._delivered)
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration of that epoch start after the delivered batches."""
        self._resume_at = (state["epoch"], state["batches"])

    @functools.cached_property
    def order(self) -> dict[str, int | str]:
        """All that the order of the rows follows from, by what users know it as.

        A state of another order does not say which rows are left.
        """
        num_rows = sum(self.group_sizes)
        return {
            "data.init_args.batch_size": self.batch_size,
            "data.init_args.seed (seed_everything)": self.seed,
            "the number of training rows": num_rows,
            "data.init_args.shuffle_rows": min(self.shuffle_rows, num_rows),
            "the checksum of the training file": content_of(self.file.source),
        }

    def __iter__(self) -> Iterator[Batch]:
        # The body runs at the first next(), after the trainer has set the epoch.
        start = 0
        if self._resume_at is not None and self._resume_at[0] == self.epoch:
            start = self._resume_at[1]
        self._resume_at = None
        self._delivered = start
        for batch in ahead(self._batches(start), num_ahead=3):
            self._delivered += 1
            yield batch

    def fill_cache(self) -> None:
        """Encode, and so check, row groups until all are cached or the cache is full."""
        groups = range(len(self.group_sizes))
        quick = self.file.num_rows < PROGRESS_ROWS
        for group in tqdm(groups, f"reading {self.file.path.name}", disable=quick, leave=False):
            if self._cached_bytes >= self.cache_bytes:
                return
            self._chunk(group)

    def _batches(self, start: int) -> Iterator[Batch]:
        """Yield the batches of this epoch from number ``start`` on."""
        pin = torch.cuda.is_available()
        number = 0
        for window, order_N in self._windows():
            for rows_B in order_N.split(self.batch_size):
                if number >= start:
                    own, count = self.part
                    rows = window.take(rows_B.tensor_split(count)[own])
                    batch = batch_of(rows, self.names, len(rows_B))
                    yield batch.pin_memory() if pin else batch
                number += 1

    def _windows(self) -> Iterator[tuple[Chunk, torch.Tensor]]:
        """Yield the rows of each window and the order in which they are visited."""
        generator = torch.Generator().manual_seed(hash_of(self.seed, self.epoch))
        rest: list[Chunk] = []
        windows = self._plan(generator)
        for number, groups in enumerate(windows):
            window = concatenate([*rest, *(self._chunk(group) for group in groups)])
            if self.shuffle_rows:
                order_N = torch.randperm(len(window), generator=generator)
            else:
                order_N = torch.arange(len(window))
            full = len(window) - len(window) % self.batch_size
            if number == len(windows) - 1:
                full = len(window)
            if full:
                yield window, order_N[:full]
            rest = [window.take(order_N[full:])]

    def _plan(self, generator: torch.Generator) -> list[list[int]]:
        """Return the row groups of each window."""
        num_groups = len(self.group_sizes)
        if not self.shuffle_rows:
            return [[group] for group in range(num_groups)]
        windows: list[list[int]] = []
        rows = self.shuffle_rows
        for group in torch.randperm(num_groups, generator=generator).tolist():
            if rows >= self.shuffle_rows:
                windows.append([])
                rows = 0
            windows[-1].append(group)
            rows += self.group_sizes[group]
        return windows

    def _chunk(self, group: int) -> Chunk:
        if group in self._cache:
            return self._cache[group]
        frame = self.file.read(group, self.encoder.file_columns)
        chunk = self.encoder.encode(frame, self.file.first_row(group))
        if self._chosen is not None:
            chunk = chunk.take(self._chosen[group])
        if self._cached_bytes + chunk.num_bytes <= self.cache_bytes:
            self._cache[group] = chunk
            self._cached_bytes += chunk.num_bytes
        return chunk


def content_of(path: Path) -> str:
    """Return a checksum of a file; of a large one, of its size and its two ends."""
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return checksum(path)
    with path.open("rb") as file:
        first = file.read(END_BYTES)
        file.seek(-END_BYTES, os.SEEK_END)
        return xxhash.xxh3_128(first + file.read() + str(size).encode()).hexdigest()


def hash_of(seed: int, epoch: int) -> int:
    """Return one seed for (seed, epoch) such that neighbours have nothing in common."""
    return (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9) % 2**63


def ahead(items: Iterator[Batch], num_ahead: int) -> Iterator[Batch]:
    """Yield ``items``, made by a thread that runs up to ``num_ahead`` items in front.

    An exception in the thread is raised here; leaving the loop early ends the thread, and so does
    the end of the program (a thread still inside torch then would abort the process).
    """
    made: queue.Queue[tuple[Batch | None, BaseException | None]] = queue.Queue(num_ahead)
    stop = threading.Event()

    def put(entry: tuple[Batch | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                made.put(entry, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((None, None))
        except BaseException as error:  # the consumer raises it
            put((None, error))

    thread = threading.Thread(target=work, name="batches", daemon=True)

    def end() -> None:
        stop.set()
        thread.join()

    thread.start()
    atexit.register(end)
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        atexit.unregister(end)
        end()
