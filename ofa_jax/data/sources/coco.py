"""COCO's JSON files: captions, instances (Objects365 has the same form), Karpathy's splits."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence

from ofa_jax.atomic import JsonObject
from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_images import (
    AnnotatedImages,
    AnnotatedRow,
    BoxedImages,
    Unique,
    read_items,
)
from ofa_jax.data.sources.box_table import BoxCollector, Picture
from ofa_jax.data.sources.box_units import corners
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.left_out import LeftOut
from ofa_jax.data.sources.schema import may_lack_truth
from ofa_jax.data.sources.values import flag, identifier, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoCaptions(AnnotatedImages):
    """`captions_train2014.json`: one example per image, with all its captions.

    Attributes:
      annotations: the JSON files.
    """

    annotations: split_paths.Paths

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Joins images and captions; images without caption stand in test splits only."""
        rows, optional = [], _test_sections(split)
        for path in split_paths.files(self.annotations, split, "COCO captions"):
            pictures = Unique("image")
            captions: dict[int | str, list[str]] = collections.defaultdict(list)

            def read_caption(entry: JsonObject, captions=captions) -> None:
                caption = text(entry["caption"], "the caption")
                captions[identifier(entry["image_id"], "image_id")].append(caption)

            readers = {"images": image_reader(pictures), "annotations": read_caption}
            read_items(path, readers, left_out, optional)
            # In the order of 'images'; what is not listed there follows, and is left out.
            for key in dict.fromkeys((*pictures, *captions)):
                if not (found := captions.get(key, [])) and not optional:
                    continue
                place = f"{path}, image {key}"
                try:
                    picture = pictures.find(key, Reason.UNLISTED_IMAGE)
                except SourceError as error:
                    left_out.add_error(f"{place}, captions", error, len(found))
                    continue
                rows.append(AnnotatedRow(place, picture.name, caption_fields(str(key), found)))
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class KarpathyCaptions(AnnotatedImages):
    """`dataset_coco.json` and `dataset_flickr30k.json`: all splits in one file.

    Attributes:
      annotations: the JSON file.
      with_restval: whether `train` includes the images marked `restval`, as is usual for COCO.
    """

    annotations: split_paths.Paths
    with_restval: bool = True

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """The images of a split and their captions."""
        wanted = {split_paths.usual_split(split)}
        wanted |= {"restval"} if split == "train" and self.with_restval else set()
        rows: list[AnnotatedRow] = []
        path = split_paths.file(self.annotations, split, "Karpathy's splits")
        found = set()

        def read(entry: JsonObject) -> None:
            found.add(split_paths.usual_split(str(entry["split"])))
            if split_paths.usual_split(str(entry["split"])) not in wanted:
                return
            number = text(entry["cocoid"] if "cocoid" in entry else entry["imgid"], "the id")
            name = "/".join(filter(None, (entry.get("filepath"), text(entry["filename"]))))
            place = f"{path}, image {number}"
            captions = left_out.read_each(
                entry["sentences"], lambda one: text(one["raw"], "the caption"), place
            )
            if captions or may_lack_truth(split):
                rows.append(AnnotatedRow(place, name, caption_fields(number, captions)))

        read_items(path, {"images": read}, left_out)
        if not wanted & found:
            raise SourceError(f"{path} has no split {split!r}, only {', '.join(sorted(found))}")
        return rows

    def splits(self) -> tuple[str, ...]:
        """The splits that the file names."""
        path = split_paths.file(self.annotations, "train", "Karpathy's splits")
        found: set[str] = set()
        readers = {"images": lambda entry: found.add(split_paths.usual_split(str(entry["split"])))}
        read_items(path, readers, LeftOut())
        return tuple(sorted(found - {"restval"} if "train" in found else found))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoInstances(BoxedImages):
    """`instances_train2014.json`, Objects365's `zhiyuan_objv2_train.json`, and the like.

    One example per image that has boxes, these in the order of the file; of a test split
    without any box, one per image. Crowds, whose box stands for many things, are left out.

    Attributes:
      annotations: the JSON file.
      scale_boxes: whether boxes follow images that have another size than the file says.
    """

    annotations: split_paths.Paths
    scale_boxes: bool = False

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Joins images, boxes and class names; boxes stay in arrays."""
        path = split_paths.file(self.annotations, split, "COCO instances")
        pictures, classes = Unique("image"), Unique("category")
        boxes = BoxCollector(path)

        def read_category(entry: JsonObject) -> None:
            classes.add(identifier(entry["id"]), text(entry["name"], "the name").strip())

        def read_box(entry: JsonObject) -> None:
            if not flag(entry.get("iscrowd"), "iscrowd"):
                boxes.add(
                    identifier(entry["image_id"], "image_id"),
                    identifier(entry["category_id"], "category_id"),
                    corners(entry.get("bbox")),
                )

        readers = {
            "images": image_reader(pictures),
            "annotations": read_box,
            "categories": read_category,
        }
        read_items(path, readers, left_out, optional := _test_sections(split))
        if optional and not len(boxes):
            return [
                AnnotatedRow(f"{path}, image {key}", pictures[key].name, _without_boxes(key))
                for key in pictures
            ]
        return boxes.table(
            lambda key: pictures.find(key, Reason.UNLISTED_IMAGE),
            lambda key: classes.find(key, Reason.UNDECLARED_CLASS),
            left_out,
            ordered=True,
            relative=self.boxes == "fractions",
        )


def _test_sections(split: str) -> tuple[str, ...]:
    """Sections that the file of a split may lack."""
    return ("annotations", "categories") if may_lack_truth(split) else ()


def _without_boxes(key: int | str) -> Example:
    return {"image_id": str(key), "type": "detection"}


def image_reader(pictures: Unique[Picture]) -> Callable[[JsonObject], None]:
    """What reads an entry of the section 'images'."""

    def read(entry: JsonObject) -> None:
        size = declared_size(entry)
        pictures.add(identifier(entry["id"]), Picture(text(entry["file_name"], "file_name"), size))

    return read


def declared_size(entry: JsonObject) -> tuple[int, int] | None:
    """Width and height of an entry of 'images' in pixels; None where it does not say them."""
    width, height = entry.get("width"), entry.get("height")
    if isinstance(width, int | float) and isinstance(height, int | float):
        return (int(width), int(height)) if width > 0 and height > 0 else None
    return None


def caption_fields(identifier: str, captions: list[str]) -> Example:
    """Fields of an example of type `caption`, without the image.

    Args:
      identifier: of the image.
      captions: none in test splits.
    """
    truth = {"captions": captions, "caption": captions[0]} if captions else {}
    return {"image_id": identifier, **truth, "type": "caption"}
