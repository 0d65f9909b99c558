"""RefCOCO, RefCOCO+ and RefCOCOg as their authors publish them: `refs(...).p`, `instances.json`.

The list of expressions is a pickle. It is read by the unpickler that runs no code, since these
files travel through many hands (DATA 1.1).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
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
from ofa_jax.restricted_pickle import UnsafePickleError, load_restricted


@dataclasses.dataclass(frozen=True, kw_only=True)
class RefCoco(AnnotatedPictures):
    """One example per expression, as in the official TSV files; splits stand inside `refs`.

    Attributes:
      refs: `refs(unc).p`, `refs(google).p` or `refs(umd).p`; or the same list as JSON.
      instances: `instances.json` of the same folder.
    """

    refs: split_paths.Paths
    instances: split_paths.Paths

    def table(self, split: str) -> Sequence[Row]:
        """Joins expressions, boxes and pictures."""
        names: dict[Any, str] = {}
        boxes: dict[Any, list[float]] = {}

        def read_image(entry: Any) -> None:
            names[entry["id"]] = entry["file_name"]

        def read_box(entry: Any) -> None:
            boxes[entry["id"]] = corners(entry["bbox"])

        instances = split_paths.file(self.instances, split, "RefCOCO's instances")
        read_items(instances, {"images": read_image, "annotations": read_box})
        path = split_paths.file(self.refs, split, "RefCOCO's expressions")
        rows, found = [], set()
        for number, entry in enumerate(_refs(path)):
            try:
                found.add(entry["split"])
                if entry["split"] == split:
                    box = np.array([boxes[entry["ann_id"]]], np.float32)
                    name = names[entry["image_id"]]
                    rows += _rows(f"{path}, ref {number}", entry, name, box)
            except KeyError as error:
                raise SourceError(f"{path}, ref {number}: there is no {error}") from error
            except (TypeError, ValueError) as error:
                raise SourceError(f"{path}, ref {number}: {error}") from error
        if not rows:
            raise SourceError(f"{path} has no split {split!r}, only {', '.join(sorted(found))}")
        return rows


def _rows(place: str, entry: Any, name: str, box: np.ndarray) -> Iterable[Row]:
    for sentence in entry["sentences"]:
        expression = str(sentence["sent"])
        fields = {
            "image_id": str(entry["image_id"]),
            "example_id": str(sentence["sent_id"]),
            "boxes": box,
            "refexps": [expression],
            "refexp_box_index": [0],
            "region_captions": [expression],
            "caption": expression,
            "type": "visual_grounding",
        }
        yield Row(f"{place}, sentence {sentence['sent_id']}", name, fields)


def _refs(path: str) -> list[Any]:
    data = pathlib.Path(path).read_bytes()
    try:
        if pathlib.Path(path).suffix == ".json":
            refs = json.loads(data)
        else:
            refs = load_restricted(data)
    except (UnsafePickleError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    if not isinstance(refs, list):
        raise SourceError(f"{path} does not hold a list of expressions")
    return refs
