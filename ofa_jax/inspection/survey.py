"""Counts and measures of a sample of records: fields, kinds, lengths, sizes, faults.

Second station of an inspection: what `charts`, `summary` and `page` show. Images are only opened
as far as their headers, so a thousand records take a second or two.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.ops.image_files import BadImageError, is_cut_off, read_header
from ofa_jax.data.sources import schema
from ofa_jax.data.sources.array_record import in_turn
from ofa_jax.data.sources.box_units import OTHER_SHAPE, UPRIGHT_BOXES
from ofa_jax.data.sources.bucket_file import BucketError
from ofa_jax.data.sources.errors import Reason
from ofa_jax.data.sources.example import Example, Records
from ofa_jax.data.sources.left_out import LeftOut

# Fields whose texts are measured in words, and their names in charts.
TEXTS = {
    "captions": "caption",
    "question": "question",
    "answers": "answer",
    "refexps": "referring expression",
    "region_captions": "region caption",
    "labels": "label",
    "hypothesis": "hypothesis",
    "text": "text",
    "summary": "summary",
    "sentence1": "first sentence",
    "sentence2": "second sentence",
}
# Fields whose most frequent values are listed.
_LISTED = ("labels", "answers", "label")
_SHOWN_FAULTS = 5
# What sources say about a record that is worth a look.
_NOTES = {
    OTHER_SHAPE: "image of another shape than its annotations say",
    UPRIGHT_BOXES: "boxes are of the upright image, which is stored turned (--upright)",
}
# The field `caption` repeats the first of `captions`.
_REPEATED = {"caption": "captions"}


@dataclasses.dataclass
class FieldSummary:
    """What one field holds over the sample.

    Attributes:
      name: of the field.
      meaning: from the schema; "" for a field that the schema does not know.
      present: records in which it is there and not empty.
      types: what its values are, in words, with counts.
      entries: number of entries of each non-empty list or array.
      example: the first value, shortened.
    """

    name: str
    meaning: str
    present: int = 0
    types: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    entries: list[int] = dataclasses.field(default_factory=list)
    example: str = ""


@dataclasses.dataclass
class Fault:
    """One way in which records are not as they should be.

    Attributes:
      what: short name.
      count: records with it.
      examples: messages about the first of them.
    """

    what: str
    count: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Survey:
    """What a sample of a split holds.

    Attributes:
      total: records of the split.
      sampled: numbers of the records that were looked at.
      fields: by name, in the order of the schema.
      types: records by `type`.
      data_sets: records by `dataset`.
      words: field to the number of words of each of its texts.
      frequent: field to its values with their counts.
      widths: pixels of each image.
      heights: the same.
      image_bytes: size of each encoded image.
      formats: images by file format.
      turned: images whose EXIF orientation says that they are stored turned.
      boxes: boxes per record that has the field.
      box_sides: square root of each box's share of its image's area, 0 .. 1.
      faults: by short name.
    """

    total: int
    sampled: np.ndarray
    fields: dict[str, FieldSummary] = dataclasses.field(default_factory=dict)
    types: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    data_sets: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    words: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    frequent: dict[str, collections.Counter[str]] = dataclasses.field(default_factory=dict)
    widths: list[int] = dataclasses.field(default_factory=list)
    heights: list[int] = dataclasses.field(default_factory=list)
    image_bytes: list[int] = dataclasses.field(default_factory=list)
    formats: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    turned: int = 0
    boxes: list[int] = dataclasses.field(default_factory=list)
    box_sides: list[float] = dataclasses.field(default_factory=list)
    faults: dict[str, Fault] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every record of the split was looked at."""
        return len(self.sampled) == self.total

    @property
    def faulty(self) -> int:
        """Number of faults that were found."""
        return sum(fault.count for fault in self.faults.values())

    def add_fault(self, what: str, message: str) -> None:
        """Counts a fault and keeps the first messages."""
        fault = self.faults.setdefault(what, Fault(what))
        fault.count += 1
        if len(fault.examples) < _SHOWN_FAULTS:
            fault.examples.append(" ".join(message.split())[:300])


