"""Which file or files hold a split.

A source names its files as `Paths`: one path for all splits, in which `{split}` stands for the
split's name, or a path per split. Several files are joined by commas or matched by `*`.
`{DATA_DIR}` and other names of `locations` are allowed in all of them, and so is `~`.
"""

from __future__ import annotations

import dataclasses
import glob
import pathlib
import re
from collections.abc import Iterator

from ofa_jax.data.sources import locations

Paths = str | tuple[tuple[str, str], ...]
# One file for all splits, such as the words of classes; "" where there is none.
File = str

# Words for splits, as files and columns write them, to the names that they have here.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    "test": "test",
}
_SPLIT = "{split}"
_PER_SPLIT = re.compile(r"([A-Za-z0-9_+-]+)=(.+)")


def usual_split(name: str) -> str:
    """The name that a split has here: validation for val, valid and dev; others as they are."""
    name = name.strip()
    return SPLIT_WORDS.get(name.lower(), name)


def parse(text: str) -> Paths:
    """Reads paths from a command line.

    Args:
      text: `PATH`, where `{split}` may stand for the split, or `SPLIT=PATH SPLIT=PATH ...`.

    Returns:
      The paths.

    Raises:
      ValueError: a mixture of both, or a split named twice.
    """
    words = text.split()
    matches = [_PER_SPLIT.fullmatch(word) for word in words]
    if not any(matches):
        return text
    if not all(matches):
        bad = words[matches.index(None)]
        raise ValueError(f"{text!r}: {bad!r} is not SPLIT=PATH as the others are")
    pairs = tuple((match[1], match[2]) for match in matches if match)
    if len({split for split, _ in pairs}) < len(pairs):
        raise ValueError(f"{text!r} names a split twice")
    return pairs


def files(paths: Paths, split: str, what: str) -> tuple[str, ...]:
    """The files of a split, in order.

    Args:
      paths: as declared.
      what: what they hold, for messages, such as "COCO captions".

    Returns:
      Existing files, at least one; those of a `*` sorted by name.

    Raises:
      ValueError: no file is declared for the split, or one does not exist.
    """
    found: list[str] = []
    for path in _resolved(paths, split):
        if not (existing := _files_of(path)):
            raise ValueError(f"{path} does not exist; it should hold {what}")
        found += existing
    return tuple(found)


def file(paths: Paths, split: str, what: str) -> str:
    """The one file of a split.

    Raises:
      ValueError: none or several.
    """
    found = files(paths, split, what)
    if len(found) > 1:
        raise ValueError(f"{', '.join(found[:3])}: {what} must be one file, not {len(found)}")
    return found[0]


def directories(paths: Paths, split: str, what: str) -> tuple[str, ...]:
    """The directories of a split, in the order in which they are searched.

    Raises:
      ValueError: none is declared for the split, or one does not exist.
    """
    found = tuple(_resolved(paths, split))
    for path in found:
        if not pathlib.Path(path).is_dir():
            raise ValueError(f"{path} is not a directory; it should hold {what}")
    return found


def of_source(source: object, split: str) -> tuple[str, ...]:
    """The files and directories that a source reads; its examples depend on them and on its
    settings.

    Args:
      source: a source whose attributes are declared as `Paths` and `File` where they name data, or
        that has a method `data_files(split)`.
      split: name of the split.

    Returns:
      Those that exist, each once; none for a source that draws its examples.

    Raises:
      ValueError: no file is declared for the split.
    """
    if hasattr(source, "data_files"):
        return tuple(source.data_files(split))
    found: list[str] = []
    for field in dataclasses.fields(source) if dataclasses.is_dataclass(source) else ():
        value = getattr(source, field.name)
        if value and str(field.type).rpartition(".")[2] in ("Paths", "File"):
            for path in _resolved(value, split):
                found += [path] if pathlib.Path(path).is_dir() else _files_of(path)
    return tuple(dict.fromkeys(found))


def _resolved(paths: Paths, split: str) -> Iterator[str]:
    for path in _declared(paths, split).split(","):
        yield locations.resolve(path.strip().replace(_SPLIT, split))


def _files_of(path: str) -> list[str]:
    if pathlib.Path(path).is_file():
        return [path]
    return sorted(match for match in glob.glob(path) if pathlib.Path(match).is_file())


def _declared(paths: Paths, split: str) -> str:
    if isinstance(paths, str):
        return paths
    declared = dict(paths)
    if split not in declared:
        raise ValueError(f"no {split} file is declared, only {', '.join(declared)}")
    return declared[split]
