"""Parquet files, such as exports of hubs: one example a row, columns mapped to fields.

A row is read with its row group, and the last few groups are kept. Going through the rows in
order, as `ofa_jax.prepare` does, reads each group once; shuffled reading reads a group per row, so
prepare such data before training.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import json
import os
import threading
from typing import Any

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.ops import image as image_ops
from ofa_jax.data.sources import schema, split_paths
from ofa_jax.data.sources.box_units import check_box_units, corners, with_pixel_boxes
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import cached_by_file, stamp
from ofa_jax.data.sources.questions import answer_confidences
from ofa_jax.data.sources.reasons import Reason
from ofa_jax.data.sources.values import optional_text, text

BOX_FORMS = ("xyxy", "xywh")

_KEPT_GROUPS = 2


@dataclasses.dataclass(frozen=True)
class ParquetSource:
    """Rows of parquet files.

    Attributes:
      paths: the files; `*` and commas are allowed.
      columns: field of the flat schema to column, or to a part of one: `objects.bbox` is the part
        `bbox` of a structure, or of each structure of a list, which may be written
        `objects[].bbox`. A single text or number fills a list. A picture may be bytes, a structure
        with the part `bytes` as hubs store it, or base64.
      constants: field to a text that all rows have, at least `type`.
      box_form: what four numbers of a box are: `xyxy`, or `xywh` with width and height.
      boxes: what coordinates are: `pixels`, or `fractions` of the picture's sides.
    """

    paths: split_paths.Paths
    columns: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    box_form: str = "xyxy"
    boxes: str = "pixels"

    def __post_init__(self) -> None:
        check_box_units(self.boxes)
        for field in (*dict(self.columns), *dict(self.constants)):
            if field not in schema.FIELDS:
                raise ValueError(f"unknown field {field!r}{schema.nearest(field, schema.FIELDS)}")
        for field in dict(self.constants):
            if schema.FIELDS[field].kind != "text":
                raise ValueError(f"the constant {field!r} is not a text field")
        if self.box_form not in BOX_FORMS:
            raise ValueError(f"boxes are one of {', '.join(BOX_FORMS)}, not {self.box_form!r}")
        if "type" not in {*dict(self.columns), *dict(self.constants)}:
            raise ValueError(
                "the constants say no type of example, such as type=caption"
                f"; known: {', '.join(schema.TYPES)}"
            )

    def open(self, split: str) -> ParquetRecords:
        """Reads the files' footers.

        Raises:
          ValueError: a file is missing or not parquet, or lacks a column.
        """
        paths = split_paths.files(self.paths, split, "parquet rows")
        counts = []
        for path in paths:
            file = _file(path, os.getpid())
            names = file.schema_arrow.names
            for field, column in self.columns:
                if _parts(column)[0] not in names:
                    raise SourceError(
                        f"{path} has no column {column!r} for {field!r}"
                        f"{schema.nearest(column, names)}"
                    )
            counts.append(file.metadata.num_rows)
        return ParquetRecords(self, paths, tuple(np.cumsum(counts, dtype=np.int64).tolist()))


@dataclasses.dataclass(frozen=True)
class ParquetRecords:
    """Random access to the rows of some files.

    Attributes:
      source: how rows become examples.
      paths: the files.
      ends: for each, the number of rows up to and including it.
    """

    source: ParquetSource
    paths: tuple[str, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} rows, there is no number {index}")
        number = bisect.bisect_right(self.ends, index)
        path = self.paths[number]
        row = index - (self.ends[number - 1] if number else 0)
        try:
            example: Example = {}
            for field, column in self.source.columns:
                value = _cell(path, column, row)
                if value is not None:
                    example[field] = self._value(path, field, column, value)
            example.setdefault("image_id", str(index))
            return {**self._completed(example), **dict(self.source.constants)}
        except (ValueError, TypeError) as error:
            raise SourceError(f"{path}, row {row}: {error}") from error

    def _value(self, path: str, field: str, column: str, value: Any) -> Any:
        kind = schema.FIELDS[field].kind
        values = value if isinstance(value, list) else [value]
        what = f"column {column!r}"
        if kind in ("text", "texts"):
            names = _class_names(path, column)
            if kind == "text" and isinstance(value, list):
                raise SourceError(f"{what} holds lists, the field {field!r} one text")
            if kind == "text" or self._keeps_places(field):
                texts = [text(_named(one, names), what) for one in values]
            else:
                texts = [one for v in values if (one := optional_text(_named(v, names), what))]
            return texts[0] if kind == "text" else texts
        if kind == "image":
            return _picture(value, what)
        if kind == "boxes":
            rows = [value] if values and not isinstance(values[0], list) else values
            if any(one is None or None in one for one in rows):
                raise SourceError(f"{what} holds a box without numbers", Reason.NO_BOX)
            measured = self.source.box_form == "xywh"
            return box_ops.as_boxes(list(map(corners, rows)) if measured else rows)
        if kind in ("floats", "integers"):
            number = float if kind == "floats" else int
            return [number(one) for one in values]
        return np.array(value, np.int32)

    def _keeps_places(self, field: str) -> bool:
        """Whether a missing entry of a list cannot be left out: another list counts them."""
        others = (name for name, about in schema.FIELDS.items() if about.parallel == field)
        mapped = dict(self.source.columns)
        return bool(schema.FIELDS[field].parallel) or any(name in mapped for name in others)

    def _completed(self, example: Example) -> Example:
        """Adds what follows from the columns that are there."""
        if self.source.boxes == "fractions" and "boxes" in example:
            example = with_pixel_boxes(example)
        if example.get("captions"):
            example.setdefault("caption", example["captions"][0])
        if "answers" in example and "answer_conf" not in example:
            example["answers"], example["answer_conf"] = answer_confidences(example["answers"])
        boxes, expressions = len(example.get("boxes", ())), example.get("refexps", ())
        if expressions and boxes in (1, len(expressions)):
            targets = list(range(boxes)) if boxes > 1 else [0] * len(expressions)
            example.setdefault("refexp_box_index", targets)
            if boxes == len(expressions):
                example.setdefault("region_captions", expressions)
        return example


def _parts(column: str) -> list[str]:
    """Names of a column and of the parts in it."""
    return column.replace("[]", "").split(".")


def _named(value: Any, names: tuple[str, ...]) -> Any:
    """The name of a class's number; other values as they are."""
    if not names or not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 0 <= value < len(names):
        raise SourceError(f"there is no class {value}, only {len(names)}", Reason.UNDECLARED_CLASS)
    return names[value]


