"""Random sizes and crops of pretraining, with the boxes that go along (SPEC 4.4).

Each function takes pixels uint8[y, x, 3] (an array or a `Picture`), and boxes float32[n, 4] where
the task has any, and returns new ones. `random_augment` changes colours and shapes and is in a
module of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ofa_jax.data.ops.boxes import (
    as_boxes,
    clip_boxes,
    has_area,
    mirror_boxes,
    scale_boxes,
    shift_boxes,
)
from ofa_jax.data.ops.image import Picture, Pixels, as_pillow, as_rgb, image_size, resize_image


def size_for_short_side(
    width: int, height: int, short_side: int, max_side: int | None = None
) -> tuple[int, int]:
    """Size of an image whose short side is given (SPEC 4.4a).

    Args:
      width: present width in pixels.
      height: present height in pixels.
      short_side: wanted length of the short side.
      max_side: both sides are cut to this, which squashes very long images.

    Returns:
      New width and height; the long side is rounded down. If the short side has the length already
      the size is only cut.
    """
    if min(width, height) != short_side:
        if width < height:
            width, height = short_side, int(short_side * height / width)
        else:
            width, height = int(short_side * width / height), short_side
    if max_side is not None:
        width, height = min(width, max_side), min(height, max_side)
    return width, height


def random_size(
    size: tuple[int, int],
    short_sides: Sequence[int],
    max_side: int | None,
    rng: np.random.Generator,
) -> tuple[int, int]:
    """Draws the size to which an image is resized (SPEC 4.4a).

    Args:
      size: present width and height in pixels.
      short_sides: lengths of the short side to choose from, each equally likely.
      max_side: see `size_for_short_side`.
      rng: source of randomness.

    Returns:
      New width and height.
    """
    short_side = short_sides[int(rng.integers(len(short_sides)))]
    return size_for_short_side(*size, short_side, max_side)


def square_with_boxes(image: Pixels, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Stretches to a square: the input of referring expressions (SPEC 8.2).

    Args:
      image: uint8[y, x, 3].
      boxes: float[n, 4] pixels.
      size: side in pixels.

    Returns:
      uint8[size, size, 3] and float32[n, 4] pixels of the new image; boxes that stick out of the
      image still do.
    """
    boxes = scale_boxes(boxes, image_size(image), (size, size))
    return resize_image(image, size, size), boxes


