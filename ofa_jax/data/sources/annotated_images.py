"""Annotation files beside directories of pictures: the reader that COCO, VQA, Visual Genome and
others share.

A layout is a subclass of `AnnotatedImages` that joins its annotation files into a table of
`AnnotatedRow`s; this module opens the image of a row when it is asked for. Tables are built once
per process, so records pickle small.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from ofa_jax.data.sources import json_items, split_paths
from ofa_jax.data.sources.box_units import BOX_UNITS, placed_boxes, with_pixel_boxes
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example, check_index
from ofa_jax.data.sources.file_cache import stamp
from ofa_jax.data.sources.left_out import READING_ERRORS, LeftOut
from ofa_jax.schema import require_known

_Entry = TypeVar("_Entry")


class AnnotatedRow(NamedTuple):
    """One example without its image.

    Attributes:
      place: file and row that it comes from, for messages.
      picture: file name of the image, with or without directories.
      fields: the other fields of the flat schema.
      relative: whether `boxes` are fractions of the image's sides, not pixels.
      size: width and height that the annotations give the image, in pixels; None: they do not.
      directory: where the image lies, if that is known; "" means in one of the source's
        directories.
    """

    place: str
    picture: str
    fields: Example
    relative: bool = False
    size: tuple[int, int] | None = None
    directory: str = ""


@dataclasses.dataclass(frozen=True)
class MadeRows(Sequence, Generic[_Entry]):
    """Rows made when asked for: millions of questions as dicts would not fit.

    Attributes:
      make: one of `entries` to its row.
      entries: what is kept of each row.
    """

    make: Callable[[_Entry], AnnotatedRow]
    entries: Sequence[_Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index):
        return self.make(self.entries[index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedImages(abc.ABC):
    """Source of images in directories with annotations in files of their own.

    Attributes:
      images: directory of the images, or several; tried in order. May hold `{split}`.
      dataset: name of the data set.
    """

    images: split_paths.Paths
    dataset: str = ""

    @abc.abstractmethod
    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Joins the annotation files of a split.

        Args:
          left_out: counts the items that stand in no row.

        Raises:
          ValueError: a file is missing or not as its layout says.
        """

    def open(self, split: str) -> ImageRecords:
        """Reads the annotations of a split.

        Raises:
          ValueError: a file or directory is missing, or an annotation is damaged.
        """
        directories = split_paths.directories(self.images, split, "the images")
        state = tuple((path, stamp(path)) for path in split_paths.of_source(self, split))
        records = ImageRecords(self, split, directories, state)
        if not len(records):
            lost = f"; left out: {records.left_out}" if records.left_out.total else ""
            raise SourceError(
                f"{type(self).__name__}: there are no examples of split {split!r}{lost}"
            )
        return records


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxedImages(AnnotatedImages):
    """Source of images with boxes.

    Attributes:
      boxes: what coordinates are: `pixels`, or `fractions` of the image's sides.
    """

    boxes: str = "pixels"

    def __post_init__(self) -> None:
        require_known("unit of boxes", self.boxes, BOX_UNITS)


@dataclasses.dataclass(frozen=True)
class ImageRecords:
    """Random access to the examples of one split.

    Attributes:
      source: the layout with its files.
      split: name of the split.
      directories: where images are looked for.
      state: of the annotation files and directories, by path; another one is another table.
    """

    source: AnnotatedImages
    split: str
    directories: tuple[str, ...]
    state: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        rows = self._rows
        check_index(index, len(rows))
        row = rows[index]
        try:
            directories = (row.directory,) if row.directory else self.directories
            image = read_picture(directories, row.picture)
            example: Example = {"image": image, **row.fields}
            if row.relative:
                example = with_pixel_boxes(example)
            elif row.size is not None:
                follow = getattr(self.source, "scale_boxes", False)
                boxes, note = placed_boxes(example["boxes"], image, row.size, follow=follow)
                example["boxes"] = boxes
                if note:
                    example["notes"] = [note]
        except (ValueError, FileNotFoundError) as error:
            raise SourceError(f"{row.place}: {error}") from error
        if self.source.dataset:
            example["dataset"] = self.source.dataset
        return example

    @property
    def left_out(self) -> LeftOut:
        """What of the annotations stands in no example."""
        return _table(self.source, self.split, self.state)[1]

    @property
    def _rows(self) -> Sequence[AnnotatedRow]:
        return _table(self.source, self.split, self.state)[0]


