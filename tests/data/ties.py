"""The order of events at the same time, in plain Python: what data.events does with tensors."""

import xxhash

MASK = 2**64 - 1


def mix(value: int) -> int:
    """Return the SplitMix64 finaliser of 64 bits, as Steele, Lea and Flood publish it."""
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def raw(value: int | str) -> int:
    return xxhash.xxh64_intdigest(value.encode()) if isinstance(value, str) else value & MASK


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def tie(owner: int | str, item: int | str) -> int:
    """Return the number by which events of one owner and time are ordered."""
    return signed(mix(mix(raw(owner)) ^ raw(item)))


def owner_tie(owner: int | str) -> int:
    """Return the number by which owners are ordered that end at once."""
    return signed(mix(raw(owner)))
