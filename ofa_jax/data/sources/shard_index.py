"""Where each record of an ArrayRecord shard lies, for readers that fetch ranges of it.

The library array_record opens files of a file system only. A shard that `ofa_jax.prepare` wrote is
simple enough to be read without it: Riegeli chunks of one uncompressed record, one after the other;
then a chunk with one message per chunk (its offset) after one about the file; in the last block of
64 KiB a chunk with the offset of that. A header of 24 bytes stands at each multiple of 64 KiB, also
in the middle of a chunk. Riegeli's own hashes are not computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

BLOCK = 1 << 16
_BLOCK_HEADER = 24
_CHUNK_HEADER = 40
_MAGIC = 0x71930E704FDAE05E
# What is read at first: it holds the index of some thousand records too.
_TAIL = 4 * BLOCK


class ShardIndexError(ValueError):
    """The file is cut off, or not a shard as `ofa_jax.prepare` writes it."""


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in protobuf's encoding and the place behind it."""
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _numbers(message: bytes) -> dict[int, int | bytes]:
    """Fields of a protobuf message that has varints and bytes only."""
    fields: dict[int, int | bytes] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        value, place = _varint(message, place)
        if tag & 7 == 2:
            fields[tag >> 3], place = message[place : place + value], place + value
        elif tag & 7 == 0:
            fields[tag >> 3] = value
        else:
            raise ShardIndexError("its index has an unknown field")
    return fields


def chunk_records(data: bytes, begin: int) -> list[bytes]:
    """The records of a chunk.

    Args:
      data: bytes of the file that begin with the chunk; what follows it is left alone.
      begin: their offset in the file.

    Raises:
      ShardIndexError: no complete chunk of uncompressed records.
    """
    cuts = range(-begin % BLOCK, len(data), BLOCK)
    if cuts:
        starts, stops = [0, *(cut + _BLOCK_HEADER for cut in cuts)], [*cuts, len(data)]
        data = b"".join(data[start:stop] for start, stop in zip(starts, stops, strict=True))
    size = int.from_bytes(data[8:16], "little")
    count = int.from_bytes(data[25:32], "little")
    body = data[_CHUNK_HEADER : _CHUNK_HEADER + size]
    # Type of the chunk ("r": simple records), then its compression (0: none).
    if data[24:25] != b"r" or len(body) != size or body[:1] != b"\0":
        raise ShardIndexError("no complete chunk of uncompressed records")
    try:
        length, place = _varint(body, 1)
        values, sizes = place + length, []
        while place < values:
            one, place = _varint(body, place)
            sizes.append(one)
    except IndexError as error:
        raise ShardIndexError("the sizes of its records are cut off") from error
    ends = np.cumsum([values, *sizes]).tolist()
    if len(sizes) != count or ends[-1] != size:
        raise ShardIndexError("the sizes of its records do not add up")
    return [body[start:end] for start, end in itertools.pairwise(ends)]


def record_offsets(read: Callable[[int, int], bytes], size: int) -> np.ndarray:
    """Offsets of a shard's records.

    Args:
      read: gives the bytes from one offset up to another.
      size: bytes of the file.

    Returns:
      int64[records + 1]: where each begins, in bytes, and where the last ends.

    Raises:
      ShardIndexError: the file is cut off or of another kind.
    """
    if size < 2 * BLOCK or size % BLOCK:
        raise ShardIndexError(f"it is cut off or not an ArrayRecord file ({size} bytes)")
    begin = max(0, size - _TAIL)
    tail = read(begin, size)
    postscript = size - BLOCK
    try:
        found = _numbers(chunk_records(tail[postscript - begin :], postscript)[0])
        footer = found.get(1)
        if found.get(2) != _MAGIC or not isinstance(footer, int) or not 0 < footer < postscript:
            raise ShardIndexError("it does not end like an ArrayRecord file")
        data = tail[footer - begin :] if footer >= begin else read(footer, postscript)
        about, *messages = map(_numbers, chunk_records(data, footer))
    except (IndexError, ShardIndexError) as error:
        raise ShardIndexError(f"it is cut off or not an ArrayRecord file ({error})") from error
    if any(message.get(3) != 1 for message in messages) or 1 not in about:
        raise ShardIndexError("it has several records in a chunk: not written by ofa_jax.prepare")
    offsets = np.array([*(message[1] for message in messages), footer], np.int64)
    if (np.diff(offsets) <= 0).any():
        raise ShardIndexError("its index is damaged")
    return offsets
