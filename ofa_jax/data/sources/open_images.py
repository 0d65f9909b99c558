"""OpenImages' CSV files of boxes beside a directory of images.

`*-annotations-bbox.csv` has a line per box, in fractions of the image's sides; the class file
(`class-descriptions-boxable.csv`) names the classes.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence

from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_images import AnnotatedImages, AnnotatedRow, Unique
from ofa_jax.data.sources.box_table import BoxCollector, Picture
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.left_out import READING_ERRORS, LeftOut
from ofa_jax.data.sources.lines import require_text
from ofa_jax.data.sources.values import flag, number

_SIDES = ("XMin", "YMin", "XMax", "YMax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenImagesBoxes(AnnotatedImages):
    """One example per image.

    Attributes:
      boxes: the CSV file of boxes, with its header.
      classes: the CSV file of class names, without header.
      with_groups: whether to keep boxes around a group of things (`IsGroupOf`).
    """

    boxes: split_paths.Paths
    classes: split_paths.Paths
    with_groups: bool = False

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Groups the boxes of each image."""
        path = split_paths.file(self.boxes, split, "OpenImages boxes")
        names = _class_names(split_paths.file(self.classes, split, "OpenImages class names"))
        boxes = BoxCollector(path)
        require_text(path)
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            needed = {"ImageID", "LabelName", *_SIDES}
            if missing := needed - set(header):
                raise SourceError(f"{path}, line 1: the header lacks {', '.join(sorted(missing))}")
            picture, label = header.index("ImageID"), header.index("LabelName")
            sides = [header.index(side) for side in _SIDES]
            group = header.index("IsGroupOf") if "IsGroupOf" in header else None
            for cells in filter(None, rows):
                try:
                    if len(cells) != len(header):
                        raise SourceError(
                            f"{len(cells)} columns, the header has {len(header)}",
                            Reason.WRONG_COLUMN_COUNT,
                        )
                    if self.with_groups or group is None or not flag(cells[group], "IsGroupOf"):
                        box = [number(cells[side], "a side of the box") for side in sides]
                        boxes.add(cells[picture], cells[label], box)
                except READING_ERRORS as error:
                    left_out.add_error(f"{path}, line {rows.line_num}", error)

        def class_name(key: int | str) -> str:
            return names.find(key, Reason.UNDECLARED_CLASS)

        return boxes.table(lambda key: Picture(f"{key}.jpg"), class_name, left_out, relative=True)


def _class_names(path: str) -> Unique:
    """Names by class; boxes of a class that has two names are left out."""
    require_text(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    names = Unique("name of class")
    for line, row in enumerate(rows, 1):
        if len(row) != 2:
            raise SourceError(f"{path}, line {line}: {len(row)} cells, not a class and its name")
        names.add(*row)
    return names