@functools.lru_cache(maxsize=32)
def _table(
    source: AnnotatedImages, split: str, state: object
) -> tuple[Sequence[AnnotatedRow], LeftOut]:
    del state
    left_out = LeftOut()
    return source.table(split, left_out), left_out


def read_picture(directories: Iterable[str], name: str) -> bytes:
    """The bytes of an image, as they lie on disk.

    Args:
      directories: tried in order.
      name: as the annotations give it. Where the whole path is not there, its last two parts and
        then the file name alone are tried, since people unpack archives at different levels.

    Raises:
      FileNotFoundError: it is in none of the directories.
      SourceError: the name would leave the directories.
    """
    parts = pathlib.PurePosixPath(name).parts
    if not parts or ".." in parts or name.startswith("/"):
        raise SourceError(f"the image's name {name[:80]!r} is not a path inside a directory")
    directories = tuple(directories)
    for kept in dict.fromkeys((len(parts), min(2, len(parts)), 1)):
        for directory in directories:
            path = pathlib.Path(directory, *parts[-kept:])
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
    raise FileNotFoundError(f"the image {name} is not in {', '.join(directories)}")


def read_items(
    path: str,
    readers: Mapping[str, Callable[[Any], None]] | Callable[[Any], None],
    left_out: LeftOut,
    optional: Collection[str] = (),
) -> None:
    """Hands every entry of a JSON file to the function of its section.

    Args:
      readers: section to function; or one function, where the file is a list or a mapping, which
        receives an entry of a list, or key and value of a mapping's entry as a pair.
      left_out: counts the entries in which a function does not find what it needs.
      optional: sections that may be missing, empty or null.

    Raises:
      SourceError: not JSON, or a section is missing.
    """
    sections = None if callable(readers) else readers
    found = set()
    for item in json_items.items(path, sections):
        if sections is None or item.value is not None:
            found.add(item.section)
        elif item.section in optional:
            continue
        reader = readers if callable(readers) else readers[item.section]
        try:
            reader((item.key, item.value) if isinstance(item.key, str) else item.value)
        except READING_ERRORS as error:
            left_out.add_error(f"{path}, {item.place}", error, entry=item.value)
    needed = (section for section in sections or () if section not in optional)
    if missing := [section for section in needed if section not in found]:
        raise SourceError(
            f"{path}: the section {', '.join(map(repr, missing))} is missing, empty or null"
        )


class Unique(Mapping[int | str, _Entry]):
    """Entries by their identifier; none for an identifier that two different entries have.

    The last one of them would make wrong pairs, and so would the first.
    """

    def __init__(self, what: str):
        """Args: what the entries are, for messages."""
        self._what = what
        self._entries: dict[int | str, _Entry] = {}
        self._twice: set[int | str] = set()

    def add(self, key: int | str, entry: _Entry) -> None:
        """Takes an entry; the same one again changes nothing."""
        if self._entries.setdefault(key, entry) != entry:
            self._twice.add(key)

    def __getitem__(self, key: int | str) -> _Entry:
        """The entry.

        Raises:
          KeyError: there is none.
          SourceError: there are several that differ.
        """
        if key in self._twice:
            raise SourceError(f"{self._what} {key} is there twice", Reason.DUPLICATED_ID)
        return self._entries[key]

    def find(self, key: int | str, reason: Reason) -> _Entry:
        """The entry.

        Raises:
          SourceError: there is none, counted under `reason`; or there are several that differ.
        """
        try:
            return self[key]
        except KeyError as error:
            raise SourceError(f"there is no {self._what} {key}", reason) from error

    def __iter__(self) -> Iterator[int | str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
