"""How the C library hands out memory on CPUs."""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h's M_...
_MOST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors give back, for the next ones; returns whether that could be set.

    glibc asks the system for every block above 32 MiB anew, and the system clears each of its pages when it is first
    touched: at every step the same activations, which costs a training on CPUs up to a quarter of its time. The
    process does not grow above its peak by this; it stays there.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _MOST), (_TOP_PAD, 64 << 20)))
