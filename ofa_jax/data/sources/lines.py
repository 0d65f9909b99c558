"""Random access to the lines of a text file, by byte offset.

A file is mapped into memory and scanned once for its line ends; reading a line slices it. TSV and
JSON-lines sources share this. A byte-order mark is no part of the first line, and a file without
any newline has its lines between carriage returns. Open maps and offsets are kept per process, so
records that name only their path pickle small.
"""

from __future__ import annotations

import mmap
import pathlib

import numpy as np

from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import check_index
from ofa_jax.data.sources.file_cache import cached_by_file

_CHUNK = 1 << 24
_NEWLINE, _RETURN = ord("\n"), ord("\r")
_MARK = b"\xef\xbb\xbf"
# First bytes of what is no UTF-8 text, and what makes one of it.
_OTHERS = {
    b"\x1f\x8b": "compressed (gzip): unpack it with gunzip -k",
    b"BZh": "compressed (bzip2): unpack it with bunzip2 -k",
    b"\xfd7zXZ\x00": "compressed (xz): unpack it with unxz -k",
    b"\x28\xb5\x2f\xfd": "compressed (Zstandard): unpack it with unzstd",
    b"PK\x03\x04": "an archive (zip): unpack it with unzip",
    b"\xff\xfe": "UTF-16, not UTF-8: convert it with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8: convert it with iconv -f UTF-16 -t UTF-8",
}
# Bytes of a file by which its encoding is known.
_HEAD = 256


@cached_by_file(256)
def content(path: str) -> mmap.mmap:
    """The bytes of a file that is not empty, mapped."""
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def require_text(path: str) -> None:
    """Looks at a file's first bytes, for every format that is text: lines, JSON and CSV.

    Raises:
      SourceError: it is compressed, or no UTF-8; the message says what makes text of it.
    """
    with open(path, "rb") as file:
        first = file.read(_HEAD)
    what = next((what for start, what in _OTHERS.items() if first.startswith(start)), "")
    if not what and (encoding := utf16_without_mark(first)):
        what = f"{encoding}, not UTF-8: convert it with iconv -f {encoding} -t UTF-8"
    if what:
        raise SourceError(f"{path} is {what}", Reason.UNREADABLE_RECORD)


def utf16_without_mark(first: bytes) -> str:
    """The form of UTF-16 that the beginning of a file without byte-order mark is in, or "".

    Most characters of any table or JSON file have one byte of zeros there, always on the same side.
    """
    even, odd = (first[side::2].count(0) for side in (0, 1))
    few, many = len(first) // 64, len(first) // 5
    if odd > many and even <= few:
        return "UTF-16LE"
    return "UTF-16BE" if even > many and odd <= few else ""


@cached_by_file(256)
def spans(path: str) -> np.ndarray:
    """int64[lines, 2]: begin and end byte of each line that is not blank, without its line end.

    Raises:
      SourceError: the file is empty, compressed, or no UTF-8 by its first bytes.
    """
    size = pathlib.Path(path).stat().st_size
    if size == 0:
        raise SourceError(f"{path} is empty")
    require_text(path)
    memory = content(path)
    data, newline = np.frombuffer(memory, np.uint8), _newline(memory)
    newlines = [
        begin + np.flatnonzero(data[begin : begin + _CHUNK] == newline)
        for begin in range(0, size, _CHUNK)
    ]
    ends = np.concatenate([*newlines, [size]]).astype(np.int64)
    first = len(_MARK) if memory[: len(_MARK)] == _MARK else 0
    starts = np.concatenate([[first], ends[:-1] + 1])
    returns = (ends > starts) & (data[np.maximum(ends, 1) - 1] == _RETURN)
    ends = ends - returns
    return np.stack([starts, ends], axis=1)[ends > starts]


def line(path: str, index: int) -> bytes:
    """The bytes of one line that is not blank, counted from 0.

    Raises:
      IndexError: there is no such line.
    """
    places = spans(path)
    check_index(index, len(places))
    start, end = places[index]
    return content(path)[start:end]


def number(path: str, start: int) -> int:
    """Number, from 1, of the line that begins at byte `start`; for messages, since it counts."""
    memory = content(path)
    begins, newline = range(0, start, _CHUNK), bytes([_newline(memory)])
    return 1 + sum(memory[begin : min(begin + _CHUNK, start)].count(newline) for begin in begins)


def _newline(memory: mmap.mmap) -> int:
    return _NEWLINE if memory.find(b"\n") >= 0 or memory.find(b"\r") < 0 else _RETURN
