"""Annotation files beside folders of pictures: the reader that COCO, VQA, Visual Genome and
others share.

A layout is a subclass of `AnnotatedPictures` that joins its annotation files into a table of
`Row`s; this module opens the picture of a row when it is asked for. Tables are built once per
process, so records pickle small.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.ops.image_files import read_header
from ofa_jax.data.sources import json_items, split_paths
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import stamp


class Row(NamedTuple):
    """One example without its picture.

    Attributes:
      place: file and row that it comes from, for messages.
      picture: file name of the picture, with or without folders.
      fields: the other fields of the flat schema.
      relative: whether `boxes` are fractions of the picture's sides, not pixels.
      folder: where the picture lies, if that is known; "" means in one of the source's folders.
    """

    place: str
    picture: str
    fields: Example
    relative: bool = False
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class MadeRows(Sequence):
    """Rows made when asked for: millions of questions as dicts would not fit.

    Attributes:
      make: one of `entries` to its row.
      entries: what is kept of each row.
    """

    make: Callable[[Any], Row]
    entries: Sequence[Any]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index):
        return self.make(self.entries[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedPictures(abc.ABC):
    """Source of pictures in folders with annotations in files of their own.

    Attributes:
      images: folder of the pictures, or several; tried in order. May hold `{split}`.
      dataset: name of the data set.
    """

    images: split_paths.Paths
    dataset: str = ""

    @abc.abstractmethod
    def table(self, split: str) -> Sequence[Row]:
        """Joins the annotation files of a split.

        Raises:
          ValueError: a file is missing or not as its layout says.
        """

    def open(self, split: str) -> PictureRecords:
        """Reads the annotations of a split.

        Raises:
          ValueError: a file or folder is missing, or an annotation is damaged.
        """
        folders = split_paths.folders(self.images, split, "the pictures")
        state = tuple((path, stamp(path)) for path in split_paths.of_source(self, split))
        records = PictureRecords(self, split, folders, state)
        if not len(records):
            raise SourceError(f"{type(self).__name__}: there are no examples of split {split!r}")
        return records


@dataclasses.dataclass(frozen=True)
class PictureRecords:
    """Random access to the examples of one split.

    Attributes:
      source: the layout with its files.
      split: name of the split.
      folders: where pictures are looked for.
      state: of the annotation files and folders, by path; another one is another table.
    """

    source: AnnotatedPictures
    split: str
    folders: tuple[str, ...]
    state: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        rows = self._rows
        if not 0 <= index < len(rows):
            raise IndexError(f"there are {len(rows)} examples, there is no number {index}")
        row = rows[index]
        try:
            folders = (row.folder,) if row.folder else self.folders
            image = read_picture(folders, row.picture)
            example = {"image": image, **row.fields}
            if row.relative:
                sides = np.array(read_header(image).size * 2, np.float32)
                example["boxes"] = example["boxes"] * sides
        except (ValueError, FileNotFoundError) as error:
            raise SourceError(f"{row.place}: {error}") from error
        if self.source.dataset:
            example["dataset"] = self.source.dataset
        return example

    @property
    def _rows(self) -> Sequence[Row]:
        return _table(self.source, self.split, self.state)


@functools.lru_cache(maxsize=32)
def _table(source: AnnotatedPictures, split: str, state: Any) -> Sequence[Row]:
    del state
    return source.table(split)


def read_picture(folders: Iterable[str], name: str) -> bytes:
    """The bytes of a picture, as they lie on disk.

    Args:
      folders: tried in order.
      name: as the annotations give it. Where the whole path is not there, its last two parts and
        then the file name alone are tried, since people unpack archives at different levels.

    Raises:
      FileNotFoundError: it is in none of the folders.
      SourceError: the name would leave the folders.
    """
    parts = pathlib.PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise SourceError(f"the picture's name {name[:80]!r} is not a path inside a folder")
    folders = tuple(folders)
    for kept in dict.fromkeys((len(parts), min(2, len(parts)), 1)):
        for folder in folders:
            path = pathlib.Path(folder, *parts[-kept:])
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
    raise FileNotFoundError(f"the picture {name} is not in {', '.join(folders)}")


def corners(box: Sequence[float]) -> list[float]:
    """x0, y0, x1, y1 of a box given as left, top, width, height.

    Raises:
      ValueError: not four numbers.
    """
    if len(box) != 4:
        raise ValueError(f"the box {str(box)[:60]} is not left, top, width, height")
    left, top, width, height = (float(value) for value in box)
    return [left, top, left + width, top + height]


def read_items(
    path: str, readers: Mapping[str, Callable[[Any], None]] | Callable[[Any], None]
) -> None:
    """Hands every entry of a JSON file to the function of its section.

    Args:
      path: the file.
      readers: section to function; or one function, where the file is a list or a mapping, which
        receives an entry of a list, or key and value of a mapping's entry as a pair.

    Raises:
      SourceError: not JSON, a section is missing, or a function does not find what it needs; the
        message names file and entry.
    """
    if callable(readers):
        _read(path, json_items.items(path), lambda item: readers)
        return
    table = readers
    found = _read(path, json_items.items(path, table), lambda item: table[item.section])
    if missing := [section for section in table if section not in found]:
        raise SourceError(
            f"{path}: the section {', '.join(map(repr, missing))} is missing or empty"
        )


def _read(
    path: str,
    entries: Iterable[json_items.Item],
    reader_of: Callable[[json_items.Item], Callable[[Any], None]],
) -> set[str]:
    sections = set()
    for item in entries:
        sections.add(item.section)
        keyed = isinstance(item.key, str)
        try:
            reader_of(item)((item.key, item.value) if keyed else item.value)
        except KeyError as error:
            raise SourceError(f"{path}, {item.place}: it lacks {error}") from error
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise SourceError(f"{path}, {item.place}: {error}") from error
    return sections
