"""Plain text: JSON lines or lines of text, also compressed (gzip, bzip2, xz, Zstandard).

Lines of a plain file are found by offset. A compressed file can only be read forward: reading in
order, as `ofa_jax.prepare` does, passes it once; a step back begins again, so prepare compressed
text before training on it.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import lzma
import os
import threading
import zlib
from typing import Any

from ofa_jax.data.sources import lines, split_paths
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.example import Example, FileRecords, ends_of
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.data.sources.values import text
from ofa_jax.schema import parse_json, require_known

FORMS = ("jsonl", "txt")

# Ending of a compressed file to its first bytes; either says that it is one.
_COMPRESSED = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ", ".zst": b"\x28\xb5\x2f\xfd"}
_MARK = "\ufeff".encode()
# Bytes of the longest line of a compressed file, and of blank lines in a row: a few of the file's
# bytes can stand for gigabytes.
LONGEST_LINE = 1 << 24


@dataclasses.dataclass(frozen=True)
class TextSource:
    """One example of type `text` per line that is not blank.

    Attributes:
      paths: the files; `*` and commas are allowed.
      form: `jsonl` (an object per line) or `txt`.
      key: key of the text in an object.
      dataset: name of the data set.
    """

    paths: split_paths.Paths
    form: str = "jsonl"
    key: str = "text"
    dataset: str = ""

    def __post_init__(self) -> None:
        require_known("form of text", self.form, FORMS)

    def open(self, split: str) -> TextRecords:
        """Counts the lines of a split; compressed files are read through for that.

        Raises:
          ValueError: a file is missing, empty, damaged, or one JSON array.
        """
        paths = split_paths.files(self.paths, split, f"texts ({self.form})")
        counts = [_count(path) for path in paths]
        if self.form == "jsonl":
            for path, count in zip(paths, counts):
                if count and _line(path, 0).lstrip().startswith(b"["):
                    raise SourceError(
                        f"{path} is one JSON array, not an object per line; "
                        f"jq -c '.[]' {path} makes lines of it"
                    )
        return TextRecords(paths, ends_of(counts), self)


@dataclasses.dataclass(frozen=True)
class TextRecords(FileRecords):
    """Access to the texts of some files; random where they are not compressed.

    Attributes:
      source: how lines become examples.
    """

    source: TextSource

    def __getitem__(self, index: int) -> Example:
        path, position = self.place(index)
        line = _line(path, position)
        try:
            found = line.decode("utf-8").replace("\0", "")
            if self.source.form == "jsonl":
                found = self._text(parse_json(found, "the line"))
        except ValueError as error:
            raise SourceError(f"{path}, text {position + 1}: {error}") from error
        name = os.path.basename(path)
        example = {"image_id": f"{name}:{position}", "text": found, "type": "text"}
        return {**example, "dataset": self.source.dataset} if self.source.dataset else example

    def _text(self, entry: object) -> str:
        if not isinstance(entry, dict) or self.source.key not in entry:
            raise SourceError(f"the line is no object with a text under {self.source.key!r}")
        return text(entry[self.source.key], f"its {self.source.key!r}")


@cached_by_file(256)
def _compression(path: str) -> str | None:
    """Ending that stands for how a file is compressed; None where it is not."""
    with open(path, "rb") as file:
        head = file.read(8)
    by_head = (ending for ending, start in _COMPRESSED.items() if head.startswith(start))
    by_name = (ending for ending in _COMPRESSED if path.lower().endswith(ending))
    return next(by_head, None) or next(by_name, None)


@cached_by_file(256)
def _count(path: str) -> int:
    if _compression(path) is None:
        return len(lines.spans(path))
    count = 0
    with _Cursor(path) as cursor:
        while cursor.next() is not None:
            count += 1
    if not count:
        raise SourceError(f"{path} is empty")
    return count


def _line(path: str, position: int) -> bytes:
    if _compression(path) is None:
        return lines.line(path, position)
    return _cursor(path, os.getpid()).line(position)


class _Cursor:
    """A compressed file and how far it has been read."""

    def __init__(self, path: str):
        self._path = path
        self._lock = threading.Lock()
        self._file: io.BufferedReader | None = None
        self._position = 0
        self._last = b""

    def __enter__(self) -> _Cursor:
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if self._file is not None:
            self._file.close()

    def next(self) -> bytes | None:
        """The next line that is not blank, None at the end."""
        if self._file is None:
            self._file = io.BufferedReader(opened(self._path), 1 << 20)
        try:
            for line in self._file:
                line = line if self._position else line.removeprefix(_MARK)
                if line := line.rstrip(b"\r\n"):
                    self._position += 1
                    self._last = line
                    return line
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise SourceError(
                f"{self._path}, text {self._position + 1}: the file is cut off or damaged: {error}"
            ) from error
        return None

    def line(self, position: int) -> bytes:
        """The line at a position, from 0; begins again where it lies behind."""
        with self._lock:
            if self._file is not None and position < self._position - 1:
                self._file.close()
                self._file, self._position = None, 0
            while self._position <= position:
                if self.next() is None:
                    raise SourceError(f"{self._path} has changed: it ends at {self._position}")
            return self._last


@cached_by_file(64)
def _cursor(path: str, process: int) -> _Cursor:
    """A cursor; `process` keeps a forked child from moving its parent's."""
    del process
    return _Cursor(path)


def opened(path: str) -> Any:
    """The bytes of a file, compressed or not, as a binary file to read forward."""
    if (ending := _compression(path)) is None:
        return open(path, "rb")
    readers = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if ending in readers:
        return _Unpacked(path, readers[ending](path, "rb"))
    import pyarrow

    # pyarrow brings the zstd decoder; gzip it would read as well, but stops at the first member.
    return _Unpacked(path, pyarrow.CompressedInputStream(pyarrow.OSFile(path), "zstd"))


class _Unpacked(io.RawIOBase):
    """What a decoder gives, as Python's own file type, as long as it has lines."""

    def __init__(self, path: str, stream: Any):
        self._path = path
        self._stream = stream
        self._unended = self._blank = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        end = data.rfind(b"\n")
        self._unended = len(data) - end - 1 if end >= 0 else self._unended + len(data)
        self._blank = 0 if data.strip() else self._blank + len(data)
        if max(self._unended, self._blank) > LONGEST_LINE:
            raise SourceError(
                f"{self._path}: {LONGEST_LINE:,} bytes without a line's end, or without a text"
            )
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()
