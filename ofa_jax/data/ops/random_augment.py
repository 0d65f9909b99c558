"""Random changes of colour and shape for the image-text tasks of pretraining (SPEC 4.4a).

N operations drawn with replacement, each applied with probability 0.5 at magnitude M of 10. The
formulas are those of the OpenCV version that OFA uses, without OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
from PIL import Image

from ofa_jax.data.ops.image import as_rgb

GREY = 128


def random_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    num_operations: int = 2,
    magnitude: int = 7,
    probability: float = 0.5,
) -> np.ndarray:
    """Applies a few random operations of `OPERATIONS`.

    OFA-NOTE: SPEC 4.4a. The official code resets the numpy seed for every item, so that all
    examples of an epoch get the same operations; here each example has its own generator.

    Args:
      image: uint8[y, x, 3].
      rng: source of randomness.
      num_operations: how many operations are drawn, with replacement.
      magnitude: strength, 0 to 10.
      probability: of applying each operation drawn.

    Returns:
      uint8[y, x, 3].
    """
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude must be in 0 .. 10, got {magnitude}")
    image = as_rgb(image)
    names = list(OPERATIONS)
    level = magnitude / 10
    for index in rng.integers(len(names), size=num_operations):
        applied, sign = rng.random() < probability, rng.choice((-1.0, 1.0))
        if applied:
            image = OPERATIONS[names[index]](image, level, sign)
    return image


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches each channel to 0 .. 255: uint8[y, x, 3] to uint8[y, x, 3]."""
    picture = _picture(image)
    tables = []
    for first, last in cast(list[tuple[int, int]], picture.getextrema()):
        table = np.arange(256.0)
        if last > first:
            scale = 255 / (last - first)
            table = np.clip(table * scale - first * scale, 0, 255)
        tables.append(table.astype(np.uint8))
    return _look_up(picture, tables)


def equalise(image: np.ndarray) -> np.ndarray:
    """Flattens the histogram of each channel, as Pillow does: uint8[y, x, 3] likewise."""
    picture = _picture(image)
    tables = []
    for histogram in np.array(picture.histogram()).reshape(3, 256):
        step = histogram[histogram > 0][:-1].sum() // 255
        if step == 0:
            tables.append(np.arange(256, dtype=np.uint8))
            continue
        below = np.concatenate([[step // 2], histogram[:-1]])
        tables.append(np.clip(np.cumsum(below) // step, 0, 255).astype(np.uint8))
    return _look_up(picture, tables)


def brighten(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies all values.

    Args:
      image: uint8[y, x, 3].
      factor: 1 changes nothing.

    Returns:
      uint8[y, x, 3], rounded down and cut at 255.
    """
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor), 0, 255).astype(np.uint8)
    return _look_up(_picture(image), [table] * 3)


def sharpen(image: np.ndarray, factor: float) -> np.ndarray:
    """Moves away from a smoothed copy (3 x 3 kernel of ones with 5 in the middle, over 13).

    OFA-NOTE: SPEC 4.4a. Results outside of 0 .. 255 are cut; converted without a cut, as in the
    official code, they would wrap around and leave bright specks.

    Args:
      image: uint8[y, x, 3].
      factor: 0 gives the smoothed copy, 1 changes nothing, above 1 sharpens.

    Returns:
      uint8[y, x, 3]; the outermost row of pixels on each side stays as it is.
    """
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    # Rows of plain numbers, neighbors three apart. A sum is at most 13 * 255: 16 bits hold twice
    # of it, which is divided by 26 for a mean that is rounded to the nearest.
    wide = image.reshape(height, -1).astype(np.uint16)
    columns = wide[:-2] + wide[1:-1]
    columns += wide[2:]
    total = columns[:, :-6] + columns[:, 3:-3]
    total += columns[:, 6:]
    center = wide[1:-1, 3:-3]
    total += 4 * center
    total *= 2
    total += 13
    total //= 26
    smooth = total.astype(np.float32)
    sharp = center.astype(np.float32)
    sharp -= smooth
    sharp *= np.float32(factor)
    sharp += smooth
    result = image.copy()
    result.reshape(height, -1)[1:-1, 3:-3] = np.clip(sharp, 0, 255, out=sharp)
    return result


def warp(image: np.ndarray, forward: np.ndarray) -> np.ndarray:
    """Moves pixels by an affine map, bilinear, uncovered pixels grey.

    Pillow interpolates with more precision than OpenCV's five bits and does not mix the fill colour
    into the edge: results differ by a grey level inside and at the rim.

    Args:
      image: uint8[y, x, 3].
      forward: float[2, 3] map of (x, y, 1) of old to new pixel positions, pixel centers at whole
        numbers.

    Returns:
      uint8[y, x, 3].
    """
    height, width = image.shape[:2]
    inverse = np.linalg.inv(np.vstack([forward, [0.0, 0.0, 1.0]]))[:2]
    # Pillow puts pixel centers at halves. Rounded below, so that whole positions stay whole.
    inverse[:, 2] += 0.5 - 0.5 * inverse[:, 0] - 0.5 * inverse[:, 1]
    return np.asarray(
        _picture(image).transform(
            (width, height),
            Image.Transform.AFFINE,
            tuple(np.round(inverse, 9).ravel().tolist()),
            Image.Resampling.BILINEAR,
            fillcolor=(GREY,) * 3,
        )
    )


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turns the image around (width / 2, height / 2).

    Args:
      image: uint8[y, x, 3].
      degrees: positive is counter-clockwise.

    Returns:
      uint8[y, x, 3].
    """
    x, y = image.shape[1] / 2, image.shape[0] / 2
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    forward = [
        [cosine, sine, (1 - cosine) * x - sine * y],
        [-sine, cosine, sine * x + (1 - cosine) * y],
    ]
    return warp(image, np.array(forward))


def shear(image: np.ndarray, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Slides rows by `x` pixels per row and columns by `y` pixels per column: uint8[y, x, 3]."""
    return warp(image, np.array([[1.0, x, 0.0], [y, 1.0, 0.0]]))


def translate(image: np.ndarray, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Moves the image by x pixels to the right and y pixels down: uint8[y, x, 3]."""
    # Level times ten is a little off a whole number.
    columns, rows = round(x), round(y)
    if abs(x - columns) > 1e-9 or abs(y - rows) > 1e-9:
        return warp(image, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]))
    height, width = image.shape[:2]
    moved = np.full_like(image, GREY)
    moved[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = image[
        max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)
    ]
    return moved


# Name to operation(image, level in 0 .. 1, sign). Brightness and sharpness have no sign: they are
# never lowered (SPEC 4.4a).
OPERATIONS: dict[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "identity": lambda image, level, sign: image,
    "auto_contrast": lambda image, level, sign: auto_contrast(image),
    "equalise": lambda image, level, sign: equalise(image),
    "brightness": lambda image, level, sign: brighten(image, level * 1.8 + 0.1),
    "sharpness": lambda image, level, sign: sharpen(image, level * 1.8 + 0.1),
    "shear_x": lambda image, level, sign: shear(image, x=sign * level * 0.3),
    "shear_y": lambda image, level, sign: shear(image, y=sign * level * 0.3),
    "translate_x": lambda image, level, sign: translate(image, x=sign * level * 10),
    "translate_y": lambda image, level, sign: translate(image, y=sign * level * 10),
    "rotate": lambda image, level, sign: rotate(image, sign * level * 30),
}


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image))


def _look_up(picture: Image.Image, tables: list[np.ndarray]) -> np.ndarray:
    return np.asarray(picture.point(np.concatenate(tables).tolist()))