def crop(image: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """A window of the image; what lies outside is black.

    Args:
      image: uint8[y, x, 3].
      left: column of the window's left edge; may be negative.
      top: row of the window's upper edge; may be negative.
      width: width of the window in pixels.
      height: height of the window in pixels.

    Returns:
      uint8[height, width, 3].
    """
    image = as_rgb(image)
    rows = slice(max(top, 0), max(min(top + height, image.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + width, image.shape[1]), 0))
    inside = image[rows, columns]
    if inside.shape[:2] == (height, width):
        return inside
    window = np.zeros((height, width, 3), np.uint8)
    if inside.size:
        y, x = rows.start - top, columns.start - left
        window[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return window


def resized_window(
    image: Pixels, new: tuple[int, int], left: int, top: int, size: int
) -> np.ndarray:
    """A window of the resized image, without resizing the rest.

    OFA-NOTE: SPEC 4.4a. Pillow keeps the window's place in the image in single precision. Against
    resizing first and cropping then, one or two values in a thousand change by a grey level (or by
    two); a third of the work is saved. Evaluation resizes whole images and has the very pixels.

    Args:
      image: uint8[y, x, 3].
      new: width and height of the resized image.
      left: column of the window's left edge in the resized image; may be negative, but some
        of the image must lie inside.
      top: row of its upper edge; likewise.
      size: side of the square window in pixels.

    Returns:
      uint8[size, size, 3], black outside of the image.
    """
    old = image_size(image)
    if old != new:
        x0, x1 = max(left, 0), min(left + size, new[0])
        y0, y1 = max(top, 0), min(top + size, new[1])
        ratio_x, ratio_y = old[0] / new[0], old[1] / new[1]
        box = (x0 * ratio_x, y0 * ratio_y, min(x1 * ratio_x, old[0]), min(y1 * ratio_y, old[1]))
        picture = as_pillow(image).resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box)
        image, left, top = np.asarray(picture), left - x0, top - y0
    return crop(np.asarray(image), left, top, size, size)


def random_resized_center_crop(
    image: Pixels,
    short_sides: Sequence[int],
    max_side: int | None,
    size: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Resizes to a random size and takes the middle: image-text tasks (SPEC 4.4a).

    Args:
      image: uint8[y, x, 3].
      short_sides: see `random_size`.
      max_side: see `random_size`.
      size: side of the square window in pixels.
      rng: source of randomness.

    Returns:
      uint8[size, size, 3], black where the image is too small.
    """
    new = random_size(image_size(image), short_sides, max_side, rng)
    left, top = (_center_offset(length, size) for length in new)
    return resized_window(image, new, left, top, size)


def random_resized_object_crop(
    image: Pixels,
    boxes: np.ndarray,
    short_sides: Sequence[int],
    max_side: int | None,
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes to a random size and takes a window around the first box (SPEC 4.4b).

    The window is moved into the image. Boxes are shifted by the exact offset and pixels by the
    rounded one, as in the official code.

    Args:
      image: uint8[y, x, 3].
      boxes: float[n, 4] pixels, n at least 1.
      short_sides: see `random_size`.
      max_side: see `random_size`.
      size: side of the window in pixels.
      rng: source of randomness.

    Returns:
      uint8[size, size, 3] and float32[n, 4] pixels of the window, clipped to it; degenerate boxes
      are kept.

    Raises:
      ValueError: there is no box.
    """
    old = image_size(image)
    new = random_size(old, short_sides, max_side, rng)
    boxes = scale_boxes(boxes, old, new)
    if not len(boxes):
        raise ValueError("a crop around an object needs a box to center on, got none")
    x0, y0, x1, y1 = boxes[0].tolist()
    half = size / 2
    width, height = new
    center_x, center_y = (x0 + x1) / 2, (y0 + y1) / 2
    left = max(center_x - half + min(width - center_x - half, 0), 0)
    top = max(center_y - half + min(height - center_y - half, 0), 0)
    window = resized_window(image, new, round(left), round(top), size)
    return window, clip_boxes(shift_boxes(boxes, left, top), size, size)


def random_mirror(
    image: Pixels, boxes: np.ndarray, rng: np.random.Generator, probability: float = 0.5
) -> tuple[Pixels, np.ndarray]:
    """Mirrors left to right with some probability (SPEC 4.4c). Not for tasks with text on sides.

    Args:
      image: uint8[y, x, 3].
      boxes: float[n, 4] pixels.
      rng: source of randomness.
      probability: of mirroring.

    Returns:
      uint8[y, x, 3] and float32[n, 4].
    """
    boxes = as_boxes(boxes)
    if rng.random() >= probability:
        return image, boxes
    mirrored = as_pillow(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Picture(mirrored), mirror_boxes(boxes, mirrored.width)


def large_scale_jitter(
    image: Pixels,
    boxes: np.ndarray,
    size: int,
    rng: np.random.Generator,
    scale_range: tuple[float, float] = (1.0, 1.5),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resizes by a random amount and cuts a random square: detection (SPEC 4.4c).

    Args:
      image: uint8[y, x, 3].
      boxes: float[n, 4] pixels.
      size: side of the result in pixels.
      rng: source of randomness.
      scale_range: the short side becomes `size` times a number from this range.

    Returns:
      uint8[size, size, 3]; float32[k, 4] the boxes that are still visible, clipped, in pixels of
      the result; int64[k] which of the n boxes they are, to choose their labels.
    """
    old = image_size(image)
    target = round(size * rng.uniform(*scale_range))
    scale = max(target / old[0], target / old[1])
    # Rounding must not leave the image smaller than the window.
    new = (max(round(old[0] * scale), size), max(round(old[1] * scale), size))
    left, top = (math.floor(rng.random() * (length - size)) for length in new)
    window = resized_window(image, new, left, top, size)
    moved = clip_boxes(shift_boxes(scale_boxes(boxes, old, new), left, top), size, size)
    visible = np.flatnonzero(has_area(moved))
    return window, moved[visible], visible


def _center_offset(length: int, size: int) -> int:
    """First pixel of a centered window; torchvision pads too short sides, the odd pixel behind."""
    return round((length - size) / 2) if length >= size else -((size - length) // 2)
