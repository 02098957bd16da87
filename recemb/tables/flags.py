"""Flags: a bit for each id or element of a table, as text in its configuration."""

import base64
import binascii
import functools
import zlib

import numpy as np
import torch
from torch import Tensor

from recemb.errors import RecembError


def packed(is_kept_X: Tensor) -> str:
    """Return flags as text: a bit each, compressed."""
    bits = np.packbits(is_kept_X.cpu().numpy(), bitorder="little").tobytes()
    return base64.b64encode(zlib.compress(bits, 9)).decode()


@functools.lru_cache(maxsize=64)
def unpacked(where: str, text: str, total: int) -> Tensor:
    """Return flags: (total,) bool.

    Args:
        where: Starts the message of an error: the table and the setting.
        text: Of :func:`packed`.
        total: How many there must be.

    Raises:
        RecembError: If the text is none of :func:`packed` for so many.
    """
    try:
        bits = zlib.decompress(base64.b64decode(text, validate=True))
    except (binascii.Error, zlib.error) as error:
        raise RecembError(f"{where} is damaged ({error}); search again") from None
    if len(bits) != -(-total // 8):
        raise RecembError(
            f"{where} must have a flag for each of {total:,}, got about {8 * len(bits):,}; it was "
            "found on other data, search again"
        )
    flags = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little", count=total)
    return torch.from_numpy(flags.astype(bool))
