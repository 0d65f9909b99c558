"""Boxes as annotation files write them, in pixels of the image that is there.

Files give left, top, width and height or two corners, in pixels or in fractions of the sides, of
the image itself or of a larger one that it was made from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_jax.data.ops import boxes as box_ops
from ofa_jax.data.ops.image_files import read_header
from ofa_jax.data.sources.errors import Reason, SourceError
from ofa_jax.data.sources.example import Example
from ofa_jax.data.sources.values import number
from ofa_jax.schema import shown

BOX_UNITS = ("pixels", "fractions")

# What is said about an image by the size that its annotations give it.
UPRIGHT_BOXES, STORED_BOXES, OTHER_SHAPE = "upright_boxes", "stored_boxes", "other_shape"
TURNED_FRACTIONS = "turned_fractions"

# Pixels by which a side may differ, since sizes are rounded.
_ROUNDING = 1.5


def corners(box: Sequence[object] | None) -> list[float]:
    """x0, y0, x1, y1 of a box given as left, top, width, height.

    Raises:
      SourceError: no box, or not four numbers.
      ValueError: a text that is no number.
    """
    if not isinstance(box, list | tuple) or len(box) != 4 or None in box:
        reason = Reason.BAD_FIELDS if box else Reason.NO_BOX
        raise SourceError(f"the box {shown(box)} is not left, top, width, height", reason)
    left, top, width, height = (number(value, "a side of the box") for value in box)
    return [left, top, left + width, top + height]


def with_pixel_boxes(example: Example) -> Example:
    """An example whose boxes are fractions of its image's sides, with boxes in pixels.

    Args:
      example: with `image` and float[n, 4] `boxes`.

    Returns:
      The example; boxes are float32[n, 4] in pixels of the stored image, and where a rotation tag
      exchanges its sides the notes say that they were fractions.

    Raises:
      BadImageError: not an image.
    """
    header = read_header(example["image"])
    boxes = box_ops.scale_boxes(box_ops.as_boxes(example["boxes"]), (1, 1), header.size)
    told = {"notes": [*example.get("notes", ()), TURNED_FRACTIONS]} if header.swaps_sides else {}
    return {**example, "boxes": boxes, **told}


def placed_boxes(
    boxes: np.ndarray, image: bytes, declared: tuple[int, int], *, follow: bool
) -> tuple[np.ndarray, str]:
    """Boxes in pixels of an image whose annotations may be of another size of it.

    Args:
      boxes: float[n, 4] in pixels of an image of the declared size.
      image: the image's file.
      declared: width and height that the annotations give, in pixels.
      follow: whether boxes follow where the image was resized.

    Returns:
      float32[n, 4]; and what is to be said: `UPRIGHT_BOXES` or `STORED_BOXES`, where a rotation tag
      makes these two, `OTHER_SHAPE`, or "".

    Raises:
      SourceError: the image was resized, and boxes do not follow; or it was turned.
      BadImageError: not an image.
    """
    header = read_header(image)
    turned = header.swaps_sides
    if _same_size(declared, header.size):
        return boxes, STORED_BOXES if turned else ""
    if turned and _same_size(declared, header.upright_size):
        return boxes, UPRIGHT_BOXES
    told = f"the annotations give the image {declared[0]} x {declared[1]} pixels, it has "
    told += f"{header.width} x {header.height}"
    if _same_size(declared, header.size[::-1]):
        raise SourceError(f"{told}: it was turned", Reason.OTHER_SIZE)
    if follow:
        upright = turned and _same_shape(declared, header.upright_size)
        size = header.upright_size if upright else header.size
        note = UPRIGHT_BOXES if upright else STORED_BOXES if turned else ""
        return box_ops.scale_boxes(boxes, declared, size), note
    if _same_shape(declared, header.size):
        raise SourceError(f"{told}: --scale_boxes=true lets its boxes follow", Reason.OTHER_SIZE)
    # It may have been cut, or the annotations are wrong about it: nobody knows.
    return boxes, OTHER_SHAPE


def _same_size(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return all(abs(mine - theirs) <= 1 for mine, theirs in zip(one, other))


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return (
        abs(one[0] * other[1] / one[1] - other[0]) <= _ROUNDING
        or abs(one[1] * other[0] / one[0] - other[1]) <= _ROUNDING
    )
