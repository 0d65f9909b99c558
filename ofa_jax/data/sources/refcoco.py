"""RefCOCO, RefCOCO+ and RefCOCOg as their authors publish them: `refs(...).p`, `instances.json`.

The list of expressions is a pickle. It is read by the unpickler that runs no code, since these
files travel through many hands (DATA 1.1).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from ofa_jax.atomic import JsonObject
from ofa_jax.data.sources import split_paths
from ofa_jax.data.sources.annotated_images import AnnotatedRow, BoxedImages, Unique, read_items
from ofa_jax.data.sources.box_units import corners
from ofa_jax.data.sources.coco import image_reader
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.left_out import READING_ERRORS, LeftOut
from ofa_jax.data.sources.values import identifier, text
from ofa_jax.restricted_pickle import UnsafePickleError, load_restricted
from ofa_jax.schema import parse_json

# Bytes; the largest published list has 13 MB as a pickle and 60 MB as JSON.
_LARGEST = 1 << 27


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefCoco(BoxedImages):
    """One example per expression, as in the official TSV files; splits stand inside `refs`.

    Expressions of gRefCOCO that mean no box or several are left out.

    Attributes:
      refs: `refs(unc).p`, `refs(google).p` or `refs(umd).p`; or the same list as JSON.
      instances: `instances.json` of the same directory.
      scale_boxes: whether boxes follow images that have another size than `instances` says.
    """

    refs: split_paths.Paths
    instances: split_paths.Paths
    scale_boxes: bool = False

    def table(self, split: str, left_out: LeftOut) -> Sequence[AnnotatedRow]:
        """Joins expressions, boxes and images."""
        pictures, boxes = Unique("image"), Unique("annotation")

        def read_box(entry: JsonObject) -> None:
            image = identifier(entry["image_id"]) if "image_id" in entry else None
            boxes.add(identifier(entry["id"]), (image, corners(entry.get("bbox"))))

        instances = split_paths.file(self.instances, split, "RefCOCO's instances")
        readers = {"images": image_reader(pictures), "annotations": read_box}
        # Its faults count where an expression needs them: most boxes of COCO have none.
        read_items(instances, readers, LeftOut())
        path = split_paths.file(self.refs, split, "RefCOCO's expressions")
        rows: list[AnnotatedRow] = []
        found = set()
        wanted = split_paths.usual_split(split).casefold()
        for number, entry in enumerate(_refs(path)):
            place = f"{path}, ref {number}"
            try:
                found.add(str(entry["split"]))
                if split_paths.usual_split(str(entry["split"])).casefold() == wanted:
                    rows += self._rows(place, entry, pictures, boxes, left_out)
            except READING_ERRORS as error:
                left_out.add_error(place, error, entry=entry)
        if wanted not in (split_paths.usual_split(one).casefold() for one in found):
            known = f"only {', '.join(sorted(found))}" if found else f"left out: {left_out}"
            raise SourceError(f"{path} has no split {split!r}, {known}")
        return rows

    def splits(self) -> tuple[str, ...]:
        """The splits that the expressions name."""
        entries = _refs(split_paths.file(self.refs, "train", "RefCOCO's expressions"))
        named = (str(entry["split"]) for entry in entries if "split" in entry)
        return tuple(sorted(set(map(split_paths.usual_split, named))))

    def _rows(
        self, place: str, entry: JsonObject, pictures: Unique, boxes: Unique, left_out: LeftOut
    ) -> Sequence[AnnotatedRow]:
        image = identifier(entry["image_id"], "image_id")
        owner, box = boxes.find(_target(entry["ann_id"]), Reason.MISSING_ANNOTATION)
        if owner not in (None, image):
            raise SourceError(
                f"annotation {entry['ann_id']} is of image {owner}, not {image}",
                Reason.MISSING_ANNOTATION,
            )
        picture = pictures.find(image, Reason.UNLISTED_IMAGE)

        def read(sentence: JsonObject) -> AnnotatedRow:
            expression = text(sentence["sent"], "the expression")
            identity = text(sentence["sent_id"], "sent_id")
            fields = {
                "image_id": str(image),
                "example_id": identity,
                "boxes": np.array([box], np.float32),
                "refexps": [expression],
                "refexp_box_index": [0],
                "region_captions": [expression],
                "caption": expression,
                "type": "visual_grounding",
            }
            relative = self.boxes == "fractions"
            return AnnotatedRow(
                f"{place}, sentence {identity}", picture.name, fields, relative, picture.size
            )

        return left_out.read_each(entry["sentences"], read, f"{place}, sentences")


def _target(value: object) -> int | str:
    """The one annotation that an expression means; gRefCOCO gives lists, [-1] for none."""
    targets = value if isinstance(value, list | tuple) else [value]
    if len(targets) != 1 or targets[0] == -1:
        raise SourceError(f"ann_id is {value!r}, not one annotation", Reason.NOT_ONE_TARGET)
    return identifier(targets[0], "ann_id")


def _refs(path: str) -> list[JsonObject]:
    if (size := os.stat(path).st_size) > _LARGEST:
        raise SourceError(f"{path} has {size:,} bytes; at most {_LARGEST:,} are read")
    data = pathlib.Path(path).read_bytes()
    try:
        if pathlib.Path(path).suffix == ".json":
            refs = parse_json(data, path)
        else:
            refs = load_restricted(data)
    except (UnsafePickleError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(refs, list):
        raise SourceError(f"{path} does not hold a list of expressions")
    return refs
