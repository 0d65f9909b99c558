"""The flat example schema: what every source yields and what prepared files hold (DESIGN, 5).

An example is a plain dict with some of `FIELDS`. Sources build it, `array_record` stores it,
`ofa_jax.prepare` and `ofa_jax.inspect` check it here, preparation steps of tasks read it.
Images stay as encoded bytes until a task decodes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import TypeGuard

import numpy as np

from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.values import is_blank
from ofa_jax.schema import nearest

__all__ = [
    "FIELDS",
    "FIELD_TYPES",
    "TRUTH",
    "TYPES",
    "Field",
    "SchemaError",
    "check_example",
    "is_filled",
    "may_lack_truth",
]


class SchemaError(ValueError):
    """An example that is not as the schema says; names the place and the field."""


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of the flat schema.

    Attributes:
      field_type: key of `FIELD_TYPES`.
      meaning: what stands in it, with units.
      parallel: name of a field with the same number of entries, or "".
    """

    field_type: str
    meaning: str
    parallel: str = ""


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_integer(value) or isinstance(value, float | np.floating)


def _is_array(value: object, dtypes: str, dimensions: int) -> TypeGuard[np.ndarray]:
    return isinstance(value, np.ndarray) and value.dtype.kind in dtypes and value.ndim == dimensions


def _is_list(value: object, item: Callable[[object], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(item, value))


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON escapes can spell it
        return False
    return True


# Type of field -> whether a value is of it, and its description in messages.
FIELD_TYPES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "image": (
        lambda v: isinstance(v, bytes) or (_is_array(v, "u", 3) and v.dtype == np.uint8),
        "bytes of an image file, or uint8[y, x, 3]",
    ),
    "text": (_is_text, "a string of valid Unicode"),
    "texts": (lambda v: _is_list(v, _is_text), "a list of strings of valid Unicode"),
    "floats": (lambda v: _is_list(v, _is_number) or _is_array(v, "fiu", 1), "a list of numbers"),
    "integers": (
        lambda v: _is_list(v, _is_integer) or _is_array(v, "iu", 1),
        "a list of whole numbers",
    ),
    "codes": (lambda v: _is_array(v, "iu", 1), "an integer array [codes]"),
    "boxes": (lambda v: _is_array(v, "f", 2) and v.shape[1] == 4, "a float array [boxes, 4]"),
}

# In this order fields are stored and shown.
FIELDS: Mapping[str, Field] = {
    "image": Field("image", "the image, encoded (JPEG, PNG, ...); b'' where there is none"),
    "image_id": Field("text", "identifier of the image, of the row where there is no image"),
    "example_id": Field("text", "identifier of the annotation, where the data set has one"),
    "captions": Field("texts", "texts that describe the whole image"),
    "caption": Field("text", "the first of them"),
    "question": Field("text", "a question about the image"),
    "answers": Field("texts", "its answers, each once"),
    "answer_conf": Field("floats", "confidence of each answer, 0 .. 1", "answers"),
    "boxes": Field("boxes", "x0, y0, x1, y1 in pixels of the stored image"),
    "labels": Field("texts", "class name of each box", "boxes"),
    "region_captions": Field("texts", "description of each box", "boxes"),
    "refexps": Field("texts", "expressions that single out one box"),
    "refexp_box_index": Field("integers", "the box that each of them means", "refexps"),
    "objects": Field("texts", "names of objects in the image, found by a detector"),
    "image_codes": Field("codes", "codes of an image tokenizer, row-major (SPEC 4.3.7, 8.5)"),
    "text": Field("text", "a text without image, or the article of a summary"),
    "summary": Field("text", "summary of `text`"),
    "sentence1": Field("text", "first sentence or question of a GLUE row"),
    "sentence2": Field("text", "second sentence of a GLUE row"),
    "hypothesis": Field("text", "claim about the image (SNLI-VE)"),
    "label": Field("text", "class of the whole example, as its data set writes it"),
    "dataset": Field("text", "name of the data set, such as cc12m"),
    "type": Field("text", "what kind of example it is: a key of `TYPES`"),
    "notes": Field("texts", "what a source says about the record; counted, not stored"),
}

# Type of example -> fields that it must have in every split.
TYPES: Mapping[str, tuple[str, ...]] = {
    "caption": ("image",),
    "qa": ("image", "question"),
    "visual_grounding": ("image", "refexps"),
    "detection": ("image",),
    "image": ("image",),
    "text": ("text",),
    "classification": ("image",),
    "entailment": ("image", "hypothesis"),
    "text_to_image": ("captions",),
    "sentences": ("sentence1",),
    "summary": ("text",),
    "ocr": ("image",),
}
# Type of example -> its truth, what a model is to say of it: rows of test splits may lack it.
TRUTH: Mapping[str, tuple[str, ...]] = {
    "caption": ("captions",),
    "qa": ("answers",),
    "visual_grounding": ("boxes", "refexp_box_index"),
    "detection": ("boxes", "labels"),
    "classification": ("label",),
    "entailment": ("label",),
    "sentences": ("label",),
    "summary": ("summary",),
    "ocr": ("captions",),
}


def may_lack_truth(split: str) -> bool:
    """Whether rows of a split may lack their truth: test, testA, test-dev2015 and the like."""
    return split.lower().startswith("test")


def is_filled(example: Example, field: str, *, zeros: bool = True) -> bool:
    """Whether a field of an example says something.

    Args:
      example: of the flat schema.
      zeros: whether boxes of four zeros say something.
    """
    value = example.get(field)
    if isinstance(value, str):
        return not is_blank(value)
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return not all(map(is_blank, value))
    if field == "boxes" and not zeros:
        return bool(np.any(value)) if value is not None else False
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def check_example(example: Example, where: str, *, extra: Collection[str] = ()) -> None:
    """Checks fields, types and numbers of entries; values (pixels, degenerate boxes) it does not.

    Args:
      example: what a source yields.
      where: the place, such as "train.tsv, line 3"; begins the message.
      extra: further field names that are allowed.

    Raises:
      SchemaError: an unknown field or type of example, a field of the wrong kind, a missing
        field, lists that should be parallel but are not, or an expression about a box that is
        not there.
    """
    for name, value in example.items():
        if name in extra:
            continue
        if name not in FIELDS:
            raise SchemaError(f"{where}: unknown field {name!r}{nearest(name, FIELDS)}")
        fits, description = FIELD_TYPES[FIELDS[name].field_type]
        if not fits(value):
            raise SchemaError(f"{where}: field {name!r} must be {description}, not {_shown(value)}")
    given = example.get("type")
    if given not in TYPES:
        raise SchemaError(f"{where}: type is {given!r}{nearest(str(given), TYPES)}")
    truth = TRUTH.get(given, ())
    needed = (*TYPES[given], *(truth if any(name in example for name in truth) else ()))
    if missing := [name for name in needed if name not in example]:
        raise SchemaError(f"{where}: an example of type {given!r} lacks {', '.join(missing)}")
    for name, value in example.items():
        other = FIELDS[name].parallel if name in FIELDS else ""
        if other and len(value) != len(example.get(other, ())):
            raise SchemaError(
                f"{where}: {len(value)} {name} for {len(example.get(other, ()))} {other}"
            )
    boxes = len(example.get("boxes", ()))
    for number in example.get("refexp_box_index", ()):
        if not 0 <= number < boxes:
            raise SchemaError(f"{where}: an expression means box {number} of {boxes}")


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    text = ascii(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
