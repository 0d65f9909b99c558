"""Boxes against boxes, one per example: the scores of visual grounding.

Boxes are (x0, y0, x1, y1), left, top, right, bottom, in pixels of the original image, after the
decoder's bins were turned back into pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ofa_jax.metrics.pairing import check_pairs

__all__ = ["IOU_THRESHOLD", "best_constant", "iou", "paired_ious"]

# Smallest IoU that counts as found, in every metric and verdict.
IOU_THRESHOLD = 0.5

_EPSILON = 1e-6
_PAIRS_AT_ONCE = 1 << 17


def _as_boxes(boxes: ArrayLike, name: str) -> np.ndarray:
    """float64[..., 4] of `boxes`, or a ValueError that says what is wrong."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] != 4:
        raise ValueError(
            f"{name} must have 4 numbers (x0, y0, x1, y1) last, got shape {array.shape}"
        )
    return array


def iou(boxes_a: ArrayLike, boxes_b: ArrayLike) -> np.ndarray:
    """Intersection over union, element by element with broadcasting.

    Formula of the official RefCOCO score (SPEC 7.6): area(A and B) / (area(A) + area(B) -
    area(A and B) + 1e-6). Areas are products of differences, without a "+1 pixel"; boxes that
    only touch, or whose overlap is empty in one direction, score 0.

    Args:
      boxes_a: float[..., 4], pixels.
      boxes_b: float[..., 4], pixels, broadcast against `boxes_a`.

    Returns:
      float64[...] in [0, 1).

    Raises:
      ValueError: where the last dimension is not 4.
    """
    a = _as_boxes(boxes_a, "boxes_a")
    b = _as_boxes(boxes_b, "boxes_b")
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    sides = high - low
    overlap = sides[..., 0] * sides[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    meets = (sides > 0).all(axis=-1)
    union = area_a + area_b - overlap + _EPSILON
    return np.where(meets, overlap / np.where(meets, union, 1.0), 0.0)


def paired_ious(predicted: Sequence[Sequence[float] | None], true: Sequence) -> np.ndarray:
    """IoU of each prediction with its truth; a missing prediction counts 0.

    Args:
      predicted: n boxes in pixels; None where the model's text was no box.
      true: n boxes in pixels.

    Returns:
      float64[n].

    Raises:
      ValueError: where the lengths differ, are zero, or a box has not 4 numbers.
    """
    check_pairs(predicted, true, names="predicted and true boxes")
    filled = [(0.0, 0.0, 0.0, 0.0) if box is None else box for box in predicted]
    return iou(filled, true)


def best_constant(true: ArrayLike) -> tuple[int, float]:
    """The true box that would be right most often if it were given for every object.

    Args:
      true: float[n, 4] boxes in pixels, n at least 1.

    Returns:
      Its index, and the share of the boxes that it finds. Memory does not grow with pairs.
    """
    boxes = _as_boxes(true, "true")
    step = max(1, _PAIRS_AT_ONCE // len(boxes))
    parts = (boxes[start : start + step, None] for start in range(0, len(boxes), step))
    found = np.concatenate([(iou(part, boxes) >= IOU_THRESHOLD).sum(axis=1) for part in parts])
    best = int(found.argmax())
    return best, float(found[best] / len(boxes))
