"""Rows of images with boxes, made on demand from arrays.

Python objects for tens of millions of boxes would not fit, so annotation files with a line or an
entry per box are kept as arrays, grouped by image.
"""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ofa_jax.data.sources.annotated_images import AnnotatedRow
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.left_out import LeftOut

_Found = TypeVar("_Found")


class Picture(NamedTuple):
    """What is known of an image: its file's name, and its size where the annotations say it."""

    name: str
    size: tuple[int, int] | None = None


class BoxCollector:
    """Takes boxes in the order of a file.

    Attributes:
      path: the annotation file, for messages.
    """

    def __init__(self, path: str):
        self.path = path
        self._images: dict[int | str, int] = {}
        self._classes: dict[int | str, int] = {}
        self._image_of = array.array("q")
        self._class_of = array.array("q")
        self._boxes = array.array("f")

    def add(self, picture: int | str, category: int | str, box: Sequence[float]) -> None:
        """Takes a box: identifiers of its image and class, x0, y0, x1, y1."""
        self._image_of.append(self._images.setdefault(picture, len(self._images)))
        self._class_of.append(self._classes.setdefault(category, len(self._classes)))
        self._boxes.extend(box)

    def __len__(self) -> int:
        return len(self._image_of)

    def table(
        self,
        picture: Callable[[int | str], Picture],
        class_name: Callable[[int | str], str],
        left_out: LeftOut,
        *,
        ordered: bool = False,
        relative: bool = False,
    ) -> BoxTable:
        """Rows of the images that have boxes.

        Args:
          picture: identifier to what is known of it; raises SourceError where that is nothing.
          class_name: identifier to the name of the class; likewise.
          left_out: counts the boxes of images and classes that are not known.
          ordered: whether rows stand by identifier, not as the file names them first.
          relative: whether boxes are fractions of the image's sides.
        """
        image_of = np.array(self._image_of, np.int64)
        class_of = np.array(self._class_of, np.int64)
        pictures, good_images = self._known(self._images, image_of, picture, "image", left_out)
        names, good_classes = self._known(self._classes, class_of, class_name, "class", left_out)
        kept = good_images[image_of] & good_classes[class_of]
        keys = list(self._images)
        rank = np.arange(len(keys))
        if ordered:
            texts = [(isinstance(key, str), key) for key in keys]
            rank[sorted(range(len(keys)), key=texts.__getitem__)] = np.arange(len(keys))
        order = np.flatnonzero(kept)[np.argsort(rank[image_of[kept]], kind="stable")]
        _, starts = np.unique(rank[image_of[order]], return_index=True)
        return BoxTable(
            self.path,
            [(keys[number], pictures[number]) for number in image_of[order][starts].tolist()],
            names,
            starts,
            class_of[order],
            np.array(self._boxes, np.float32).reshape(-1, 4)[order],
            relative,
        )

    def _known(
        self,
        numbers: dict[int | str, int],
        of_box: np.ndarray,
        look_up: Callable[[int | str], _Found],
        what: str,
        left_out: LeftOut,
    ) -> tuple[list[_Found], np.ndarray]:
        """What is known of each identifier, and bool[identifiers] whether it is."""
        found: list[Any] = []
        good = np.ones(len(numbers), bool)
        boxes = np.bincount(of_box, minlength=len(numbers))
        for key, number in numbers.items():
            try:
                found.append(look_up(key))
            except SourceError as error:
                found.append(None)
                good[number] = False
                left_out.add_error(f"{self.path}, {what} {key}", error, int(boxes[number]))
        return found, good


@dataclasses.dataclass(frozen=True)
class BoxTable(Sequence):
    """One row per image.

    Attributes:
      path: the annotation file.
      pictures: identifier and what is known of the image, for each row.
      names: names of the classes.
      starts: int64[rows], the first box of each.
      classes: int64[boxes], an index of `names`.
      boxes: float32[boxes, 4], grouped by image.
      relative: whether they are fractions of the image's sides.
    """

    path: str
    pictures: list[tuple[int | str, Picture]]
    names: list[str]
    starts: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    relative: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index):
        identifier, picture = self.pictures[index]
        start = self.starts[index]
        end = self.starts[index + 1] if index + 1 < len(self) else len(self.boxes)
        labels = [self.names[number] for number in self.classes[start:end].tolist()]
        fields = {
            "image_id": str(identifier),
            "boxes": self.boxes[start:end].copy(),
            "labels": labels,
            "objects": list(dict.fromkeys(labels)),
            "type": "detection",
        }
        place = f"{self.path}, image {identifier}"
        return AnnotatedRow(place, picture.name, fields, self.relative, picture.size)
