"""Words for classes that a data set only numbers, such as the synsets of ImageNet."""

from __future__ import annotations

import pathlib

from ofa_jax.data.sources import locations
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import cached_by_file


def class_words(path: str, name: str) -> str:
    """The words of a class.

    Args:
      path: a file with a class and its words per line, such as `n01440764 tench, Tinca tinca`;
        may hold `{DATA_DIR}`.
      name: the class as the data set writes it.

    Raises:
      SourceError: no such file, or the class is not in it.
    """
    words = _read(locations.resolve(path))
    if name not in words:
        raise SourceError(f"the class {name!r} is not in {path}")
    return words[name]


@cached_by_file(8)
def _read(path: str) -> dict[str, str]:
    if not pathlib.Path(path).is_file():
        raise SourceError(f"{path} does not exist; it should hold a class and its words per line")
    pairs = [
        line.split(maxsplit=1) for line in pathlib.Path(path).read_text("utf-8-sig").splitlines()
    ]
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
