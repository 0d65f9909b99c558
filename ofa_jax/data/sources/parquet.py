"""Parquet files, such as exports of hubs, and the arrow files of the `datasets` library.

One example a row, columns mapped to fields. Arrow files are what its `save_to_disk` writes.
A row is read with its row group, and the last few groups are kept. Going through the rows in
order, as `ofa_jax.prepare` does, reads each group once; shuffled reading reads a group per row, so
prepare such data before training.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import os
import threading
from typing import Any

from ofa_jax.data.sources import columns, schema, split_paths
from ofa_jax.data.sources.box_units import BOX_UNITS, with_pixel_boxes
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.example import Example, FileRecords, ends_of
from ofa_jax.data.sources.file_cache import cached_by_file, stamp
from ofa_jax.schema import nearest, parse_json, require_known

_KEPT_GROUPS = 2


@dataclasses.dataclass(frozen=True)
class ParquetSource:
    """Rows of parquet files.

    Attributes:
      paths: the files; `*` and commas are allowed.
      columns: field of the flat schema to column (`image=image.bytes,captions=text`), or to a part
        of one: `objects.bbox` is the part `bbox` of a structure, or of each structure of a list,
        which may be written `objects[].bbox`. A single text or number fills a list. An image may
        be bytes, a structure with the part `bytes` as hubs store it, or base64.
      constants: field to a text that all rows have (`type=caption,dataset=sbu`), at least `type`.
      box_form: what four numbers of a box are: `xyxy`, or `xywh` with width and height.
      boxes: what coordinates are: `pixels`, or `fractions` of the image's sides.
    """

    paths: split_paths.Paths
    columns: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    box_form: str = "xyxy"
    boxes: str = "pixels"

    def __post_init__(self) -> None:
        require_known("unit of boxes", self.boxes, BOX_UNITS)
        for field in (*dict(self.columns), *dict(self.constants)):
            require_known("field", field, schema.FIELDS)
        for field in dict(self.constants):
            if schema.FIELDS[field].field_type != "text":
                raise ValueError(f"the constant {field!r} is not a text field")
        require_known("form of boxes", self.box_form, columns.BOX_FORMS)
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
                if columns.parts(column)[0] not in names:
                    raise SourceError(
                        f"{path} has no column {column!r} for {field!r}{nearest(column, names)}"
                    )
            counts.append(_group_ends(path, os.getpid())[-1])
        return ParquetRecords(paths, ends_of(counts), self)


@dataclasses.dataclass(frozen=True)
class ParquetRecords(FileRecords):
    """Random access to the rows of some files.

    Attributes:
      source: how rows become examples.
    """

    source: ParquetSource

    def __getitem__(self, index: int) -> Example:
        path, row = self.place(index)
        try:
            example: Example = {}
            mapped = dict(self.source.columns)
            for field, column in self.source.columns:
                value = _cell(path, column, row)
                if value is not None and not (isinstance(value, str) and not value.strip()):
                    example[field] = columns.field_value(
                        field,
                        value,
                        f"column {column!r}",
                        mapped=mapped,
                        box_form=self.source.box_form,
                        names=_class_names(path, column),
                    )
            example.setdefault("image_id", str(index))
            if self.source.boxes == "fractions" and "boxes" in example:
                example = with_pixel_boxes(example)
            return {**columns.completed(example), **dict(self.source.constants)}
        except (ValueError, TypeError) as error:
            raise SourceError(f"{path}, row {row}: {error}") from error


def schema_of(path: str) -> Any:
    """Arrow's schema of a file.

    Raises:
      SourceError: it is cut off or of another kind.
    """
    return _file(path, os.getpid()).schema_arrow


class _ArrowFile:
    """A stream of record batches, as `save_to_disk` of the `datasets` library writes it.

    Each batch stands for a row group. The file is mapped into memory.
    """

    def __init__(self, path: str):
        import pyarrow

        with pyarrow.ipc.open_stream(pyarrow.memory_map(path)) as reader:
            self.schema_arrow = reader.schema
            self._batches = [batch for batch in reader if batch.num_rows]
        self.ends = ends_of(batch.num_rows for batch in self._batches) or (0,)

    def read_row_group(self, group: int, columns: list[str]) -> Any:
        """Columns of one batch."""
        return self._batches[group].select(columns)


@cached_by_file(256)
def _file(path: str, process: int) -> Any:
    """An open file; `process` keeps a forked child from using its parent's."""
    del process
    import pyarrow
    import pyarrow.parquet

    try:
        if path.endswith(".arrow"):
            return _ArrowFile(path)
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        what = "an arrow stream" if path.endswith(".arrow") else "a parquet file"
        raise SourceError(f"{path} is cut off or not {what}: {error}") from error


@cached_by_file(256)
def _class_names(path: str, column: str) -> tuple[str, ...]:
    """Names of a column's classes, which the `datasets` library keeps in the footer."""
    metadata = _file(path, os.getpid()).schema_arrow.metadata or {}
    try:
        feature = parse_json(metadata[b"huggingface"], path)["info"]["features"]
        for part in (*columns.parts(column), ""):
            # Lists are written as [X], or {"feature": X, "_type": "Sequence"} by its versions.
            while isinstance(feature, list) or "feature" in feature:
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            feature = feature[part] if part else feature
        return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" else ()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return ()


@cached_by_file(256)
def _group_ends(path: str, process: int) -> tuple[int, ...]:
    file = _file(path, process)
    if isinstance(file, _ArrowFile):
        return file.ends
    metadata = file.metadata
    groups = range(metadata.num_row_groups)
    return ends_of(metadata.row_group(group).num_rows for group in groups)


_groups: collections.OrderedDict[tuple[str, Any, int, str], Any] = collections.OrderedDict()
_lock = threading.Lock()


def _cell(path: str, column: str, row: int) -> Any:
    """One value, as plain Python, or None."""
    ends = _group_ends(path, os.getpid())
    group = bisect.bisect_right(ends, row)
    top, *below = columns.parts(column)
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
    return columns.reached(value, below, top)
