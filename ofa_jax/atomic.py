"""Files that are written at once: a reader after a kill sees the old or the new one."""

from __future__ import annotations

import json
import os
import pathlib


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file; its directory must exist."""
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: str | os.PathLike, content: object) -> None:
    """Writes a JSON file; see `write_text`."""
    write_text(path, json.dumps(content, indent=2) + "\n")
