"""The official OFA TSV files (SPEC 4.1, 8): one example a line, images as base64.

Random access by byte offset: opening a file scans it once for line starts (and, for the
vision-language file, the type in the last column), reading an example seeks to its line. What the
columns mean stands in `tsv_layouts`.

OFA-NOTE: SPEC 4.1. Cells that a CSV writer has put in quotes are read as it means them: "a ""red""
bus" is a "red" bus, and a quoted cell may hold tabs and line ends. The official code keeps the
quotes.
"""

from __future__ import annotations

import dataclasses
import mmap
import re
from collections.abc import Iterator

import numpy as np

from ofa_jax.data.sources import lines, split_paths
from ofa_jax.data.sources.box_units import BOX_UNITS, with_pixel_boxes
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example, check_index
from ofa_jax.data.sources.file_cache import cached_by_file
from ofa_jax.data.sources.tsv_layouts import LAYOUTS, TYPES, layout
from ofa_jax.schema import require_known

__all__ = ["LAYOUTS", "TYPES", "TsvFormatError", "TsvRecords", "TsvSource"]

# A line that does not have the columns of its layout; names file and line.
TsvFormatError = SourceError

# Lines that one row may take, where a cell in quotes holds line ends.
_LONGEST_ROW = 20
# Tabs and line ends in a cell; what a cell stands after, the first of a file apart.
_BREAKS = re.compile(r"\s*[\t\r\n]\s*")
_BEFORE, _MARK = b"\t\r\n", b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class TsvSource:
    """Examples of official TSV files, one file per split.

    Attributes:
      paths: the file; `{split}` stands for the split, and it may hold `{DATA_DIR}`.
      layout: what the columns are, a key of `LAYOUTS`.
      types: rows of these types only (last column of `vision_language`); empty means all. Rows of
        an unknown type stay in and are errors when they are read.
      columns: names of the file's columns, where they are not the official ones; `_` marks one
        that is not read.
      dataset: name of the data set, where the rows do not say it.
      boxes: what coordinates are: `pixels`, or `fractions` of the image's sides.
    """

    paths: split_paths.Paths
    layout: str
    types: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    dataset: str = ""
    boxes: str = "pixels"

    def __post_init__(self) -> None:
        require_known("unit of boxes", self.boxes, BOX_UNITS)
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
        return TsvRecords(path, self)


@dataclasses.dataclass(frozen=True)
class TsvRecords:
    """Random access to the rows of one file.

    Attributes:
      path: the file.
      source: how its rows become examples.
    """

    path: str
    source: TsvSource

    def __len__(self) -> int:
        return len(self._rows())

    def __getitem__(self, index: int) -> Example:
        rows = self._rows()
        check_index(index, len(rows))
        start, end = rows[index]
        row_layout = layout(self.source.layout, self.source.columns)
        try:
            line = lines.content(self.path)[start:end].decode("utf-8").replace("\0", "")
            cells = split_cells(line, len(row_layout.columns))
            if len(cells) != len(row_layout.columns):
                raise SourceError(
                    f"{len(cells)} columns, layout {self.source.layout!r} has "
                    f"{len(row_layout.columns)}",
                    Reason.WRONG_COLUMN_COUNT,
                )
            example = row_layout.read(dict(zip(row_layout.columns, cells)))
            if self.source.boxes == "fractions" and "boxes" in example:
                example = with_pixel_boxes(example)
        except ValueError as error:
            number = lines.number(self.path, int(start))
            raise TsvFormatError(f"{self.path}, line {number}: {error}") from error
        example.setdefault("image_id", example.get("example_id", str(index)))
        if self.source.dataset:
            example["dataset"] = self.source.dataset
        return example

    def _rows(self) -> np.ndarray:
        return _spans(self.path, self.source.layout, self.source.types, self.source.columns)


