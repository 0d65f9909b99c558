"""Boxes that follow their picture: scaled, shifted, mirrored, clipped, dropped.

A box is x0, y0, x1, y1 in pixels (left, top, right, bottom), float32[n, 4] everywhere.
"""

from __future__ import annotations

import numpy as np

# Pixels by which a box may stick out in training: annotations rounded to integers do.
TOLERANCE = 1.0


def as_boxes(boxes: np.ndarray | list) -> np.ndarray:
    """Boxes as an array, the empty list included.

    Args:
      boxes: float[n, 4], or float[4] for one box.

    Returns:
      float32[n, 4].

    Raises:
      ValueError: the last axis is not 4.
    """
    boxes = np.asarray(boxes, np.float32)
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise ValueError(f"boxes must have the shape [n, 4], got {boxes.shape}")
    return boxes.reshape(-1, 4)


def scale_boxes(
    boxes: np.ndarray, from_size: tuple[int, int], to_size: tuple[int, int]
) -> np.ndarray:
    """Boxes of an image that was resized.

    Args:
      boxes: float[n, 4] pixels of the old image.
      from_size: width and height of the old image.
      to_size: width and height of the new image.

    Returns:
      float32[n, 4] pixels of the new image; the axes are scaled independently.
    """
    ratio_x, ratio_y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    return as_boxes(boxes) * np.array([ratio_x, ratio_y, ratio_x, ratio_y], np.float32)


def shift_boxes(boxes: np.ndarray, left: float, top: float) -> np.ndarray:
    """Boxes in a window of the image.

    Args:
      boxes: float[n, 4] pixels of the image.
      left: column of the window's left edge, in pixels.
      top: row of the window's upper edge, in pixels.

    Returns:
      float32[n, 4] pixels of the window, not clipped.
    """
    return as_boxes(boxes) - np.array([left, top, left, top], np.float32)


def mirror_boxes(boxes: np.ndarray, width: float) -> np.ndarray:
    """Boxes of an image mirrored left to right.

    Args:
      boxes: float[n, 4] pixels.
      width: width of the image in pixels.

    Returns:
      float32[n, 4] with x0' = width - x1 and x1' = width - x0.
    """
    x0, y0, x1, y1 = as_boxes(boxes).T
    return np.stack([width - x1, y0, width - x0, y1], axis=1).astype(np.float32)


def clip_boxes(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """The part of each box inside the image; a box outside becomes a line or a point.

    Args:
      boxes: float[n, 4] pixels.
      width: width of the image in pixels.
      height: height of the image in pixels.

    Returns:
      float32[n, 4].
    """
    limits = np.array([width, height, width, height], np.float32)
    return np.clip(as_boxes(boxes), np.float32(0), limits)


def has_area(boxes: np.ndarray) -> np.ndarray:
    """bool[n]: which boxes have a width and a height above zero."""
    boxes = as_boxes(boxes)
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def in_first_pixel(boxes: np.ndarray | list) -> bool:
    """Whether there are boxes and all lie within the pixel at the left top: fractions, it seems."""
    boxes = as_boxes(boxes)
    return len(boxes) > 0 and bool(np.all((boxes[:, 2:] <= 1) & (boxes[:, :2] >= -TOLERANCE)))
