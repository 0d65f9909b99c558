"""Keeps a CPU process from paying for the same memory at every step.

XLA's CPU backend allocates the scratch memory of a step anew each time. glibc serves such large
blocks with fresh pages and gives them back afterwards, so each training step touches tens of
thousands of new pages, which the kernel clears: about a sixth of a step (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
# Whether the process keeps what it frees; the C library cannot be asked.
_kept = False


def only_cpu() -> bool:
    """Whether JAX will run on the CPU, told without starting its backends.

    True where `JAX_PLATFORMS` names the CPU first, or where no plugin of an accelerator is
    installed.
    """
    if platforms := os.environ.get("JAX_PLATFORMS", ""):
        return platforms.split(",")[0] == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def keep_freed_memory() -> bool:
    """Tells glibc to keep freed memory in the process and to reuse it.

    For entry points that train on a CPU, before JAX starts its threads: a thread that has memory of
    its own by then goes on as before. The process holds the memory of its largest step until it
    ends. Does nothing elsewhere than on Linux with glibc.

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
    global _kept
    _kept = all(mallopt(option, ctypes.c_int(value)) == 1 for option, value in settings)
    return _kept


def give_back_freed_memory() -> None:
    """Gives what is free now back to the system, where `keep_freed_memory` keeps it.

    For after a compilation: what the compiler needed is in pieces that no step's scratch memory
    fits into, a seventh of the highest memory of a training (benchmarks/RESULTS.md).
    """
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
