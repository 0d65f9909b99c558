"""TensorBoard's event files of a run that goes on: what lies beyond its step is dropped.

An event file is a row of records: length (8 bytes), its checksum (4), the event, its checksum (4).
Only the step of an event, a protocol buffer's field 2, is read.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from ofa_jax.checkpoint.bucket import AnyPath

_HEAD, _TAIL = 12, 4
_STEP_FIELD = 2


def purge(directory: AnyPath, step: int) -> int:
    """Drops the events after a step, which a run that is started again will write once more.

    Args:
      directory: of event files, those in directories below included.
      step: the last one that stays.

    Returns:
      How many events were dropped. A file without any, such as one that is being written, is left
      as it is.
    """
    dropped = 0
    for path in sorted(directory.rglob("events.out.tfevents.*")) if directory.exists() else ():
        records = list(_records(path.read_bytes()))
        kept = [record for record in records if _step(record) <= step]
        if len(kept) < len(records):
            dropped += len(records) - len(kept)
            _replace(path, b"".join(kept))
    return dropped


def _replace(path: AnyPath, content: bytes) -> None:
    if not isinstance(path, pathlib.Path):  # Objects of a bucket are replaced as a whole.
        path.write_bytes(content)
        return
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def _records(content: bytes) -> Iterator[bytes]:
    """Whole records with their lengths and checksums; one that a kill has cut off is none."""
    at = 0
    while at + _HEAD <= len(content):
        end = at + _HEAD + int.from_bytes(content[at : at + 8], "little") + _TAIL
        if end > len(content):
            return
        yield content[at:end]
        at = end


def _step(record: bytes) -> int:
    """Step of a record's event; 0 where it says none."""
    event, at = record[_HEAD:-_TAIL], 0
    while at < len(event):
        key, at = _varint(event, at)
        field, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = _varint(event, at)
            if field == _STEP_FIELD:
                return value
        elif wire_type == 2:
            length, at = _varint(event, at)
            at += length
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:  # No event of TensorBoard's.
            return 0
    return 0


def _varint(event: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(event):
        byte = event[at]
        at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            break
    return value, at
