"""Files that survive a kill: written at once, or line by line with a torn last line cut off.

What something else has damaged is set aside, under another name, and never stops the work.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

logger = logging.getLogger("ofa_jax")

JsonObject = dict[str, Any]
"""What an object of a JSON file holds."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Where to write a file so that a reader sees the old or the new one.

    Args:
      path: of the file; its directory is made.

    Yields:
      The path to write at. The file takes its place at the end of the block, and is removed where
      the block fails.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file; see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, content: object) -> None:
    """Writes a JSON file; see `write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def set_aside(path: pathlib.Path, reason: str, *, copy: bool = False) -> None:
    """Gives a damaged file or directory the name NAME.damaged, with a number where that is taken.

    Args:
      path: of it.
      reason: what is wrong with it, for the log.
      copy: whether it stays where it is, too (a file).
    """
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while target.exists() or target.is_symlink():
        number += 1
        target = path.with_name(f"{path.name}.damaged_{number}")
    if copy:
        shutil.copyfile(path, target)
    else:
        path.rename(target)
    logger.warning("%s %s; set aside as %s", path, reason, target.name)


def parsed(line: bytes | str) -> Any:
    """What a line or file of JSON holds, None where it cannot be read."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def append_lines(path: pathlib.Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Appends a JSON line per row; they are on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_torn_line(path: pathlib.Path, needs: Collection[str] = ()) -> int:
    """Cuts off a last line that a kill left incomplete.

    Where an earlier line is damaged, the file is set aside, and the lines before that one stay.

    Args:
      path: of `append_lines`; there may be no file.
      needs: keys of every row.

    Returns:
      How many lines stay.
    """
    if path.exists() and not path.is_file():
        set_aside(path, "is no file")
    if not path.exists():
        return 0
    lines = end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            row = parsed(line)
            if not isinstance(row, dict) or not row.keys() >= set(needs):
                set_aside(path, f"has a damaged line {lines + 1}", copy=True)
                break
            lines, end = lines + 1, end + len(line)
    with path.open("r+b") as file:
        file.truncate(end)
    return lines


def read_lines(path: pathlib.Path) -> Iterator[JsonObject]:
    """The rows of `append_lines`, one by one; none where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
