"""Answers as they are shown: as plain data, and drawn into the image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ofa_jax.atomic import JsonObject
from ofa_jax.inference.questions import Prediction
from ofa_jax.report.images import DrawnBox, draw_boxes

# Longer sides are reduced before boxes are drawn.
_LONGEST_SIDE = 1024


def as_data(prediction: Prediction, uncertain_below: float) -> dict[str, object]:
    """An answer as JSON values.

    Args:
      prediction: the answer.
      uncertain_below: a box that is less probable is marked.

    Returns:
      text, probability, `answers` (text and probability of each, the best first), and `boxes`:
      box in pixels of the image (left, top, right, bottom), label, probability (None where the
      model gave none), uncertain.
    """
    ranked = (prediction, *prediction.alternatives)
    return {
        "text": prediction.text,
        "probability": prediction.probability,
        "answers": [{"text": one.text, "probability": one.probability} for one in ranked],
        "boxes": [
            {
                "box": [round(side, 1) for side in box],
                "label": label,
                "probability": probability,
                "uncertain": probability is not None and probability < uncertain_below,
            }
            for box, label, probability in _boxes(prediction)
        ],
    }


def drawn(image: np.ndarray, answer: JsonObject) -> Image.Image | None:
    """The image with the boxes of an answer: solid, or dashed where they are uncertain.

    Args:
      image: uint8[y, x, 3].
      answer: of `as_data`.

    Returns:
      RGB, its longer side at most 1,024 pixels; None where there is no box.
    """
    if not answer["boxes"]:
        return None
    pillow = Image.fromarray(np.ascontiguousarray(image))
    size = pillow.size
    pillow.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    boxes = [DrawnBox(one["box"], one["uncertain"], _tag(one)) for one in answer["boxes"]]
    return draw_boxes(pillow, boxes, size, reduce=False)


def _tag(box: JsonObject) -> str:
    share = "" if box["probability"] is None else f"{box['probability']:.0%}"
    return " ".join(part for part in (box["label"], share, "?" * box["uncertain"]) if part)


def _boxes(prediction: Prediction) -> list[tuple[tuple[float, ...], str, float | None]]:
    if prediction.objects:
        probabilities = prediction.object_probabilities or (None,) * len(prediction.objects)
        return [(box, label, p) for (box, label), p in zip(prediction.objects, probabilities)]
    if prediction.box is None:
        return []
    return [(prediction.box, "", prediction.box_probability)]
