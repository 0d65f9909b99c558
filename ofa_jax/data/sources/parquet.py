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
from collections.abc import Mapping
from typing import Any

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.sources import schema, split_paths
from ofa_jax.data.sources.annotated_pictures import corners
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import cached_by_file, stamp

BOX_FORMS = ("xyxy", "xywh")

_KEPT_GROUPS = 2


@dataclasses.dataclass(frozen=True)
class ParquetSource:
    """Rows of parquet files.

    Attributes:
      paths: the files; `*` and commas are allowed.
      columns: field of the flat schema to column; `image.bytes` is the part `bytes` of a column
        of structures, as hubs store pictures. A single text or number fills a list.
      constants: field to a text that all rows have, at least `type`.
      box_form: what four numbers of a box are: `xyxy`, or `xywh` with width and height.
    """

    paths: split_paths.Paths
    columns: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    box_form: str = "xyxy"

    def __post_init__(self) -> None:
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
                if column.split(".")[0] not in names:
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
            if "captions" in example and "caption" not in example and example["captions"]:
                example["caption"] = example["captions"][0]
            example.setdefault("image_id", str(row))
            return {**example, **dict(self.source.constants)}
        except (ValueError, TypeError) as error:
            raise SourceError(f"{path}, row {row}: {error}") from error

    def _value(self, path: str, field: str, column: str, value: Any) -> Any:
        kind = schema.FIELDS[field].kind
        many = isinstance(value, list)
        if kind in ("text", "texts"):
            names = _class_names(path).get(column.split(".")[0], ())
            texts = [_text(one, names) for one in (value if many else [value])]
            if kind == "texts":
                return texts
            if many:
                raise ValueError(f"column {column!r} holds lists, the field {field!r} one text")
            return texts[0]
        if kind == "boxes":
            flat = value and not isinstance(value[0], list)
            rows = [value] if flat else value
            return box_ops.as_boxes(list(map(corners, rows)) if self._measured else rows)
        if kind in ("floats", "integers"):
            number = float if kind == "floats" else int
            return [number(one) for one in (value if many else [value])]
        return np.array(value, np.int32) if kind == "codes" else value

    @property
    def _measured(self) -> bool:
        return self.source.box_form == "xywh"


def _text(value: Any, names: tuple[str, ...]) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if names and isinstance(value, int):
        if not 0 <= value < len(names):
            raise ValueError(f"there is no class {value}, only {len(names)}")
        return names[value]
    return str(value)


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
def _class_names(path: str) -> Mapping[str, tuple[str, ...]]:
    """Names of classes by column, which the `datasets` library keeps in the footer."""
    metadata = _file(path, os.getpid()).schema_arrow.metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {
            column: tuple(feature["names"])
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


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
    top, *parts = column.split(".")
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
    for part in parts:
        if value is None:
            return None
        if not isinstance(value, dict) or part not in value:
            raise ValueError(f"column {top!r} has no part {part!r}")
        value = value[part]
    return value
