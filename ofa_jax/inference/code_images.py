"""Image codes as pictures: what evaluation shows of infilled and generated images.

Predictions are lists of codes, not always as many as asked for and not always codes; here they
become pixels through an image tokenizer, one by one for the report, in batches for scores.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from ofa_jax.data.ops.image_tokenizer import ImageTokenizer, decode_all

_DECODED_AT_ONCE = 32


def code_grid(
    codes: np.ndarray, tokenizer: ImageTokenizer, length: int | None = None
) -> np.ndarray:
    """A square grid that can be decoded.

    Args:
      codes: int[n], row by row.
      tokenizer: what is no code of it becomes its nearest one (VQGAN_SPEC 8).
      length: how many codes there should be; missing ones are 0. None = as many as there are, cut
        to a square.

    Returns:
      int32[side, side].
    """
    side = math.isqrt(len(codes) if length is None else length)
    grid = np.zeros(side * side, np.int32)
    kept = np.asarray(codes)[: side * side]
    grid[: len(kept)] = np.clip(kept, 0, tokenizer.num_codes - 1)
    return grid.reshape(side, side)


def with_center(image: np.ndarray, center: np.ndarray | None) -> np.ndarray:
    """An image with its middle replaced.

    Args:
      image: uint8[y, x, 3].
      center: uint8[y', x', 3], brought to half the sides of the image; None = grey.

    Returns:
      uint8[y, x, 3].
    """
    composed = image.copy()
    height, width = image.shape[:2]
    top, bottom, left, right = height // 4, height // 4 * 3, width // 4, width // 4 * 3
    if center is None:
        composed[top:bottom, left:right] = 127
        return composed
    size = (right - left, bottom - top)
    if center.shape[1::-1] != size:
        center = np.asarray(Image.fromarray(center).resize(size, Image.Resampling.BICUBIC))
    composed[top:bottom, left:right] = center
    return composed


def decoded_images(
    predictions: Iterable[np.ndarray], tokenizer: ImageTokenizer, length: int | None = None
) -> Iterator[np.ndarray]:
    """Images uint8[y, x, 3] of many predictions, decoded in batches.

    Args:
      predictions: int[n] each.
      tokenizer: of their codes.
      length: see `code_grid`.
    """
    grids = (code_grid(codes, tokenizer, length) for codes in predictions)
    while batch := list(itertools.islice(grids, _DECODED_AT_ONCE)):
        yield from decode_all(tokenizer, batch)