def sample_numbers(total: int, limit: int | None) -> np.ndarray:
    """int64[n]: numbers of at most `limit` records, evenly spread over all of them."""
    if limit is None or total <= limit:
        return np.arange(total)
    return np.linspace(0, total - 1, limit).astype(np.int64)


def survey(
    records: Records,
    limit: int | None = 1000,
    *,
    extra_fields: Sequence[str] = (),
    extra_types: Sequence[str] = (),
    split: str = "train",
    keep: Callable[[int, Example], None] | None = None,
) -> Survey:
    """Looks at a sample of records.

    Args:
      records: an open split.
      limit: most records that are read; None reads all.
      extra_fields: fields beside those of the schema that are no fault (`scenes` has some).
      extra_types: the same for types of examples.
      split: its name; in a test split, rows without truth are no fault.
      keep: called with number and example of every record that could be read.

    Returns:
      The survey. Damaged records are counted as faults, never raised.
    """
    found = Survey(len(records), sample_numbers(len(records), limit))
    left_out = getattr(records, "left_out", LeftOut())
    for reason, count in sorted(left_out.counts.items()):
        examples = left_out.named[reason][:_SHOWN_FAULTS]
        found.faults[reason] = Fault(f"left out, {Reason(reason).meaning}", count, examples)
    for number in in_turn(records, found.sampled.tolist()):
        try:
            example = records[number]
        except BucketError:
            raise
        except Exception as error:  # A source meets whatever people write into files.
            found.add_fault("unreadable record", f"record {number}: {error}")
            continue
        for note in example.pop("notes", ()):
            if note in _NOTES:
                found.add_fault(_NOTES[note], _name(number, example))
        _check(found, number, example, extra_fields, extra_types)
        truth = schema.TRUTH.get(str(example.get("type")), ())
        if truth and not schema.may_lack_truth(split) and not schema.is_filled(example, truth[0]):
            told = f"no {truth[0]}: prepare drops it, but in a split named test"
            found.add_fault(told, _name(number, example))
        _add_example(found, number, example)
        if keep is not None:
            keep(number, example)
    order = {name: place for place, name in enumerate(schema.FIELDS)}
    names = sorted(found.fields, key=lambda name: (order.get(name, len(order)), name))
    found.fields = {name: found.fields[name] for name in names}
    return found


def _name(number: int, example: Example) -> str:
    return f"record {number} ({example.get('image_id', 'without image_id')!r})"


def _check(
    found: Survey,
    number: int,
    example: Example,
    extra_fields: Sequence[str],
    extra_types: Sequence[str],
) -> None:
    if example.get("type") in extra_types:
        # Its fields are checked all the same, under a type that asks for the least.
        example = {**example, "type": "image"}
    try:
        schema.check_example(example, _name(number, example), extra=extra_fields)
    except schema.SchemaError as error:
        found.add_fault("not as the schema says", str(error))


def _add_example(found: Survey, number: int, example: Example) -> None:
    where = _name(number, example)
    found.types[str(example.get("type", "none"))] += 1
    if example.get("dataset"):
        found.data_sets[str(example["dataset"])] += 1
    for name, value in example.items():
        _add_field(found, name, value)
        for text in _texts(value) if name in TEXTS else ():
            if text.startswith('"') and text.count('"') % 2:
                say = f"{where}: {name} {shown(text)}: was it cut, or its quote written by hand?"
                found.add_fault("a quote that opens a text and never closes", say)
    size = _add_image(found, where, example.get("image"))
    _add_boxes(found, where, example.get("boxes"), size)


def _add_field(found: Survey, name: str, value: Any) -> None:
    meaning = schema.FIELDS[name].meaning if name in schema.FIELDS else ""
    field = found.fields.setdefault(name, FieldSummary(name, meaning))
    if _is_empty(value):
        field.types["empty"] += 1
        return
    field.present += 1
    field.types[type_in_words(value)] += 1
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim < 3):
        field.entries.append(len(value))
    if not field.example:
        field.example = shown(value)
    if name in TEXTS:
        texts = _texts(value)
        found.words.setdefault(name, []).extend(len(text.split()) for text in texts)
        if name in _LISTED:
            found.frequent.setdefault(name, collections.Counter()).update(texts)


