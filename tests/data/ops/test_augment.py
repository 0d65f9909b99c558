"""Random sizes, crops and flips, with their boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_jax.data.ops.augment import (
    crop,
    large_scale_jitter,
    random_mirror,
    random_resized_center_crop,
    random_resized_object_crop,
    random_size,
    resized_window,
    size_for_short_side,
)
from ofa_jax.data.ops.image import image_size, resize_image


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A black image with a white box."""
    image = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 255
    return image


def white_box(image: np.ndarray) -> list[int]:
    """Bounds of what is bright."""
    rows, columns = np.nonzero(image[:, :, 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((640, 480), 384, 672, (512, 384)),
        ((480, 640), 384, 672, (384, 512)),
        ((100, 333), 50, None, (50, 166)),  # rounded down
        ((1000, 200), 384, 672, (672, 384)),  # the long side is cut, not scaled
        ((384, 1000), 384, 672, (384, 672)),  # the short side is right already
        ((500, 500), 512, 512, (512, 512)),
        ((640, 480), 512, 512, (512, 512)),  # referring expressions: a stretched square
    ],
)
def test_rule_for_the_size(size, short, longest, expected):
    assert size_for_short_side(*size, short, longest) == expected


def test_random_sizes_draw_every_length():
    rng = np.random.default_rng(0)
    sizes = [random_size((60, 40), range(20, 25), 33, rng) for _ in range(60)]
    assert {min(size) for size in sizes} == set(range(20, 25))
    assert set(sizes) == {(30, 20), (31, 21), (33, 22), (33, 23), (33, 24)}


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(2, 90), st.integers(2, 90)),
    st.tuples(st.integers(30, 90), st.integers(30, 90)),
    st.tuples(st.integers(-20, 29), st.integers(-25, 29)),
)
def test_a_window_of_the_resized_image_has_the_same_pixels(old, new, corner):
    """Up to the last bit of Pillow's single precision."""
    image = np.random.default_rng(sum(old)).integers(0, 256, (*old, 3), dtype=np.uint8)
    window = resized_window(image, new, *corner, 32).astype(int)
    difference = np.abs(window - crop(resize_image(image, *new), *corner, 32, 32))
    assert difference.max() <= 2
    assert np.count_nonzero(difference) <= 0.01 * difference.size


def test_a_window_of_a_resized_photograph_differs_in_few_values():
    import skimage.data

    image = skimage.data.stereo_motorcycle()[0]
    counts = []
    for short in (384, 401, 433, 450, 479):
        new = size_for_short_side(*image_size(image), short, 672)
        window = resized_window(image, new, 71, 0, 384).astype(int)
        difference = np.abs(window - crop(resize_image(image, *new), 71, 0, 384, 384))
        assert difference.max() <= 2
        counts.append(np.count_nonzero(difference) / difference.size)
    assert np.mean(counts) < 2e-3
    assert max(counts) < 4e-3
    # Where nothing is resized, nothing changes.
    whole = resized_window(image, image_size(image), 5, 6, 384)
    np.testing.assert_array_equal(whole, crop(image, 5, 6, 384, 384))


def center_crop(image, size):
    """The middle, not resized: the short side has the length that is drawn."""
    short = min(image_size(image))
    return random_resized_center_crop(image, [short], None, size, np.random.default_rng(0))


def object_center_crop(image, boxes, size):
    short = min(image_size(image))
    rng = np.random.default_rng(0)
    return random_resized_object_crop(image, boxes, [short], None, size, rng)


def test_center_crop():
    image = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7)[:, :, None].repeat(3, axis=2)
    np.testing.assert_array_equal(center_crop(image, 3), image[1:4, 2:5])
    # Half pixels round to the even offset: (7 - 4) / 2 = 1.5 -> 2, (5 - 4) / 2 = 0.5 -> 0.
    np.testing.assert_array_equal(center_crop(image, 4), image[0:4, 2:6])
    padded = center_crop(image, 8)
    assert padded.shape == (8, 8, 3)
    np.testing.assert_array_equal(padded[1:6, 0:7], image)
    assert padded[0].max() == padded[6:].max() == padded[:, 7].max() == 0


