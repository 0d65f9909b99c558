"""IoU and its accuracy against the official score and hand-computed boxes."""

import json
import tracemalloc

import numpy as np
import pytest

from ofa_jax.metrics import grounding
from tests.shared import fixtures_dir


def test_iou_of_known_boxes():
    boxes = [[0, 0, 10, 10], [5, 5, 15, 15], [10, 0, 20, 10], [20, 20, 30, 30]]
    expected = [100 / 100.000001, 25 / 175.000001, 0.0, 0.0]
    np.testing.assert_allclose(grounding.iou(boxes, [0, 0, 10, 10]), expected, rtol=1e-12)


def test_iou_broadcasts():
    assert grounding.iou(np.ones((3, 1, 4)), np.ones((1, 5, 4))).shape == (3, 5)


def test_reversed_box_scores_nothing():
    # Both differences negative: the product of the sides alone would count as an overlap.
    assert grounding.iou([8, 8, 2, 2], [0, 0, 10, 10]) == 0


def test_accuracy_equals_official():
    path = fixtures_dir() / "box_cases.json"
    case = json.loads(path.read_text(encoding="utf-8"))["ap"]
    scores = grounding.paired_ious(case["hyps"], case["refs"]) >= case["thresh"]
    np.testing.assert_array_equal(scores.astype(float), case["scores"])


def test_missing_prediction_is_wrong():
    predicted, true = [None, (0, 0, 4, 4)], [(0, 0, 4, 4), (0, 0, 4, 4)]
    np.testing.assert_allclose(grounding.paired_ious(predicted, true), [0, 1], atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="got 1 and 2"):
        grounding.paired_ious([None], [(0, 0, 1, 1), (0, 0, 1, 1)])
    with pytest.raises(ValueError, match="4 numbers"):
        grounding.iou([0, 0, 1], [0, 0, 1, 1])


def test_the_best_constant_box_needs_no_table_of_all_pairs():
    corners = np.random.default_rng(0).integers(0, 60, (3000, 2))
    boxes = np.concatenate([corners, corners + 40], axis=1)
    few = boxes[:300]
    hits = (grounding.iou(few[:, None], few[None]) >= 0.5).mean(axis=0)
    assert grounding.best_constant(few) == (hits.argmax(), hits.max())
    tracemalloc.start()
    index, share = grounding.best_constant(boxes)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert share == np.mean(grounding.iou(boxes[index], boxes) >= 0.5)
    assert largest < 40 << 20