def _texts(value: Any) -> list[str]:
    """The texts of a field that holds one or several."""
    if value is None or isinstance(value, str):
        return [value] if value else []
    return [text for text in value if isinstance(text, str)]


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _add_image(found: Survey, where: str, image: Any) -> tuple[int, int] | None:
    """Measures an image; returns width and height, or None."""
    if image is None or _is_empty(image):
        return None
    if isinstance(image, np.ndarray):
        size, form = (image.shape[1], image.shape[0]), "pixels"
    else:
        try:
            header = read_header(image)
        except BadImageError as error:
            found.add_fault("unreadable image", f"{where}: {error}")
            return None
        size, form = header.size, header.form
        if is_cut_off(image):
            found.add_fault("image file is cut off", f"{where}: {len(image):,} bytes")
        found.turned += header.orientation != 1
        found.image_bytes.append(len(image))
    found.widths.append(size[0])
    found.heights.append(size[1])
    found.formats[form] += 1
    return size


def _add_boxes(found: Survey, where: str, boxes: Any, size: tuple[int, int] | None) -> None:
    if boxes is None:
        return
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    found.boxes.append(len(boxes))
    if size is None or not len(boxes):
        return
    if box_ops.in_first_pixel(boxes) and min(size) > 2:
        found.add_fault(
            "all boxes within the first pixel: fractions? (--boxes=fractions)",
            f"{where}: such as {boxes[0].tolist()}",
        )
        return
    finite = np.isfinite(boxes).all(axis=1)
    x0, y0, x1, y1 = boxes[finite].T
    if len(x0) and bool(np.all((x0 >= size[0]) | (y0 >= size[1]) | (x1 <= 0) | (y1 <= 0))):
        found.add_fault(
            "all boxes outside the image: of another size? (--scale_boxes=true)",
            f"{where}: such as {boxes[finite][0].tolist()} in {size[0]} x {size[1]} pixels",
        )
        return
    right = (x0 < x1) & (y0 < y1) & (x0 >= -1) & (y0 >= -1)
    right &= (x1 <= size[0] + 1) & (y1 <= size[1] + 1)
    if bad := int((~finite).sum() + (~right).sum()):
        first = boxes[~finite].tolist() or boxes[finite][~right].tolist()
        found.add_fault(
            "box inverted or outside its image",
            f"{where}: {bad} of {len(boxes)}, such as {first[0]} in {size[0]} x {size[1]} pixels",
        )
    shares = (x1 - x0)[right] * (y1 - y0)[right] / (size[0] * size[1])
    found.box_sides.extend(np.sqrt(np.clip(shares, 0, 1)).tolist())


def type_in_words(value: object) -> str:
    """What a value is, in words: "text", "list of text", "float32 array"."""
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, str):
        return "text"
    if isinstance(value, np.ndarray):
        shape = ", ".join(["n", *map(str, value.shape[1:])]) if value.ndim < 3 else "y, x, 3"
        return f"{value.dtype}[{shape}]"
    if isinstance(value, list | tuple):
        return f"list of {type_in_words(value[0])}"
    if isinstance(value, Mapping):
        return "fields"
    return type(value).__name__


def shown(value: Any, width: int = 60) -> str:
    """A value on one line of at most `width` characters."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, np.ndarray) and value.ndim >= 3:
        return " x ".join(map(str, value.shape))
    if isinstance(value, np.ndarray):
        first = np.round(value[0].astype(np.float64), 2).tolist() if value.ndim > 1 else None
        text = str(first if first is not None else value[:8].tolist())
    elif isinstance(value, list | tuple):
        text = ", ".join(shown(item, width) for item in value[:3])
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key}: {shown(item, 20)}" for key, item in value.items())
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"