def _picture(value: Any, what: str) -> bytes:
    """The file of a picture from the forms in which people store it."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict) and "bytes" in value:
        if value["bytes"] is None:
            path = value.get("path")
            raise SourceError(f"{what} holds only a path, {path!r}, no bytes", Reason.EMPTY_IMAGE)
        value = value["bytes"]
    if isinstance(value, str):
        return image_ops.decode_base64(value)
    if not isinstance(value, bytes):
        kind = f"{len(value)} pictures" if isinstance(value, list) else type(value).__name__
        raise SourceError(f"{what} holds {kind}, not the bytes of a picture", Reason.BAD_FIELDS)
    return value


@cached_by_file(256)
def _file(path: str, process: int) -> Any:
    """An open file; `process` keeps a forked child from using its parent's."""
    del process
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path} is cut off or not a parquet file: {error}") from error


@cached_by_file(256)
def _class_names(path: str, column: str) -> tuple[str, ...]:
    """Names of a column's classes, which the `datasets` library keeps in the footer."""
    metadata = _file(path, os.getpid()).schema_arrow.metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"]
        for part in (*_parts(column), ""):
            # Lists are written as [X], or {"feature": X, "_type": "Sequence"} by its versions.
            while isinstance(feature, list) or "feature" in feature:
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            feature = feature[part] if part else feature
        return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else ()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ()


@cached_by_file(256)
def _group_ends(path: str, process: int) -> tuple[int, ...]:
    metadata = _file(path, process).metadata
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return tuple(np.cumsum(counts, dtype=np.int64).tolist())


_groups: collections.OrderedDict[tuple[str, Any, int, str], Any] = collections.OrderedDict()
_lock = threading.Lock()


def _cell(path: str, column: str, row: int) -> Any:
    """One value, as plain Python, or None."""
    ends = _group_ends(path, os.getpid())
    group = bisect.bisect_right(ends, row)
    top, *parts = _parts(column)
    with _lock:
        key = (path, stamp(path), group, top)
        if key not in _groups:
            table = _file(path, os.getpid()).read_row_group(group, columns=[top])
            _groups[key] = table.column(top)
        _groups.move_to_end(key)
        values = _groups[key]
        while len({one[:3] for one in _groups}) > _KEPT_GROUPS:
            _groups.popitem(last=False)
    value = values[row - (ends[group - 1] if group else 0)].as_py()
    return _reached(value, parts, top)


def _reached(value: Any, parts: list[str], name: str) -> Any:
    """A part of a structure, or of each structure of a list."""
    if value is None or not parts:
        return value
    if isinstance(value, list):
        return [_reached(one, parts, name) for one in value]
    if not isinstance(value, dict) or parts[0] not in value:
        known = f", only {', '.join(value)}" if isinstance(value, dict) else ""
        raise SourceError(f"column {name!r} has no part {parts[0]!r}{known}", Reason.BAD_FIELDS)
    return _reached(value[parts[0]], parts[1:], f"{name}.{parts[0]}")
