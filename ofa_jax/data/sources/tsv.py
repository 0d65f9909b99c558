"""The official OFA TSV files (SPEC 4.1): one example a line, images as base64.

Random access by byte offset: opening a file scans it once for line starts (and, for the
vision-language file, the type in the last column), reading an example seeks to its line.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from ofa_jax.data import locations
from ofa_jax.data.instruction import Example
from ofa_jax.data.ops import image as image_ops


class TsvFormatError(ValueError):
    """A line that does not have the columns of its layout; names file and line."""


def _vision_language(columns: list[str]) -> Example:
    identifier, image, caption, question, refs, objects, dataset, kind = columns
    example: Example = {
        "image_id": identifier,
        "image": image_ops.decode_base64(image),
        "captions": [caption],
        "caption": caption,
        "question": question,
        "objects": [name for name in objects.split("&&") if name],
        "dataset": dataset,
        "type": kind,
    }
    if kind == "qa":
        pairs = [item.partition("|!+") for item in refs.split("&&")]
        if not all(separator for _, separator, _ in pairs):
            raise ValueError(f"column 5 is {refs[:60]!r}, not 'confidence|!+answer' joined by &&")
        example["answers"] = [answer for _, _, answer in pairs]
        example["answer_conf"] = [float(confidence) for confidence, _, _ in pairs]
    elif kind == "visual_grounding":
        box = refs.split(",")
        if len(box) != 4:
            raise ValueError(f"column 5 is {refs[:60]!r}, not 'x0,y0,x1,y1'")
        example["boxes"] = np.array([[float(value) for value in box]], np.float32)
        example["refexps"] = [caption]
        example["refexp_box_index"] = [0]
        example["region_captions"] = [caption]
    return example


def _text(columns: list[str]) -> Example:
    return {"image_id": columns[0], "text": columns[1], "type": "text"}


def _image(columns: list[str]) -> Example:
    return {
        "image_id": columns[0],
        "image": image_ops.decode_base64(columns[1]),
        "image_codes": np.array(columns[2].split(), np.int32),
        "type": "image",
    }


def _detection(columns: list[str]) -> Example:
    fields = [item.split(",", 5) for item in columns[2].split("&&")]
    if not all(len(item) == 6 for item in fields):
        raise ValueError(
            f"column 3 is {columns[2][:60]!r}, not 'x0,y0,x1,y1,number,name' joined by &&"
        )
    return {
        "image_id": columns[0],
        "image": image_ops.decode_base64(columns[1]),
        "boxes": np.array([[float(value) for value in item[:4]] for item in fields], np.float32),
        "labels": [item[5] for item in fields],
        "type": "detection",
    }


# What the last column of `vision_language` may say.
TYPES = ("caption", "qa", "visual_grounding")

# Layout name -> number of columns and the function that reads them.
LAYOUTS: Mapping[str, tuple[int, Callable[[list[str]], Example]]] = {
    "vision_language": (8, _vision_language),
    "text": (2, _text),
    "image": (3, _image),
    "detection": (3, _detection),
}


@dataclasses.dataclass(frozen=True)
class TsvSource:
    """Examples of official TSV files, one file per split.

    Attributes:
      paths: split to path; paths may hold `{DATA_DIR}`.
      layout: key of `LAYOUTS`.
      types: rows of these types only (last column of `vision_language`); empty means all.
    """

    paths: tuple[tuple[str, str], ...]
    layout: str
    types: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"unknown TSV layout {self.layout!r}; known: {', '.join(LAYOUTS)}")
        if self.types and self.layout != "vision_language":
            raise ValueError(f"layout {self.layout!r} has no column of types to choose by")
        if unknown := set(self.types) - set(TYPES):
            raise ValueError(f"unknown types {sorted(unknown)}; known: {', '.join(TYPES)}")

    def open(self, split: str) -> TsvRecords:
        """Opens the file of a split.

        Raises:
          ValueError: no such file; the message names it.
        """
        paths = dict(self.paths)
        if split not in paths:
            raise ValueError(f"no {split} file is declared, only {', '.join(paths)}")
        path = pathlib.Path(locations.resolve(paths[split]))
        if not path.is_file():
            raise ValueError(f"{path} does not exist; it should hold {self.layout} rows (SPEC 4.1)")
        return TsvRecords(str(path), self.layout, self.types)


@dataclasses.dataclass(frozen=True)
class TsvRecords:
    """Random access to the rows of one file.

    Attributes:
      path: the file.
      layout: key of `LAYOUTS`.
      types: rows of these types only.
    """

    path: str
    layout: str
    types: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(_offsets(self.path, self.types))

    def __getitem__(self, index: int) -> Example:
        start, end = _offsets(self.path, self.types)[index]
        line = _memory(self.path)[start:end]
        count, read = LAYOUTS[self.layout]
        try:
            columns = line.decode("utf-8").split("\t")
            if len(columns) != count:
                raise TsvFormatError(f"{len(columns)} columns, layout {self.layout!r} has {count}")
            return read(columns)
        except ValueError as error:
            number = _line_number(self.path, start)
            raise TsvFormatError(f"{self.path}, line {number}: {error}") from error


@functools.lru_cache(maxsize=32)
def _memory(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _line_number(path: str, start: int) -> int:
    """Number, from 1, of the line that begins at byte `start`; counted for error messages only."""
    memory, chunk = _memory(path), 1 << 24
    chunks = (memory[begin : min(begin + chunk, start)] for begin in range(0, start, chunk))
    return 1 + sum(part.count(b"\n") for part in chunks)


@functools.lru_cache(maxsize=64)
def _offsets(path: str, types: tuple[str, ...]) -> np.ndarray:
    """int64[rows, 2]: begin and end byte of each line with text, those of the wanted types."""
    if pathlib.Path(path).stat().st_size == 0:
        raise TsvFormatError(f"{path} is empty")
    known = {kind.encode() for kind in TYPES}
    wanted = {kind.encode() for kind in types}
    memory = _memory(path)
    spans = []
    start = 0
    while start < len(memory):
        newline = memory.find(b"\n", start)
        newline = len(memory) if newline < 0 else newline
        end = newline - (newline > start and memory[newline - 1 : newline] == b"\r")
        if end > start:
            kind = memory[memory.rfind(b"\t", start, end) + 1 : end] if wanted else b""
            if wanted and kind not in known:
                raise TsvFormatError(
                    f"{path}, line {_line_number(path, start)}: the last column is "
                    f"{kind[:40].decode(errors='replace')!r}, not one of {', '.join(TYPES)}"
                )
            if not wanted or kind in wanted:
                spans.append((start, end))
        start = newline + 1
    return np.array(spans, np.int64).reshape(-1, 2)
