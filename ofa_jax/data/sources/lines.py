"""Random access to the lines of a text file, by byte offset.

A file is mapped into memory and scanned once for its line ends; reading a line slices it. TSV,
CSV and JSON-lines sources share this. Open maps and offsets are kept per process, so records
that name only their path pickle small.
"""

from __future__ import annotations

import mmap
import pathlib

import numpy as np

from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import cached_by_file

_CHUNK = 1 << 24
_NEWLINE, _RETURN = ord("\n"), ord("\r")


@cached_by_file(256)
def content(path: str) -> mmap.mmap:
    """The bytes of a file that is not empty, mapped."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@cached_by_file(256)
def spans(path: str) -> np.ndarray:
    """int64[lines, 2]: begin and end byte of each line that is not blank, without its line end.

    Raises:
      SourceError: the file is empty.
    """
    size = pathlib.Path(path).stat().st_size
    if size == 0:
        raise SourceError(f"{path} is empty")
    data = np.frombuffer(content(path), np.uint8)
    newlines = [
        begin + np.flatnonzero(data[begin : begin + _CHUNK] == _NEWLINE)
        for begin in range(0, size, _CHUNK)
    ]
    ends = np.concatenate([*newlines, [size]]).astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    returns = (ends > starts) & (data[np.maximum(ends, 1) - 1] == _RETURN)
    ends = ends - returns
    return np.stack([starts, ends], axis=1)[ends > starts]


def line(path: str, index: int) -> bytes:
    """The bytes of one line that is not blank, counted from 0.

    Raises:
      IndexError: there is no such line.
    """
    places = spans(path)
    if not 0 <= index < len(places):
        raise IndexError(f"{path} has {len(places)} lines, there is no number {index}")
    start, end = places[index]
    return content(path)[start:end]


def number(path: str, start: int) -> int:
    """Number, from 1, of the line that begins at byte `start`; for messages, since it counts."""
    memory = content(path)
    begins = range(0, start, _CHUNK)
    return 1 + sum(memory[begin : min(begin + _CHUNK, start)].count(b"\n") for begin in begins)
