"""Labeled boxes against labeled boxes: recall, precision and F1 of detection.

A sequence model gives boxes without confidences, so average precision has no ranking to work on;
counting one-to-one matches is the honest score. An object is a mapping with "box"
(x0, y0, x1, y1 in pixels) and "label" (text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ofa_jax.metrics.grounding import IOU_THRESHOLD, iou
from ofa_jax.metrics.pairing import check_pairs

__all__ = ["Objects", "detection_scores", "match_objects"]

Objects = Sequence[Mapping]


def match_objects(
    predicted: Objects, true: Objects, *, threshold: float = IOU_THRESHOLD, use_labels: bool = True
) -> list[tuple[int, int, float]]:
    """Pairs predicted with true objects, one to one, best overlap first.

    All pairs with IoU >= threshold (and equal labels) are taken in falling order of IoU, skipping
    objects that are already paired. The order in which the model wrote its objects does not
    matter; ties go to the earlier prediction, then the earlier truth.

    Args:
      predicted: objects of one image.
      true: objects of the same image.
      threshold: smallest IoU (formula of `grounding.iou`) of a match.
      use_labels: also ask for equal labels.

    Returns:
      (index into `predicted`, index into `true`, IoU) per match, best first.

    Raises:
      ValueError: where an object lacks "box" or "label", or a box has not 4 numbers.
    """
    for origin, objects in (("predicted", predicted), ("true", true)):
        for index, item in enumerate(objects):
            if "box" not in item or "label" not in item:
                raise ValueError(
                    f'{origin} object {index} needs "box" and "label", has {sorted(item)}'
                )
    if not predicted or not true:
        return []
    overlaps = iou(
        np.asarray([item["box"] for item in predicted], dtype=np.float64)[:, None],
        np.asarray([item["box"] for item in true], dtype=np.float64)[None, :],
    )
    candidates = [
        (-overlaps[p, t], p, t)
        for p in range(len(predicted))
        for t in range(len(true))
        if overlaps[p, t] >= threshold
        and (not use_labels or predicted[p]["label"] == true[t]["label"])
    ]
    matches: list[tuple[int, int, float]] = []
    used_predicted: set[int] = set()
    used_true: set[int] = set()
    for negative, p, t in sorted(candidates):
        if p not in used_predicted and t not in used_true:
            used_predicted.add(p)
            used_true.add(t)
            matches.append((p, t, float(-negative)))
    return matches


def detection_scores(
    predicted: Sequence[Objects],
    true: Sequence[Objects],
    *,
    threshold: float = IOU_THRESHOLD,
    use_labels: bool = True,
) -> dict[str, float]:
    """Recall, precision and F1 over all objects of all images (micro average).

    Args:
      predicted: per image its predicted objects.
      true: per image its true objects.
      threshold: smallest IoU of a match.
      use_labels: also ask for equal labels.

    Returns:
      {"recall", "precision", "f1"}, shares in [0, 1]. Without any prediction the precision is 0;
      without any true object the recall is 0.

    Raises:
      ValueError: where the numbers of images differ or are zero, or an object is malformed.
    """
    check_pairs(predicted, true, names="images of predicted and of true objects")
    matched = sum(
        len(match_objects(p, t, threshold=threshold, use_labels=use_labels))
        for p, t in zip(predicted, true)
    )
    num_predicted = sum(len(p) for p in predicted)
    num_true = sum(len(t) for t in true)
    recall = matched / num_true if num_true else 0.0
    precision = matched / num_predicted if num_predicted else 0.0
    total = num_true + num_predicted
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * matched / total if total else 0.0,
    }
