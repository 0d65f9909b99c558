"""Where the files of an uncompressed tar lie.

The standard library builds an object per member, 20,000 a second; a data set of images has tens of
millions. Here plain headers are read directly, several times as fast, and what is not plain (long
names, sparse files, other dialects) is left to the standard library.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from ofa_jax.data.sources.errors import SourceError

_BLOCK = 512
_END = bytes(_BLOCK)
_FILE_TYPES = (b"0", b"\0")
_DIRECTORY, _EXTENSION = b"5", b"x"
# Records of an extension that change what a plain header says; times and the like do not.
_CHANGING = (b" path=", b" size=", b" linkpath=", b" GNU.sparse")
_LARGEST_EXTENSION = 1 << 16


class Member(NamedTuple):
    """One file of a tar: its name, first byte and number of bytes."""

    name: str
    start: int
    size: int


class _NotPlainError(Exception):
    """A header that only the standard library reads."""


def members(path: str) -> list[Member]:
    """The files of a tar, in order.

    Raises:
      SourceError: cut off, damaged or compressed, or a file's size is negative.
    """
    try:
        found = list(_plain_members(path))
    except _NotPlainError:
        found = _all_members(path)
    size = os.path.getsize(path)
    for member in found:
        if member.start + member.size > size:
            raise SourceError(f"{path}, file {member.name}: the tar is cut off there")
    return found


def _all_members(path: str) -> list[Member]:
    try:
        with tarfile.open(path, "r:") as tar:
            found = []
            for one in tar:
                # The library would step back by it, to the same header again and again.
                if one.size < 0:
                    raise SourceError(f"{path}, file {one.name}: a size of {one.size} bytes")
                if one.isfile():
                    found.append(Member(one.name, one.offset_data, one.size))
            return found
    except SourceError:
        raise
    except (tarfile.TarError, EOFError, ArithmeticError, ValueError) as error:
        raise SourceError(
            f"{path} is cut off or not an uncompressed tar ({error}); unpack .tar.gz to .tar first"
        ) from error


def _plain_members(path: str) -> Iterator[Member]:
    """Members as long as every header is plain.

    Raises:
      _NotPlainError: one is not, or is damaged: the standard library then says what is wrong.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        position = 0
        while (header := os.pread(descriptor, _BLOCK, position)) != _END:
            entry_type, size = _type_and_size(header)
            start = position + _BLOCK
            if entry_type in _FILE_TYPES:
                yield Member(_name(header), start, size)
            elif entry_type == _EXTENSION and size <= _LARGEST_EXTENSION:
                extension = os.pread(descriptor, size, start)
                if any(record in extension for record in _CHANGING):
                    raise _NotPlainError
            elif entry_type != _DIRECTORY:
                raise _NotPlainError
            position = start + -(-size // _BLOCK) * _BLOCK
    finally:
        os.close(descriptor)


def _type_and_size(header: bytes) -> tuple[bytes, int]:
    """Fields of a POSIX header whose checksum is right."""
    if len(header) < _BLOCK or header[257:262] != b"ustar":
        raise _NotPlainError
    try:
        checksum = int(header[148:156].strip(b" \0"), 8)
        size = int(header[124:136].strip(b" \0"), 8)
    except ValueError as error:
        raise _NotPlainError from error
    # The sum is over the header with blanks in the place of the sum.
    if size < 0 or checksum != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise _NotPlainError
    return header[156:157], size


def _name(header: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (header[:100], header[345:500]))
    # The GNU dialect (a blank behind "ustar") keeps times where POSIX has the name's beginning.
    if prefix and header[262:263] == b"\0":
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")
