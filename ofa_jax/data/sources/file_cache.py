"""Caches of what was read from files: another state of a file is another entry."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def stamp(path: str) -> tuple[int, int, int]:
    """What changes when a file is written anew: inode, bytes, time in ns; zeros where none is."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns


def cached_by_file(maxsize: int) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Caches a function whose first argument is a path, as long as the file stays as it is.

    Args:
      maxsize: results that are kept.

    Returns:
      A decorator; the further arguments must be hashable.
    """

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        @functools.lru_cache(maxsize)
        def kept(state: tuple[int, int, int], path: str, *further: object) -> _Result:
            del state
            return function(path, *further)

        @functools.wraps(function)
        def look_up(path: str, *further: object) -> _Result:
            return kept(stamp(path), path, *further)

        return look_up

    return decorate
