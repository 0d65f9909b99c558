"""Checks of one example's texts, numbers and boxes against the fixed list of reasons.

Images are checked in `pictures`, which has to decode them anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.preparation.reasons import Reason, RejectedExample
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.sources import schema
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.values import is_blank

# Fields that a model reads as language, apart from `text`, which has limits of its own.
_WORDED = (
    "captions",
    "question",
    "answers",
    "labels",
    "region_captions",
    "refexps",
    "objects",
    "summary",
    "sentence1",
    "sentence2",
    "hypothesis",
    "label",
)
# No entry of these lists may be blank, whatever kind of example they stand in.
_NEVER_BLANK = ("answers", "labels", "refexps")
# Longer than this many characters per allowed word is no language but data in a text's place.
_CHARACTERS_PER_WORD = 16


# The word for each part of the truth that a row lacks; texts have one for all.
_MISSING = {"boxes": Reason.NO_BOX, "answers": Reason.NO_ANSWER}


def check_fields(
    example: Example, settings: ConversionSettings, *, with_truth: bool = True
) -> Example:
    """Checks everything of an example but its image and where its boxes lie.

    Args:
      example: what a source yields.
      settings: limits of lengths.
      with_truth: whether an example without captions, answers, boxes or a label is refused, as
        everywhere but in test splits.

    Returns:
      The example; one without truth has no field of it, rather than an empty one.

    Raises:
      RejectedExample: a text is invalid, blank, missing, too short or too long; a number is no
        number; or the example is not as the flat schema says.
    """
    for field, text in _strings(example):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RejectedExample(
                Reason.INVALID_UTF8, f"{field} has half a surrogate pair at {error.start}"
            ) from error
    example_type = example.get("type", "")
    required, truth = schema.TYPES.get(example_type, ()), schema.TRUTH.get(example_type, ())
    for field in required:
        if field != "image" and not schema.is_filled(example, field):
            raise RejectedExample(Reason.EMPTY_TEXT, f"{field} is empty or missing")
    if truth and not schema.is_filled(example, truth[0], zeros=with_truth):
        if with_truth:
            reason = _MISSING.get(truth[0], Reason.EMPTY_TEXT)
            detail = f"no {truth[0]}, which only rows of a test split may lack"
            raise RejectedExample(reason, detail)
        example = _without(example, truth)
        truth = ()
    try:
        schema.check_example({"image": b"", **example}, "the example")
    except schema.SchemaError as error:
        raise RejectedExample(Reason.BAD_FIELDS, str(error)) from error
    for field, text in _strings(example):
        _check_text(field, text, settings, filled=field in (*required, *truth, *_NEVER_BLANK))
    for confidence in example.get("answer_conf", ()):
        if not (math.isfinite(confidence) and 0 <= confidence <= 1):
            raise RejectedExample(Reason.BAD_CONFIDENCE, f"answer_conf {float(confidence)}")
    codes = np.asarray(example.get("image_codes", ()))
    if codes.size and codes.min() < 0:
        raise RejectedExample(Reason.BAD_CODES, f"image_codes holds {int(codes.min())}")
    return example


def lacks_truth(example: Example) -> bool:
    """Whether a checked example has nothing that a model is to say of it."""
    truth = schema.TRUTH.get(example["type"], ())
    return bool(truth) and truth[0] not in example


def needs_image(example: Example) -> bool:
    """Whether an example of this kind is nothing without an image."""
    return "image" in schema.TYPES[example["type"]]


def box_fault(
    box: np.ndarray, size: tuple[int, int] | None, settings: ConversionSettings
) -> RejectedExample | None:
    """What is wrong with one box.

    Args:
      box: float[4], x0, y0, x1, y1 in pixels of the original image.
      size: width and height of the image in pixels; None where there is none.
      settings: tolerance, least side, whether boxes are clipped.

    Returns:
      The rejection, or None for a good box.
    """
    x0, y0, x1, y1 = (float(value) for value in box)
    shown = f"box {[x0, y0, x1, y1]}"
    if not np.isfinite(box).all():
        return RejectedExample(Reason.BOX_NOT_FINITE, shown)
    if x1 < x0 or y1 < y0:
        return RejectedExample(Reason.BOX_INVERTED, shown)
    if size is not None:
        width, height = size
        if box_ops.in_first_pixel(box) and np.any(box) and min(size) > 2:
            detail = f"{shown}: fractions? then give --boxes=fractions"
            return RejectedExample(Reason.BOX_IN_FIRST_PIXEL, detail)
        if settings.clip_boxes:
            outside = x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0
        else:
            outside = max(-x0, -y0, x1 - width, y1 - height) > settings.box_tolerance
        if outside:
            return RejectedExample(Reason.BOX_OUTSIDE, f"{shown} in {width} x {height} pixels")
        if _cuts(settings):
            x0, y0, x1, y1 = (float(value) for value in box_ops.clip_boxes(box, width, height)[0])
    side = min(x1 - x0, y1 - y0)
    if side <= 0 or side < settings.min_box_side:
        return RejectedExample(Reason.BOX_DEGENERATE, f"{shown} has a side of {side:g} pixels")
    return None


def _cuts(settings: ConversionSettings) -> bool:
    """Whether boxes are cut to the picture: training refuses what sticks out further than it."""
    return settings.clip_boxes or settings.box_tolerance > box_ops.TOLERANCE


def check_boxes(
    example: Example, size: tuple[int, int] | None, settings: ConversionSettings
) -> tuple[Example, list[RejectedExample]]:
    """Checks the boxes of an example.

    Args:
      example: of the flat schema.
      size: width and height of its original image in pixels; None where there is none.
      settings: tolerance, least side, treatment of bad boxes.

    Returns:
      The example, boxes clipped and bad ones removed where the settings say so, with what is said
      about them; and the faults of the boxes that were removed.

    Raises:
      RejectedExample: a bad box, or none left, or no expression left.
    """
    boxes = box_ops.as_boxes(example.get("boxes", []))
    faults = {
        number: fault
        for number, box in enumerate(boxes)
        if (fault := box_fault(box, size, settings)) is not None
    }
    if faults and (settings.bad_boxes == "drop_example" or len(faults) == len(boxes)):
        raise next(iter(faults.values()))
    if faults:
        example = without_boxes(example, set(faults))
    if len(boxes) and _cuts(settings) and size is not None:
        example = {**example, "boxes": box_ops.clip_boxes(example["boxes"], *size)}
    return example, list(faults.values())


def without_boxes(example: Example, numbers: set[int]) -> Example:
    """An example without some of its boxes, their labels and the expressions that point to them.

    Args:
      example: of the flat schema.
      numbers: indices of boxes to remove.

    Returns:
      A new example; `refexp_box_index` counts the remaining boxes.

    Raises:
      RejectedExample: no expression is left of an example that had some.
    """
    boxes = box_ops.as_boxes(example["boxes"])
    kept = [number for number in range(len(boxes)) if number not in numbers]
    result = {**example, "boxes": boxes[kept]}
    for name, field in schema.FIELDS.items():
        if field.parallel == "boxes" and name in example:
            result[name] = [example[name][number] for number in kept]
    targets = [int(index) for index in example.get("refexp_box_index", ())]
    if targets:
        place = {old: new for new, old in enumerate(kept)}
        chosen = [row for row, target in enumerate(targets) if target in place]
        if not chosen:
            raise RejectedExample(Reason.NO_BOX, "the box of every expression is bad")
        result["refexps"] = [example["refexps"][row] for row in chosen]
        result["refexp_box_index"] = [place[targets[row]] for row in chosen]
    return result


def _check_text(field: str, text: str, settings: ConversionSettings, *, filled: bool) -> None:
    if is_blank(text):
        # Layouts with a column for every kind of example leave those of other kinds blank.
        if filled:
            raise RejectedExample(Reason.EMPTY_TEXT, f"{field} is blank")
        return
    if field not in (*_WORDED, "text"):
        return
    limit = settings.max_text_words if field == "text" else settings.max_words
    words = len(text.split())
    if limit is not None and (words > limit or len(text) > limit * _CHARACTERS_PER_WORD):
        raise RejectedExample(
            Reason.TEXT_TOO_LONG,
            f"{field} has {words} words and {len(text)} characters; {limit} words are allowed",
        )
    if field in ("captions", "text") and words < settings.min_words:
        raise RejectedExample(
            Reason.TEXT_TOO_SHORT, f"{field} has {words} words, fewer than {settings.min_words}"
        )


def _strings(example: Example) -> Iterator[tuple[str, str]]:
    """Field and value of every string, those in lists included."""
    for field, value in example.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if isinstance(item, str):
                yield field, item


def _without(example: Example, truth: tuple[str, ...]) -> Example:
    """The example without its truth and the lists that go with it."""
    gone = {*truth, *(name for name, field in schema.FIELDS.items() if field.parallel in truth)}
    if "captions" in truth:
        gone.add("caption")
    return {name: value for name, value in example.items() if name not in gone}
