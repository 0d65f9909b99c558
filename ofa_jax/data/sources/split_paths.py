"""Which file or files hold a split.

A source names its files as `Paths`: one path for all splits, in which `{split}` stands for the
split's name, or a path per split. Several files are joined by commas or matched by `*`.
`{DATA_DIR}` and other names of `ofa_jax.data.locations` are allowed in all of them.
"""

from __future__ import annotations

import glob
import pathlib
import re

from ofa_jax.data import locations

Paths = str | tuple[tuple[str, str], ...]

_SPLIT = "{split}"
_PER_SPLIT = re.compile(r"([A-Za-z0-9_+-]+)=(.+)")


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
      split: its name.
      what: what they hold, for messages, such as "COCO captions".

    Returns:
      Existing files, at least one; those of a `*` sorted by name.

    Raises:
      ValueError: no file is declared for the split, or one does not exist.
    """
    found: list[str] = []
    for path in _declared(paths, split).split(","):
        path = locations.resolve(path.strip().replace(_SPLIT, split))
        if pathlib.Path(path).is_file():
            found.append(path)
        elif matches := sorted(filter(_is_file, glob.glob(path))):
            found += matches
        else:
            raise ValueError(f"{path} does not exist; it should hold {what}")
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


def folders(paths: Paths, split: str, what: str) -> tuple[str, ...]:
    """The folders of a split, in the order in which they are searched.

    Raises:
      ValueError: none is declared for the split, or one does not exist.
    """
    found = []
    for path in _declared(paths, split).split(","):
        path = locations.resolve(path.strip().replace(_SPLIT, split))
        if not pathlib.Path(path).is_dir():
            raise ValueError(f"{path} is not a folder; it should hold {what}")
        found.append(path)
    return tuple(found)


def _declared(paths: Paths, split: str) -> str:
    if isinstance(paths, str):
        return paths
    declared = dict(paths)
    if split not in declared:
        raise ValueError(f"no {split} file is declared, only {', '.join(declared)}")
    return declared[split]


def _is_file(path: str) -> bool:
    return pathlib.Path(path).is_file()
