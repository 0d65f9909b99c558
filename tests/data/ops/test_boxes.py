"""Boxes move with their image."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.data.ops.augment import random_resized_object_crop, square_with_boxes
from ofa_jax.data.ops.boxes import (
    as_boxes,
    clip_boxes,
    has_area,
    mirror_boxes,
    scale_boxes,
    shift_boxes,
)
from ofa_jax.vocab import VocabLayout
from tests.shared import fixtures_dir


@pytest.fixture(scope="module")
def cases() -> dict:
    return json.loads((fixtures_dir() / "box_cases.json").read_text())


def test_referring_expressions_equal_the_official_bins(cases):
    assert len(cases["refcoco"]) == 60
    for case in cases["refcoco"]:
        size = case["patch_image_size"]
        layout = VocabLayout(num_bins=case["num_bins"], max_image_size=case["max_image_size"])
        picture = np.zeros((case["h"], case["w"], 3), np.uint8)
        resized, boxes = square_with_boxes(picture, [case["box"]], size)
        assert resized.shape == (size, size, 3)
        bins = layout.coordinates_to_bins(boxes[0])
        assert bins.tolist() == case["bins"]
        assert (bins + layout.bin_start).tolist() == case["target"][:4]
        # And back to pixels of the original image.
        pixels = layout.bins_to_coordinates(bins)
        decoded = scale_boxes(pixels, (size, size), (case["w"], case["h"]))
        np.testing.assert_allclose(decoded[0], case["decoded_box"], rtol=1e-5, atol=1e-4)


def test_grounding_of_pretraining_equals_the_official_bins(cases):
    layout = VocabLayout()
    assert len(cases["pretrain_visual_grounding"]) == 20
    for case in cases["pretrain_visual_grounding"]:
        picture = np.zeros((case["h"], case["w"], 3), np.uint8)
        rng = np.random.default_rng(0)
        window, boxes = random_resized_object_crop(
            picture, [case["box"]], [case["scale"]], 672, case["crop"], rng
        )
        assert window.shape == (case["crop"], case["crop"], 3)
        np.testing.assert_allclose(boxes[0] / 512, case["boxes_over_max"], atol=1e-6)
        assert layout.coordinates_to_bins(boxes[0]).tolist() == case["bins"]


def test_operations_on_one_box():
    box = [[10, 20, 30, 60]]
    np.testing.assert_array_equal(scale_boxes(box, (100, 100), (50, 200)), [[5, 40, 15, 120]])
    np.testing.assert_array_equal(shift_boxes(box, 15, 30), [[-5, -10, 15, 30]])
    np.testing.assert_array_equal(clip_boxes([[-5, -10, 15, 300]], 100, 40), [[0, 0, 15, 40]])
    np.testing.assert_array_equal(mirror_boxes(box, 100), [[70, 20, 90, 60]])
    inside = has_area([[0, 0, 1, 1], [1, 0, 1, 5], [0, 3, 9, 3], [2, 2, 1, 5]])
    assert inside.tolist() == [True, False, False, False]


def test_no_boxes_stay_no_boxes():
    for empty in ([], np.zeros((0, 4))):
        assert as_boxes(empty).shape == (0, 4)
        assert mirror_boxes(empty, 10).shape == (0, 4)
        assert clip_boxes(scale_boxes(shift_boxes(empty, 1, 1), (1, 1), (2, 2)), 5, 5).size == 0
        assert has_area(empty).shape == (0,)
    with pytest.raises(ValueError, match=r"\[n, 4\]"):
        as_boxes(np.zeros((2, 5)))


coordinate = st.floats(0, 100, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=4))
def test_mirroring_twice_changes_nothing(rows):
    boxes = as_boxes(rows)
    twice = mirror_boxes(mirror_boxes(boxes, 100), 100)
    np.testing.assert_allclose(twice, boxes, atol=1e-4)
