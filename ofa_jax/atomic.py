"""Files that survive a kill: written at once, or line by line with a torn last line cut off."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file so that a reader sees the old or the new one; its folder must exist."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: str | os.PathLike, content: object) -> None:
    """Writes a JSON file; see `write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def append_lines(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends a JSON line per row; they are on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def cut_torn_line(path: pathlib.Path) -> int:
    """Cuts off a last line that a kill left incomplete; returns how many lines stay."""
    if not path.exists():
        return 0
    lines = end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            lines, end = lines + 1, end + len(line)
    with path.open("r+b") as file:
        file.truncate(end)
    return lines


def read_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The rows of `append_lines`, one by one; none where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)
