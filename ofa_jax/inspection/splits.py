"""Which splits the files of a data set and those beside them hold, judged by their names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence

from ofa_jax.data.sources import locations
from ofa_jax.data.sources.split_paths import SPLIT_WORDS, usual_split

_WORD = re.compile(rf"(?<![A-Za-z])({'|'.join(SPLIT_WORDS)})(?![A-Za-z])", re.IGNORECASE)
_DIRECTORY = re.compile(rf"(?<=/)({'|'.join(SPLIT_WORDS)})(?=/)", re.IGNORECASE)
# In this order splits are shown and evaluated on.
_ORDER = ("train", "validation", "test")


def own_split(arguments: Mapping[str, str]) -> str:
    """The split that the names of a format's files say: `validation` of `a_val2014.json`."""
    for name, value in arguments.items():
        if name != "images" and _exists(value) and (word := _last(value)):
            return usual_split(word[0])
    return ""


def split_prefix(names: Sequence[str]) -> str:
    """The word that the files of one split begin with, of train or else the first; "" for none.

    Args:
      names: of the files of a directory, of several splits perhaps.
    """
    words = [word[1] for name in names if (word := _WORD.match(name))]
    if len(words) < len(names):
        return ""
    return min(words, key=lambda word: _ORDER.index(usual_split(word)))


def commands(source: object, arguments: Mapping[str, str], split: str) -> dict[str, dict[str, str]]:
    """The splits of a data set.

    Args:
      source: what the arguments make; one that knows its splits has a method `splits`.
      arguments: of the format.
      split: the one that was opened.

    Returns:
      Split, or several joined by commas, to the arguments that prepare it.
    """
    if hasattr(source, "splits"):
        return {",".join(_ordered(source.splits())): dict(arguments)}
    found = {split: dict(arguments)}
    for word in SPLIT_WORDS:
        other = usual_split(word)
        if other not in found and (beside := _beside(arguments, word)):
            found[other] = beside
    return {name: found[name] for name in _ordered(found)}


def _ordered(splits: Iterable[str]) -> list[str]:
    names = [usual_split(str(name)) for name in splits]
    first = [name for name in _ORDER if name in names]
    return [*first, *sorted(set(names) - set(_ORDER))]


def _beside(arguments: Mapping[str, str], word: str) -> dict[str, str]:
    """The arguments with the files of another split; none where one of them is not there."""
    found, changed = dict(arguments), False
    for name, value in arguments.items():
        if not _exists(value) or not (last := _last(value)):
            continue
        other = f"{value[: last.start()]}{word}{value[last.end() :]}"
        if _exists(other):
            found[name], changed = other, True
        elif name != "images":  # Directories of images may serve all splits.
            return {}
    return found if changed else {}


def _last(path: str) -> re.Match[str] | None:
    """The word for a split in the name of a file, or else a directory of that name around it."""
    begin = path.rfind("/") + 1
    matches = [*_DIRECTORY.finditer(path), *_WORD.finditer(path, begin)]
    return matches[-1] if matches else None


def _exists(value: str) -> bool:
    """Whether a value is a path, or the pattern of some."""
    return "{" not in value and bool(glob.glob(locations.resolve(value)))
