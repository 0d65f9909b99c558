"""The official OFA TSV files (SPEC 4.1, 8): one example a line, images as base64.

Random access by byte offset: opening a file scans it once for line starts (and, for the
vision-language file, the type in the last column), reading an example seeks to its line. What the
columns mean stands in `tsv_layouts`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ofa_jax.data.instruction import Example
from ofa_jax.data.sources import lines, split_paths
from ofa_jax.data.sources.errors import SourceError
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.data.sources.tsv_layouts import LAYOUTS, TYPES, layout

__all__ = ["LAYOUTS", "TYPES", "TsvFormatError", "TsvRecords", "TsvSource"]

# A line that does not have the columns of its layout; names file and line.
TsvFormatError = SourceError


@dataclasses.dataclass(frozen=True)
class TsvSource:
    """Examples of official TSV files, one file per split.

    Attributes:
      paths: split to path, or one path in which `{split}` stands for the split; may hold
        `{DATA_DIR}`.
      layout: key of `LAYOUTS`.
      types: rows of these types only (last column of `vision_language`); empty means all. Rows of
        an unknown type stay in and are errors when they are read.
      columns: names of the file's columns, where they are not the official ones; `_` marks one
        that is not read.
      dataset: name of the data set, where the rows do not say it.
    """

    paths: split_paths.Paths
    layout: str
    types: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    dataset: str = ""

    def __post_init__(self) -> None:
        columns = layout(self.layout, self.columns).columns
        if self.types and columns[-1] != "type":
            raise ValueError(f"layout {self.layout!r} has no column of types to choose by")
        if unknown := set(self.types) - set(TYPES):
            raise ValueError(f"unknown types {sorted(unknown)}; known: {', '.join(TYPES)}")

    def open(self, split: str) -> TsvRecords:
        """Opens the file of a split.

        Raises:
          ValueError: no such file; the message names it.
        """
        path = split_paths.file(self.paths, split, f"{self.layout} rows (SPEC 4.1, 8)")
        return TsvRecords(path, self.layout, self.types, self.columns, self.dataset)


@dataclasses.dataclass(frozen=True)
class TsvRecords:
    """Random access to the rows of one file.

    Attributes:
      path: the file.
      layout: key of `LAYOUTS`.
      types: rows of these types only.
      columns: names of its columns, where they are not the official ones.
      dataset: name of the data set, where the rows do not say it.
    """

    path: str
    layout: str
    types: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    dataset: str = ""

    def __len__(self) -> int:
        return len(self._rows())

    def __getitem__(self, index: int) -> Example:
        rows = self._rows()
        if not 0 <= index < len(rows):
            raise IndexError(f"{self.path} has {len(rows)} rows, there is no number {index}")
        start, end = rows[index]
        row_layout = layout(self.layout, self.columns)
        try:
            cells = lines.content(self.path)[start:end].decode("utf-8").split("\t")
            if len(cells) != len(row_layout.columns):
                raise TsvFormatError(
                    f"{len(cells)} columns, layout {self.layout!r} has {len(row_layout.columns)}"
                )
            example = row_layout.read(dict(zip(row_layout.columns, cells)))
        except ValueError as error:
            number = lines.number(self.path, int(start))
            raise TsvFormatError(f"{self.path}, line {number}: {error}") from error
        example.setdefault("image_id", example.get("example_id", str(index)))
        if self.dataset:
            example["dataset"] = self.dataset
        return example

    def _rows(self) -> np.ndarray:
        return _spans(self.path, self.layout, self.types, self.columns)


@cached_by_file(64)
def _spans(path: str, name: str, types: tuple[str, ...], columns: tuple[str, ...]) -> np.ndarray:
    """int64[rows, 2]: begin and end byte of each line with an example of the wanted types.

    Lines whose type is unknown are among them.
    """
    spans = lines.spans(path)
    memory = lines.content(path)
    start, end = spans[0] if len(spans) else (0, 0)
    # A damaged first line is no header; reading it as a row will say what is wrong.
    first = memory[start:end].decode("utf-8", "replace").split("\t")
    if layout(name, columns).is_header(first):
        spans = spans[1:]
    if not types:
        return spans
    # Rows whose type is none, damaged ones, stay: reading them says what is wrong, so that
    # preparation counts them and training skips or names them as it does other bad records.
    others = {kind.encode() for kind in set(TYPES) - set(types)}
    chosen = [
        row
        for row, (start, end) in enumerate(spans.tolist())
        if memory[memory.rfind(b"\t", start, end) + 1 : end] not in others
    ]
    return spans[chosen]
