"""Box average precision of COCO, computed by pycocotools.

A sequence model gives boxes without confidences; the caller may pass what it has (log-probability
of the box's tokens, order of writing). `detection` has scores that need none.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

import numpy as np

from ofa_jax.metrics.dependency import require_package
from ofa_jax.metrics.pairing import check_pairs

# Places of `COCOeval.stats` (its documentation numbers them).
_STATISTICS = {"ap": 0, "ap_50": 1, "ap_75": 2, "ar_100": 8}


def mean_average_precision(
    predicted: Sequence[Sequence[Mapping]], true: Sequence[Sequence[Mapping]]
) -> dict[str, float]:
    """COCO's AP over IoU 0.50:0.95, AP at 0.5 and 0.75, and recall with 100 boxes per image.

    Args:
      predicted: per image its objects: "box" (x0, y0, x1, y1 in pixels), "label", and
        optionally "score" (larger is surer; by default boxes written earlier are surer).
      true: per image its objects: "box", "label".

    Returns:
      {"ap", "ap_50", "ap_75", "ar_100"} in [0, 1]. Labels that no true object has count as wrong
      only where their box covers nothing of their own label, that is: they are left out, as COCO
      leaves out classes without truth.

    Raises:
      ValueError: where the numbers of images differ or are zero, or there is no true object.
      MissingDependencyError: without the package pycocotools.
    """
    check_pairs(predicted, true, names="images of predicted and of true objects")
    names = sorted({item["label"] for group in true for item in group})
    if not names:
        raise ValueError("there are no true objects; average precision is undefined")
    coco = require_package("pycocotools.coco", score="mean average precision")
    cocoeval = require_package("pycocotools.cocoeval", score="mean average precision")
    numbers = {name: index + 1 for index, name in enumerate(names)}
    annotations = []
    for picture, group in enumerate(true):
        for item in group:
            x, y, width, height = _corner_and_size(item["box"])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": numbers[item["label"]],
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    results = [
        {
            "image_id": picture,
            "category_id": numbers[item["label"]],
            "bbox": _corner_and_size(item["box"]),
            "score": float(item.get("score", -place)),
        }
        for picture, group in enumerate(predicted)
        for place, item in enumerate(group)
        if item["label"] in numbers
    ]
    if not results:
        return dict.fromkeys(_STATISTICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": picture} for picture in range(len(true))],
            "categories": [{"id": number, "name": name} for name, number in numbers.items()],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[place]) for name, place in _STATISTICS.items()}


def _corner_and_size(box: Sequence[float]) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in np.asarray(box, np.float64))
    return [x0, y0, x1 - x0, y1 - y0]