def split_cells(line: str, columns: int) -> list[str]:
    """Cells of a row, without the quotes of a CSV writer.

    Args:
      line: the row, without its line end.
      columns: how many the layout has; where there are more, tabs may stand inside quotes.

    Returns:
      The cells; within a quoted one, tabs and line ends become one blank.
    """
    cells = line.split("\t")
    if not line.startswith('"') and '\t"' not in line:
        return cells
    cells = _with_tabs_inside(cells, columns)
    quoted = sum(map(_is_quoted, cells))
    plain = [cell for cell in cells if cell and not _is_quoted(cell)]
    # Writers put every cell in quotes, or every one that is no number.
    every = quoted > 1 and (not plain or (quoted > 2 and all(map(_is_number, plain))))
    return [_unquoted(cell, always=every) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_quoted(cell: str) -> bool:
    """Whether a cell is what a CSV writer makes of one with quotes: all inner ones are doubled."""
    inner = cell[1:-1]
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")


def _with_tabs_inside(cells: list[str], columns: int) -> list[str]:
    """Joins the parts of quoted cells that a tab inside them has parted."""
    if len(cells) <= columns:
        return cells
    for first, cell in enumerate(cells):
        if cell.startswith('"') and not _is_quoted(cell):
            for end in range(first + 2, len(cells) + 1):
                if _is_quoted(whole := "\t".join(cells[first:end])):
                    return _with_tabs_inside([*cells[:first], whole, *cells[end:]], columns)
    return cells


def _unquoted(cell: str, *, always: bool) -> str:
    """A cell without the quotes of a CSV writer.

    A caption that stands in quotes as a whole is none of its making, unless every cell does.
    """
    needed = always or any(mark in cell[1:-1] for mark in ('""', "\t", "\n", "\r"))
    if not needed or not _is_quoted(cell):
        return cell
    return _BREAKS.sub(" ", cell[1:-1].replace('""', '"')).strip()


@cached_by_file(64)
def _spans(path: str, name: str, types: tuple[str, ...], columns: tuple[str, ...]) -> np.ndarray:
    """int64[rows, 2]: begin and end byte of each line with an example of the wanted types.

    Lines whose type is unknown are among them.
    """
    row_layout, spans = layout(name, columns), lines.spans(path)
    memory = lines.content(path)
    spans = _with_quoted_line_ends(spans, memory, len(row_layout.columns))
    start, end = spans[0] if len(spans) else (0, 0)
    # A damaged first line is no header; reading it as a row will say what is wrong.
    first = memory[start:end].decode("utf-8", "replace")
    if row_layout.is_header(split_cells(first, len(row_layout.columns))):
        spans = spans[1:]
    if not types:
        return spans
    # Rows whose type is none, damaged ones, stay: reading them says what is wrong, so that
    # preparation counts them and training skips or names them as it does other bad records.
    others = {name.encode() for name in set(TYPES) - set(types)}
    chosen = [
        row
        for row, (start, end) in enumerate(spans.tolist())
        if memory[memory.rfind(b"\t", start, end) + 1 : end].strip(b'"') not in others
    ]
    return spans[chosen]


def _with_quoted_line_ends(spans: np.ndarray, memory: mmap.mmap, columns: int) -> np.ndarray:
    """Spans of rows, where a quoted cell may go on in the next lines.

    A line that ends inside quotes is joined with those that follow, if they close the quotes and
    complete the columns; one that has all its columns, only with lines that have no tab and so are
    no rows. Everything else stays as it is.
    """
    spans, joined = spans.copy(), np.zeros(len(spans), bool)
    after = -1
    for place in _openings(memory):
        if place < after:
            continue
        row = last = int(np.searchsorted(spans[:, 0], place, side="right")) - 1
        start = int(spans[row, 0])
        whole = memory[start : int(spans[row, 1])].count(b"\t") >= columns - 1
        while _ends_in_quotes(memory[start : int(spans[last, 1])]):
            last += 1
            if last == min(row + _LONGEST_ROW, len(spans)):
                break
            if whole and b"\t" in memory[int(spans[last, 0]) : int(spans[last, 1])]:
                break
        else:
            if last > row and _is_one_row(memory[start : int(spans[last, 1])], columns):
                spans[row, 1] = spans[last, 1]
                joined[row + 1 : last + 1] = True
        after = int(spans[row, 1])
    return spans[~joined]


def _openings(memory: mmap.mmap) -> Iterator[int]:
    """Places, in order, at which a cell begins with a quote."""
    for found in re.finditer(b'"', memory):
        place = found.start()
        marked = place == len(_MARK) and memory[:place] == _MARK
        if place == 0 or marked or memory[place - 1] in _BEFORE:
            yield place


def _ends_in_quotes(line: bytes) -> bool:
    """Whether the last quoted cell of a line is not closed in it."""
    if line.count(b'"') % 2 == 0:
        return False
    cells = line.decode("utf-8", "replace").split("\t")
    first = 0
    while first < len(cells):
        end = first + 1
        if cells[first].startswith('"'):
            ends = range(first + 1, len(cells) + 1)
            end = next((end for end in ends if _is_quoted("\t".join(cells[first:end]))), 0)
            if not end:
                return "\t".join(cells[first:]).count('"') % 2 == 1
        first = end
    return False


def _is_one_row(lines_joined: bytes, columns: int) -> bool:
    """Whether lines make a whole row, in which every line end stands inside quotes."""
    cells = _with_tabs_inside(lines_joined.decode("utf-8", "replace").split("\t"), columns)
    return len(cells) == columns and all(_is_quoted(cell) for cell in cells if "\n" in cell)
