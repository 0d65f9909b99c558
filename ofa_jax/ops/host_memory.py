"""Keeps a CPU process from paying for the same memory at every step.

XLA's CPU backend allocates the scratch memory of a step anew each time. glibc serves such large
blocks with fresh pages and gives them back afterwards, so each training step touches tens of
thousands of new pages, which the kernel clears: about a sixth of a step (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory in the process and to reuse it.

    For entry points that train on a CPU, before the first allocation of size; the process then
    holds its peak memory until it ends, what the compiler needed included. Does nothing elsewhere
    than on Linux with glibc.

    Returns:
      Whether the settings were accepted.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # One arena: the others are limited to 64 MiB and fall back to fresh pages beyond.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))
    return all(mallopt(option, ctypes.c_int(value)) == 1 for option, value in settings)
