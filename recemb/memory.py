"""Memory: keep what a training step frees, say how much a process has used, and write it readably.

A step allocates and frees the same few hundred megabytes again and again. glibc gives every block
above 32 MB back to the kernel at once, so that each step pays for fresh, zeroed pages: DIN on
MovieLens-1M trained 2.9 times slower for it on 2 cores (``benchmarks/allocator.py``).
"""

import ctypes
import os
import platform
import resource

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Tell the C allocator to keep freed blocks for reuse; return whether it did.

    Peak memory stays that of the largest step. Nothing happens outside glibc, or where the
    environment already holds a ``MALLOC_`` setting or preloads another allocator.
    """
    chosen = [name for name in os.environ if name.startswith("MALLOC_") or name == "LD_PRELOAD"]
    if platform.libc_ver()[0] != "glibc" or chosen:
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena: the backward pass has a thread of its own, which should reuse what the forward
    # pass freed. No mmap: a mapped block goes back to the kernel when freed.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1))
    return all(mallopt(name, value) for name, value in settings)


def peak_memory_bytes() -> int:
    """Return the largest resident size of this process so far, plus that of its GPU tensors."""
    scale = 1 if platform.system() == "Darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated()
    return peak


def human_bytes(count: int) -> str:
    """Return bytes with a unit.

    Example:
        >>> human_bytes(1_500_000)
        '1.50 MB'
    """
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
