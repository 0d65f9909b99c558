"""Columns of records as fields of the flat schema, whatever file the records stand in.

Parquet and arrow files, tables and JSON records name their columns as their authors like; a mapping
says which field each of them is, and here its values become those of the field.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.ops import image as image_ops
from ofa_jax.data.sources import schema
from ofa_jax.data.sources.box_units import corners
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.questions import answer_confidences
from ofa_jax.data.sources.values import optional_text, text

BOX_FORMS = ("xyxy", "xywh")


def field_value(
    field: str,
    value: Any,
    what: str,
    *,
    mapped: Collection[str],
    box_form: str = "xyxy",
    names: Sequence[str] = (),
) -> object:
    """The value of a field.

    Args:
      value: as the file's reader gives it, not None. A single text or number fills a list.
      what: the column, for messages.
      mapped: all fields that have a column; a list that another one of them counts keeps its
        places.
      box_form: one of `BOX_FORMS`.
      names: of the classes that numbers stand for.

    Raises:
      SourceError, ValueError, TypeError: it does not fit the field.
    """
    field_type = schema.FIELDS[field].field_type
    values = value if isinstance(value, list) else [value]
    if field_type in ("text", "texts"):
        if field_type == "text" and isinstance(value, list):
            raise SourceError(f"{what} holds lists, the field {field!r} one text")
        if field_type == "text" or _keeps_places(field, mapped):
            texts = [text(_named(one, names), what) for one in values]
        else:
            texts = [one for v in values if (one := optional_text(_named(v, names), what))]
        return texts[0] if field_type == "text" else texts
    if field_type == "image":
        return _picture(value, what)
    if field_type == "boxes":
        rows = [value] if values and not isinstance(values[0], list) else values
        if any(one is None or None in one for one in rows):
            raise SourceError(f"{what} holds a box without numbers", Reason.NO_BOX)
        return box_ops.as_boxes(list(map(corners, rows)) if box_form == "xywh" else rows)
    if field_type in ("floats", "integers"):
        number = float if field_type == "floats" else int
        return [number(one) for one in values]
    return np.array(value, np.int32)


def completed(example: Example) -> Example:
    """Adds what follows from the fields that are there: confidences, targets of expressions."""
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


def parts(column: str) -> list[str]:
    """Names of a column and of the parts in it: `objects[].bbox` has two."""
    return column.replace("[]", "").split(".")


def reached(value: object, rest: Sequence[str], name: str) -> object:
    """A part of a structure, or of each structure of a list.

    Args:
      value: of the column.
      rest: names of the parts below it, from the outer one.
      name: of the column, for messages.

    Raises:
      SourceError: there is no such part.
    """
    if value is None or not rest:
        return value
    if isinstance(value, list):
        return [reached(one, rest, name) for one in value]
    if not isinstance(value, dict) or rest[0] not in value:
        known = f", only {', '.join(value)}" if isinstance(value, dict) else ""
        raise SourceError(f"column {name!r} has no part {rest[0]!r}{known}", Reason.BAD_FIELDS)
    return reached(value[rest[0]], rest[1:], f"{name}.{rest[0]}")


def _keeps_places(field: str, mapped: Collection[str]) -> bool:
    """Whether a missing entry of a list cannot be left out: another list counts them."""
    others = (name for name, about in schema.FIELDS.items() if about.parallel == field)
    return bool(schema.FIELDS[field].parallel) or any(name in mapped for name in others)


def _named(value: object, names: Sequence[str]) -> object:
    """The name of a class's number; other values as they are."""
    if not names or not isinstance(value, int) or isinstance(value, bool):
        return value
    if not 0 <= value < len(names):
        raise SourceError(f"there is no class {value}, only {len(names)}", Reason.UNDECLARED_CLASS)
    return names[value]


def _picture(value: object, what: str) -> bytes:
    """The file of an image from the forms in which people store it."""
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
        found = f"{len(value)} images" if isinstance(value, list) else type(value).__name__
        raise SourceError(f"{what} holds {found}, not the bytes of an image", Reason.BAD_FIELDS)
    return value
