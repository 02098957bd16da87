"""Budgets: numbers of bytes as people write them."""

import math
import re
from fractions import Fraction

from recemb.errors import RecembError

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_bytes(where: str, budget: int | str) -> int:
    """Return a number of bytes.

    Example:
        >>> parse_bytes("table 'a'", "1.5 MB")
        1500000
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kMGT]?B?)\s*", str(budget))
    try:
        assert match
        count = math.floor(Fraction(match[1]) * _UNITS[match[2]])
        assert count >= 1
    except (AssertionError, ValueError, KeyError):
        raise RecembError(
            f"{where}: a budget must be a number of bytes of at least 1, such as 160000 or "
            f"'160 kB', got {budget!r}"
        ) from None
    return count
