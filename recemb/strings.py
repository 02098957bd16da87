"""Strings: very many of them as two tensors, which a checkpoint holds and nothing unpickles.

Shapes: V strings, Q bytes of all of them in UTF-8.
"""

import functools
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from recemb.errors import RecembError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


class Strings:
    """A sequence of strings.

    Attributes:
        bytes_Q: The UTF-8 bytes of all strings, one string after the other; uint8.
        offsets_V1: (V + 1,) where each string starts, and the last one ends; int64.

    Example:
        >>> import polars as pl
        >>> Strings.of(pl.Series(["tea", ""])).series.to_list()
        ['tea', '']
    """

    def __init__(self, bytes_Q: Tensor, offsets_V1: Tensor) -> None:
        self.bytes_Q = bytes_Q
        self.offsets_V1 = offsets_V1

    @classmethod
    def of(cls, series: "pl.Series") -> "Strings":
        """Return the strings of a column without nulls."""
        import polars as pl  # late: see recemb/__init__.py
        import pyarrow as pa

        arrow = series.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        array = cast("pa.LargeStringArray", arrow.cast(pa.large_string()))
        _, starts, content = array.buffers()
        offsets = np.frombuffer(starts, np.int64, len(array) + 1, array.offset * 8)
        held = np.frombuffer(content, np.uint8) if content else np.empty(0, np.uint8)
        used = held[offsets[0] : offsets[-1]]
        return cls(torch.from_numpy(used.copy()), torch.from_numpy(offsets - offsets[0]))

    @classmethod
    def checked(cls, where: str, bytes_Q: Tensor, offsets_V1: Tensor, count: int) -> "Strings":
        """Return strings that were read from a file.

        Args:
            where: Starts the message of an error.
            bytes_Q: As the attribute.
            offsets_V1: As the attribute.
            count: How many there must be.

        Raises:
            RecembError: If the tensors are not ``count`` strings; nothing outside them is read.
        """
        import pyarrow as pa

        fits = (bytes_Q.dtype, offsets_V1.dtype) == (torch.uint8, torch.int64)
        fits = fits and bytes_Q.ndim == 1 and offsets_V1.shape == (count + 1,)
        if fits:
            low, high = int(offsets_V1[0]), int(offsets_V1[-1])
            fits = low == 0 and high == len(bytes_Q) and bool((offsets_V1.diff() >= 0).all())
        strings = cls(bytes_Q, offsets_V1)
        try:
            if fits:
                strings.array.validate(full=True)
        except pa.ArrowInvalid:
            fits = False
        if not fits:
            raise RecembError(f"{where}: its strings are damaged; get the file again")
        return strings

    @property
    def array(self) -> "pa.LargeStringArray":
        """The strings as Arrow has them, over the same memory."""
        import pyarrow as pa

        buffers = (pa.py_buffer(part.numpy()) for part in (self.offsets_V1, self.bytes_Q))
        return pa.LargeStringArray.from_buffers(len(self.offsets_V1) - 1, *buffers)

    @functools.cached_property
    def series(self) -> "pl.Series":
        """The strings as a column: (V,)."""
        import polars as pl

        return cast("pl.Series", pl.from_arrow(self.array))
