"""OpenImages' CSV files of boxes beside a folder of pictures.

`*-annotations-bbox.csv` has a line per box, in fractions of the picture's sides; the class file
(`class-descriptions-boxable.csv`) names the classes. Lines of one picture are found by offset and
parsed when the picture is read, since the training file has 14.6 million of them.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ofa_jax.data.sources import lines, split_paths
from ofa_jax.data.sources.annotated_pictures import AnnotatedPictures, Row
from ofa_jax.data.sources.errors import SourceError

_SIDES = ("XMin", "YMin", "XMax", "YMax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenImagesBoxes(AnnotatedPictures):
    """One example per picture.

    Attributes:
      boxes: the CSV file of boxes, with its header.
      classes: the CSV file of class names, without header.
      with_groups: whether to keep boxes around a group of things (`IsGroupOf`).
    """

    boxes: split_paths.Paths
    classes: split_paths.Paths
    with_groups: bool = False

    def table(self, split: str) -> Sequence[Row]:
        """Finds the lines of each picture."""
        path = split_paths.file(self.boxes, split, "OpenImages boxes")
        names = _class_names(split_paths.file(self.classes, split, "OpenImages class names"))
        header = next(csv.reader([lines.line(path, 0).decode("utf-8-sig")]))
        needed = {"ImageID", "LabelName", *_SIDES}
        if missing := needed - set(header):
            raise SourceError(f"{path}, line 1: the header lacks {', '.join(sorted(missing))}")
        column = header.index("ImageID")
        content = lines.content(path)
        pictures: dict[str, list[tuple[int, int]]] = {}

        def picture(place: tuple[int, tuple[int, int]]) -> str:
            start, end = place[1]
            cells = content[start:end].split(b",", column + 1)
            return cells[column].decode("utf-8", "replace") if len(cells) > column else ""

        places = enumerate(lines.spans(path)[1:].tolist(), 1)
        for name, run in itertools.groupby(places, picture):
            numbers = [number for number, _ in run]
            pictures.setdefault(name, []).append((numbers[0], numbers[-1] + 1))
        return _Pictures(
            path, tuple(header), names, tuple(pictures.items()), self.with_groups
        ).with_boxes()


def _class_names(path: str) -> dict[str, str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise SourceError(f"{path}, line {number}: {len(row)} cells, not a class and its name")
    return dict(rows)


@dataclasses.dataclass(frozen=True)
class _Pictures(Sequence):
    """Rows parsed on demand.

    Attributes:
      path: the file of boxes.
      header: its columns.
      names: class to name.
      runs: for each picture, ranges of its lines.
      with_groups: whether to keep boxes around groups.
    """

    path: str
    header: tuple[str, ...]
    names: dict[str, str]
    runs: tuple[tuple[str, list[tuple[int, int]]], ...]
    with_groups: bool

    def with_boxes(self) -> _Pictures:
        """Without the pictures all of whose boxes are left out."""
        if self.with_groups or "IsGroupOf" not in self.header:
            return self
        return dataclasses.replace(
            self,
            runs=tuple(run for run in self.runs if any(self._kept(line) for line in _lines(run))),
        )

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, index):
        identifier, _ = self.runs[index]
        boxes, labels = [], []
        for line in _lines(self.runs[index]):
            start = int(lines.spans(self.path)[line][0])
            try:
                cells = self._cells(line)
                if self.with_groups or cells.get("IsGroupOf") != "1":
                    boxes.append([float(cells[side]) for side in _SIDES])
                    labels.append(self.names[cells["LabelName"]])
            except KeyError as error:
                raise self._error(start, f"the class {error} has no name") from error
            except ValueError as error:
                raise self._error(start, error) from error
        fields = {
            "image_id": identifier,
            "boxes": np.array(boxes, np.float32),
            "labels": labels,
            "objects": list(dict.fromkeys(labels)),
            "type": "detection",
        }
        return Row(f"{self.path}, image {identifier}", f"{identifier}.jpg", fields, relative=True)

    def _error(self, start: int, problem: object) -> SourceError:
        return SourceError(f"{self.path}, line {lines.number(self.path, start)}: {problem}")

    def _cells(self, line: int) -> dict[str, str]:
        cells = lines.line(self.path, line).decode("utf-8").split(",")
        if len(cells) != len(self.header):
            raise ValueError(f"{len(cells)} columns, the header has {len(self.header)}")
        return dict(zip(self.header, cells))

    def _kept(self, line: int) -> bool:
        # A damaged line is kept, so that reading it says what is wrong.
        cells = lines.line(self.path, line).split(b",")
        place = self.header.index("IsGroupOf")
        return len(cells) <= place or cells[place] != b"1"


def _lines(run: tuple[str, list[tuple[int, int]]]) -> list[int]:
    return [line for start, end in run[1] for line in range(start, end)]
