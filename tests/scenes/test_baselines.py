"""Baselines: right on cases that can be worked out by hand."""

import numpy as np
import pytest

from ofa_jax.scenes import baselines
from ofa_jax.scenes.source import ScenesSource
from ofa_jax.scenes.truth import truth


@pytest.fixture(scope="module")
def examples():
    source = ScenesSource("tiny", "validation")
    return [source[index] for index in range(300)]


def test_majority():
    assert baselines.majority(["a", "b", "a", "a"]) == ("a", 0.75)
    assert baselines.majority(["b", "a"]) == ("b", 0.5)
    with pytest.raises(ValueError, match="no values"):
        baselines.majority([])


def test_constant_box():
    boxes = np.array([[0, 0, 16, 16]] * 3 + [[16, 16, 32, 32]], np.float32)
    box, share = baselines.constant_box(boxes, 32)
    assert share == 0.75
    shared = np.prod(np.minimum(box[2:], 16) - np.maximum(box[:2], 0))
    area = np.prod(box[2:] - box[:2])
    assert shared / (area + 256 - shared) >= 0.5
    _, share = baselines.constant_box(np.array([[0, 0, 32, 32]]), 32, threshold=1.0)
    assert share == 1.0


def test_constant_caption(examples):
    caption, share = baselines.constant_caption(examples)
    assert share == np.mean([truth(example["scene"], caption) for example in examples])
    assert 0.03 < share < 0.3


def test_region_answers(examples):
    shares = baselines.region_answer_shares(examples)
    assert shares["chance"] == pytest.approx((1 / 6 + 1 / 4) / 2)
    assert shares["chance"] < shares["any_object"] < 1
    # A guess among the objects is right where the region does not matter, else half of the time.
    needed = [e["needs_region"] for example in examples for e in example["region_qa"]]
    assert shares["any_object"] == pytest.approx(1 - np.mean(needed) / 2)


def test_majority_code():
    assert baselines.majority_code(np.array([[3, 1], [3, 3]])) == (3, 0.75)


def test_all_baselines_leave_room(examples):
    table = baselines.baselines(examples, codes=np.zeros((2, 4, 4), int))
    assert table["image_infilling"] == {"majority": 1.0}
    assert set(baselines.baselines(examples)) == set(table) - {"image_infilling"}
    limits = {
        "visual_grounding": 0.25,
        "grounded_captioning": 0.15,
        "vqa": 0.25,
        "image_text_matching": 0.5,
        "captioning": 0.25,
        "detection": 0.1,
        "text_infilling": 0.1,
    }
    for family, limit in limits.items():
        (value,) = table[family].values()
        assert 0 < value <= limit, family