def test_crop_around_an_object_resizes_pixels_and_boxes_alike():
    image = marked(60, 40, (6, 4, 30, 20))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sides = range(40, 60)
        window, boxes = random_resized_object_crop(image, [[6, 4, 30, 20]], sides, 99, 40, rng)
        assert window.shape == (40, 40, 3)
        np.testing.assert_allclose(boxes[0], white_box(window), atol=1.01)


def test_crop_outside_is_black():
    image = np.full((4, 4, 3), 9, np.uint8)
    assert crop(image, 10, 10, 3, 3).max() == 0
    window = crop(image, -2, 3, 4, 4)
    assert window[0, 2:].min() == 9
    assert window.sum() == 9 * 2 * 3


@settings(deadline=None, max_examples=100)
@given(st.integers(64, 120), st.integers(64, 120), st.data())
def test_object_center_crop_keeps_the_object_in_view(width, height, data):
    x0 = data.draw(st.integers(0, width - 10))
    y0 = data.draw(st.integers(0, height - 10))
    box = (x0, y0, x0 + data.draw(st.integers(1, 10)), y0 + data.draw(st.integers(1, 10)))
    window, boxes = object_center_crop(marked(width, height, box), [box], 64)
    assert window.shape == (64, 64, 3)
    # Pixels are shifted by whole numbers, boxes by the exact offset.
    np.testing.assert_allclose(boxes[0], white_box(window), atol=0.51)
    # Either centered, or the window touches an edge of the image.
    center = (boxes[0][:2] + boxes[0][2:]) / 2
    left_or_right = x0 < 32 or box[2] > width - 32
    assert abs(center[0] - 32) < 0.51 or left_or_right


def test_object_center_crop_needs_a_box():
    with pytest.raises(ValueError, match="needs a box"):
        object_center_crop(np.zeros((9, 9, 3), np.uint8), [], 4)


def test_mirrored_half_of_the_time():
    box = (5, 10, 20, 30)
    image = marked(60, 40, box)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(400):
        mirrored, boxes = random_mirror(image, [box], rng)
        flips += boxes[0][0] == 40
        assert white_box(mirrored) == boxes[0].tolist()
    assert 160 < flips < 240
    assert random_mirror(image, [box], rng, probability=0)[1].tolist() == [list(box)]
    assert random_mirror(image, [box], rng, probability=1)[1].tolist() == [[40, 10, 55, 30]]


def test_large_scale_jitter_moves_boxes_with_pixels():
    box = (40, 30, 80, 70)
    image = marked(150, 100, box)
    rng = np.random.default_rng(0)
    sides, lost = [], 0
    for _ in range(200):
        window, boxes, kept = large_scale_jitter(image, [box, (5, 5, 5, 9)], 64, rng)
        assert window.shape == (64, 64, 3)
        assert 1 not in kept  # no width, always dropped
        if not len(kept):
            lost += 1
            continue
        assert kept.tolist() == [0]
        assert boxes.min() >= 0
        assert boxes.max() <= 64
        if boxes[0][0] > 0 and boxes[0][2] < 64:
            sides.append((boxes[0][2] - boxes[0][0]) / 40 * 100 / 64)
        if (boxes[0][2:] - boxes[0][:2]).min() > 3:
            np.testing.assert_allclose(boxes[0], white_box(window), atol=1.01)
    assert lost < 100
    # Short side 1.0 to 1.5 times the window.
    assert 0.98 < min(sides) < 1.1
    assert 1.35 < max(sides) < 1.53


def test_the_same_seed_gives_the_same_window():
    image = np.random.default_rng(3).integers(0, 256, (80, 90, 3), dtype=np.uint8)
    first = large_scale_jitter(image, [], 64, np.random.default_rng(5))
    again = large_scale_jitter(image, [], 64, np.random.default_rng(5))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1].shape == (0, 4)
