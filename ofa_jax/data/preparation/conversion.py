"""One record of a source into one stored example, or the reason why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.preparation import checks
from ofa_jax.data.preparation import images as prepared_images
from ofa_jax.data.preparation.reasons import Reason, RejectedExample, reading_rejection
from ofa_jax.data.preparation.settings import ConversionSettings
from ofa_jax.data.preparation.tally import NO_TRUTH, NOTES
from ofa_jax.data.sources.box_units import STORED_BOXES, TURNED_FRACTIONS, UPRIGHT_BOXES
from ofa_jax.data.sources.example import Example, Records


@dataclasses.dataclass(frozen=True)
class Converted:
    """An example to store.

    Attributes:
      example: of the flat schema.
      removed_boxes: why boxes of it were removed, one reason per box.
      square: uint8[y, x, 3] that image codes are yet to be made of; None: the example is complete.
      notes: what is counted about its image; keys of `tally.NOTES`.
    """

    example: Example
    removed_boxes: tuple[Reason, ...] = ()
    square: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def read_record(records: Records, index: int) -> Example:
    """Reads one record.

    Args:
      records: an open split.
      index: record number.

    Returns:
      The example as the source yields it.

    Raises:
      RejectedExample: the record is damaged, or names a file that is not there.
      OSError: the disk or the network fails, which says nothing about the record.
    """
    try:
        return records[index]
    except FileNotFoundError as error:
        raise reading_rejection(error) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # A source meets whatever people write into files.
        raise reading_rejection(error) from error


def convert(
    example: Example, settings: ConversionSettings, *, with_truth: bool = True
) -> Converted:
    """Checks an example and makes what is stored of it, image codes included. A pure function.

    The two halves are `convert_without_codes` and `with_codes`, for several images at a time.

    Raises:
      RejectedExample: with the reason.
    """
    converted = convert_without_codes(example, settings, with_truth=with_truth)
    return with_codes([converted], settings)[0]


def with_codes(converted: Sequence[Converted], settings: ConversionSettings) -> list[Converted]:
    """Adds `image_codes` to the examples that have images to make them of.

    Args:
      converted: examples of one preparation.
      settings: which tokenizer, which part.

    Returns:
      The complete examples, in the same order.
    """
    squares = [one.square for one in converted if one.square is not None]
    if not squares:
        return list(converted)
    codes = iter(prepared_images.image_codes(squares, settings))
    return [
        one
        if one.square is None
        else dataclasses.replace(
            one, example={**one.example, "image_codes": next(codes)}, square=None
        )
        for one in converted
    ]


def convert_without_codes(
    example: Example, settings: ConversionSettings, *, with_truth: bool = True
) -> Converted:
    """Checks an example and makes what is stored of it, but for its image codes. A pure function.

    Texts and numbers are checked before the image, and the image before the boxes, so an
    example with several faults counts under the first of them.

    Args:
      example: of the flat schema; an `image` of pixels is stored as PNG where nothing else is
        asked for.
      settings: limits, filters, resizing, codes.
      with_truth: see `checks.check_fields`.

    Returns:
      The example to store, with the square that codes are made of where they are asked for.

    Raises:
      RejectedExample: with the reason.
    """
    example = dict(example)
    told = tuple(example.pop("notes", ()))
    example = checks.check_fields(example, settings, with_truth=with_truth)
    found = (NO_TRUTH,) if checks.lacks_truth(example) else ()
    data = example.get("image", b"")
    if isinstance(data, np.ndarray):
        data = prepared_images.lossless(data)
    if not data:
        if checks.needs_image(example):
            raise RejectedExample(Reason.EMPTY_IMAGE, "the image has no bytes")
        example, removed = checks.check_boxes(example, None, settings)
        return Converted(example, tuple(fault.reason for fault in removed), notes=found)
    picture = prepared_images.check_image(data, settings)
    notes = (*picture.notes, *(note for note in told if note in NOTES))
    try:
        if (UPRIGHT_BOXES if not settings.upright else STORED_BOXES) in told:
            state, remedy = ("stored", "do not") if settings.upright else ("upright", "do")
            raise RejectedExample(
                Reason.OTHER_SIZE,
                f"its annotations are of the {state} image, and it has a rotation tag: {remedy} "
                "give --upright",
            )
        if TURNED_FRACTIONS in told and settings.upright:
            stored = picture.original[::-1]
            boxes = box_ops.scale_boxes(example["boxes"], stored, picture.original)
            example = {**example, "boxes": boxes}
        example, removed = checks.check_boxes(example, picture.original, settings)
        example = {**example, "image": picture.data}
        if len(example.get("boxes", ())):
            example = _with_moved_boxes(example, picture)
    except RejectedExample as rejection:
        detail = rejection.detail
        if "rotation_tag" in picture.notes and rejection.reason is Reason.BOX_OUTSIDE:
            detail += "; the image has a rotation tag, see --upright"
        raise RejectedExample(rejection.reason, detail, notes) from rejection
    reasons = tuple(fault.reason for fault in removed)
    return Converted(example, reasons, picture.pixels, (*notes, *found))


def _with_moved_boxes(example: Example, picture: prepared_images.CheckedImage) -> Example:
    if picture.stored == picture.original and picture.corner == (0, 0):
        return example
    moved = picture.moved_boxes(example["boxes"])
    if picture.corner != (0, 0):
        moved = box_ops.clip_boxes(moved, *picture.stored)
        inside = box_ops.has_area(moved)
        if not inside.all():
            lost = box_ops.as_boxes(example["boxes"])[~inside][0].tolist()
            raise RejectedExample(Reason.BOX_CROPPED_AWAY, f"box {lost} of the original image")
    return {**example, "boxes": moved}
