"""What a result was made of, noted beside it, so that a stale result is never taken for a new one.

A directory of results (prepared shards, predictions, answers) holds the inputs of its result: a
JSON object of settings, and of the identity of every file that was read. Who comes to write there
again compares with `refuse_other`: equal inputs go on or have nothing to do, others are refused
with a line that names what changed. Standard library only.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# A larger file is known by its size, its time and its ends: reading it all takes too long.
WHOLE_FILE_BYTES = 1 << 26
_END_BYTES = 1 << 16
_READ_AT_ONCE = 1 << 20
# What preparation itself writes, perhaps below a directory that it reads from.
_WRITTEN = (".array_record", ".partial", ".tmp", "manifest.json")


class OtherInputsError(ValueError):
    """A directory holds a result of other inputs; the message names what changed."""


def file_sha256(path: str | pathlib.Path) -> str:
    """SHA-256 of a whole file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def file_identity(path: str | pathlib.Path) -> dict[str, object]:
    """What tells a file from another version of it, and from no other copy of the same bytes.

    Args:
      path: a file.

    Returns:
      `bytes` and `sha256`. Of a file above `WHOLE_FILE_BYTES`, the digest is of its first and
      last 64 KiB and called `sha256_of_ends`, and `modified` (UTC) stands beside it.

    Raises:
      OSError: it cannot be read.
    """
    status = os.stat(path)
    if status.st_size <= WHOLE_FILE_BYTES:
        return {"bytes": status.st_size, "sha256": file_sha256(path)}
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        digest.update(file.read(_END_BYTES))
        file.seek(-_END_BYTES, os.SEEK_END)
        digest.update(file.read())
    return {
        "bytes": status.st_size,
        "modified": _time(status.st_mtime_ns),
        "sha256_of_ends": digest.hexdigest(),
    }


def directory_identity(path: str | pathlib.Path) -> dict[str, object]:
    """What tells a directory of files, such as photographs, from another state of it.

    Files are not opened: their names, sizes and times count. Hidden files do not, nor what
    preparation writes.

    Args:
      path: a directory.

    Returns:
      `files`, `bytes`, and `sha256_of_listing`.

    Raises:
      OSError: it cannot be read.
    """
    lines = sorted(
        (os.path.relpath(entry.path, path), status.st_size, status.st_mtime_ns)
        for entry, status in _files_below(path)
    )
    text = "".join(f"{name}\0{size}\0{modified}\n" for name, size, modified in lines)
    return {
        "files": len(lines),
        "bytes": sum(size for _, size, _ in lines),
        "sha256_of_listing": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(),
    }


def identities(paths: Iterable[str | pathlib.Path]) -> dict[str, dict[str, object]]:
    """The identity of each file or directory, by its path.

    A file in a bucket is given as address#generation; its generation is its identity.
    """
    found: dict[str, dict[str, object]] = {}
    for path in paths:
        if "://" in str(path):
            address, _, generation = str(path).rpartition("#")
            found[address] = {"generation": generation}
        else:
            found[str(path)] = (
                directory_identity(path) if os.path.isdir(path) else file_identity(path)
            )
    return found


def fingerprint(inputs: Mapping[str, object]) -> str:
    """SHA-256 of inputs, hexadecimal: equal for equal ones, in any order of their keys."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What changed between two sets of inputs, one clause each.

    Args:
      before: values that JSON can hold; nested objects are compared by their parts.
      now: the same of today.
      within: goes before the names, such as "settings.".

    Returns:
      Clauses such as "settings.beam_size was 1, now it is 5" or "rows.tsv has changed (4 bytes
      before, 8 now)", of the parts of `now` in its order, then of those that only `before` has.
    """
    found = []
    for name in [*now, *(name for name in before if name not in now)]:
        old, new = before.get(name), now.get(name)
        if _is_identity(old or new):
            found += [_changed_file(name, old, new)] if old != new else []
        elif isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{within}{name}.")
        elif _as_stored(old) != _as_stored(new):
            found.append(f"{within}{name} was {_shown(old)}, now it is {_shown(new)}")
    return found


def refuse_other(
    place: object, before: Mapping[str, object], now: Mapping[str, object], *, remedy: str
) -> None:
    """Fails where a directory holds a result of other inputs.

    Args:
      place: the directory, for the message.
      before: inputs of what is there.
      now: inputs of what is to be written.
      remedy: ends the message, such as "take another directory, or --overwrite".

    Raises:
      OtherInputsError: one line that names what changed first, and how much more did.
    """
    if changed := differences(before, now):
        more = f" (and {len(changed) - 1} more)" if changed[1:] else ""
        raise OtherInputsError(
            f"{place} holds the result of other inputs: {changed[0]}{more}; {remedy}"
        )


def _is_identity(value: object) -> bool:
    return isinstance(value, Mapping) and ("bytes" in value or "generation" in value)


def _changed_file(name: str, old: Any, new: Any) -> str:
    if not _is_identity(old) or not _is_identity(new):
        return f"{name} was not there" if _is_identity(new) else f"{name} is not there"
    key = next((key for key in new if old.get(key) != new[key]), "")
    if key in ("bytes", "files"):
        return f"{name} has changed ({old.get(key)} {key} before, {new[key]} now)"
    return f"{name} has changed (the same size, other content or times)"


def _as_stored(value: object) -> object:
    """A value as it comes back from a JSON file: tuples are lists there."""
    return json.loads(json.dumps(value))


def _shown(value: object, longest: int = 80) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _files_below(path: str | pathlib.Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(_WRITTEN):
                continue
            if entry.is_dir():
                yield from _files_below(entry.path)
            elif entry.is_file():
                yield entry, entry.stat()


def _time(nanoseconds: int) -> str:
    whole, rest = divmod(nanoseconds, 10**9)
    return f"{datetime.datetime.fromtimestamp(whole, datetime.UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}"
