"""COCO's JSON files: captions, instances (Objects365 has the same form), Karpathy's splits."""

from __future__ import annotations

import array
import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_pictures import (
    AnnotatedPictures,
    Row,
    corners,
    read_items,
)
from ofa_jax.data.sources.errors import SourceError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoCaptions(AnnotatedPictures):
    """`captions_train2014.json`: one example per picture, with all its captions.

    Attributes:
      annotations: the JSON files.
    """

    annotations: split_paths.Paths

    def table(self, split: str) -> Sequence[Row]:
        """Joins pictures and captions; pictures without caption are left out."""
        rows = []
        for path in split_paths.files(self.annotations, split, "COCO captions"):
            names: dict[Any, str] = {}
            captions: dict[Any, list[str]] = collections.defaultdict(list)

            def read_image(entry: Any, names=names) -> None:
                names[entry["id"]] = entry["file_name"]

            def read_caption(entry: Any, captions=captions) -> None:
                captions[entry["image_id"]].append(str(entry["caption"]))

            read_items(path, {"images": read_image, "annotations": read_caption})
            _refuse_strangers(path, captions, names)
            for identifier, name in names.items():
                if identifier in captions:
                    fields = caption_fields(str(identifier), captions[identifier])
                    rows.append(Row(f"{path}, image {identifier}", name, fields))
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class KarpathyCaptions(AnnotatedPictures):
    """`dataset_coco.json` and `dataset_flickr30k.json`: all splits in one file.

    Attributes:
      annotations: the JSON file.
      with_restval: whether `train` includes the pictures marked `restval`, as is usual for COCO.
    """

    annotations: split_paths.Paths
    with_restval: bool = True

    def table(self, split: str) -> Sequence[Row]:
        """The pictures of a split and their captions."""
        wanted = {split, "restval"} if split == "train" and self.with_restval else {split}
        rows: list[Row] = []
        path = split_paths.file(self.annotations, split, "Karpathy's splits")
        found = set()

        def read(entry: Any) -> None:
            found.add(entry["split"])
            if entry["split"] not in wanted:
                return
            identifier = str(entry.get("cocoid", entry["imgid"]))
            name = "/".join(filter(None, (entry.get("filepath", ""), entry["filename"])))
            fields = caption_fields(identifier, [str(one["raw"]) for one in entry["sentences"]])
            rows.append(Row(f"{path}, image {identifier}", name, fields))

        read_items(path, {"images": read})
        if not rows:
            raise SourceError(f"{path} has no split {split!r}, only {', '.join(sorted(found))}")
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoInstances(AnnotatedPictures):
    """`instances_train2014.json`, Objects365's `zhiyuan_objv2_train.json`, and the like.

    One example per picture that has boxes, these in the order of the file. Crowds, whose box
    stands for many things, are left out.

    Attributes:
      annotations: the JSON file.
    """

    annotations: split_paths.Paths

    def table(self, split: str) -> Sequence[Row]:
        """Joins pictures, boxes and class names; boxes stay in arrays."""
        path = split_paths.file(self.annotations, split, "COCO instances")
        names: dict[Any, str] = {}
        classes: dict[Any, str] = {}
        pictures, categories, boxes = array.array("q"), array.array("q"), array.array("f")

        def read_image(entry: Any) -> None:
            names[int(entry["id"])] = entry["file_name"]

        def read_category(entry: Any) -> None:
            classes[int(entry["id"])] = str(entry["name"]).strip()

        def read_box(entry: Any) -> None:
            if not entry.get("iscrowd", 0):
                box = corners(entry["bbox"])
                pictures.append(int(entry["image_id"]))
                categories.append(int(entry["category_id"]))
                boxes.extend(box)

        read_items(
            path, {"images": read_image, "annotations": read_box, "categories": read_category}
        )
        picture_of = np.array(pictures, np.int64)
        category_of = np.array(categories, np.int64)
        _refuse_strangers(path, np.unique(picture_of).tolist(), names)
        for category in np.unique(category_of).tolist():
            if category not in classes:
                raise SourceError(f"{path}: boxes of category {category}, which is not declared")
        order = np.argsort(picture_of, kind="stable")
        return _BoxTable(
            path,
            names,
            classes,
            *np.unique(picture_of[order], return_index=True),
            category_of[order],
            np.array(boxes, np.float32).reshape(-1, 4)[order],
        )


@dataclasses.dataclass(frozen=True)
class _BoxTable(Sequence):
    """Rows made on demand: Python objects for tens of millions of boxes would not fit.

    Attributes:
      path: the annotation file.
      names: picture to file name.
      classes: category to name.
      pictures: int64[rows] identifiers.
      starts: int64[rows], the first box of each.
      categories: int64[boxes].
      boxes: float32[boxes, 4], grouped by picture.
    """

    path: str
    names: dict[int, str]
    classes: dict[int, str]
    pictures: np.ndarray
    starts: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index):
        identifier = int(self.pictures[index])
        start = self.starts[index]
        end = self.starts[index + 1] if index + 1 < len(self) else len(self.boxes)
        labels = [self.classes[number] for number in self.categories[start:end].tolist()]
        fields = {
            "image_id": str(identifier),
            "boxes": self.boxes[start:end].copy(),
            "labels": labels,
            "objects": list(dict.fromkeys(labels)),
            "type": "detection",
        }
        return Row(f"{self.path}, image {identifier}", self.names[identifier], fields)


def caption_fields(identifier: str, captions: list[str]) -> dict[str, Any]:
    """Fields of an example of type `caption`, without the picture.

    Args:
      identifier: of the picture.
      captions: at least one.

    Raises:
      ValueError: no caption.
    """
    if not captions:
        raise ValueError(f"image {identifier} has no caption")
    return {
        "image_id": identifier,
        "captions": captions,
        "caption": captions[0],
        "type": "caption",
    }


def _refuse_strangers(path: str, wanted: Any, known: Any) -> None:
    for identifier in wanted:
        if identifier not in known:
            raise SourceError(
                f"{path}: an annotation names the image {identifier}, which is not in 'images'"
            )
