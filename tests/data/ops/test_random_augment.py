"""Changes of colour and shape."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from ofa_jax.data.ops import random_augment as ra


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth noise without extreme values."""
    small = np.random.default_rng(0).integers(40, 180, (9, 12, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC))


def test_colour_operations_equal_those_of_pillow(photo):
    picture = Image.fromarray(photo)
    np.testing.assert_array_equal(ra.equalise(photo), np.array(ImageOps.equalize(picture)))
    np.testing.assert_array_equal(ra.auto_contrast(photo), np.array(ImageOps.autocontrast(picture)))
    brighter = np.array(ImageEnhance.Brightness(picture).enhance(1.36))
    assert np.abs(ra.brighten(photo, 1.36).astype(int) - brighter).max() <= 1
    sharper = np.array(ImageEnhance.Sharpness(picture).enhance(1.36))
    difference = np.abs(ra.sharpen(photo, 1.36).astype(int) - sharper)
    assert difference[1:-1, 1:-1].max() <= 1
    np.testing.assert_array_equal(ra.sharpen(photo, 1.36)[0], photo[0])


def test_flat_images_stay_flat():
    flat = np.full((5, 5, 3), 77, np.uint8)
    for name in ("auto_contrast", "equalise", "sharpness", "identity"):
        np.testing.assert_array_equal(ra.OPERATIONS[name](flat, 0.7, 1.0), flat)
    tiny = flat[:2]
    np.testing.assert_array_equal(ra.sharpen(tiny, 1.36), tiny)


def test_bright_specks_do_not_wrap_around():
    image = np.full((5, 5, 3), 250, np.uint8)
    image[2, 2] = 255
    assert ra.sharpen(image, 3.0)[2, 2].tolist() == [255, 255, 255]


def test_translation_by_whole_pixels_is_exact(photo):
    right = ra.translate(photo, x=7)
    np.testing.assert_array_equal(right[:, 7:], photo[:, :-7])
    assert (right[:, :7] == 128).all()
    up = ra.translate(photo, y=-7)
    np.testing.assert_array_equal(up[:-7], photo[7:])
    assert (up[-7:] == 128).all()
    np.testing.assert_array_equal(ra.rotate(photo, 0.0), photo)


def test_translation_is_that_of_the_general_warp(photo):
    for x, y in ((7.000000000000001, 0), (-7, 0), (0, 7), (3, -5), (2.5, 0)):
        general = ra.warp(photo, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]))
        np.testing.assert_array_equal(ra.translate(photo, x=x, y=y), general)


def test_sharpening_by_the_formula(photo):
    wide = np.pad(photo.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = photo.shape[:2]
    total = sum(wide[y : y + height, x : x + width] for y in range(3) for x in range(3))
    smooth = np.floor((total + 4.0 * photo) / 13 + 0.5)
    for factor in (0.0, 1.0, 1.36, 3.0):
        sharp = np.clip(smooth + factor * (photo - smooth), 0, 255)
        found = ra.sharpen(photo, factor)[1:-1, 1:-1].astype(int)
        # Rounded down; a product that should be whole may fall just below it.
        assert ((sharp[1:-1, 1:-1] - found > -1e-4) & (sharp[1:-1, 1:-1] - found < 1.0001)).all()
        np.testing.assert_array_equal(ra.sharpen(photo, factor)[:, -1], photo[:, -1])


def test_shear_slides_rows():
    image = np.full((41, 41, 3), 128, np.uint8)
    image[:, 10] = 255
    sheared = ra.shear(image, x=0.5)
    # Row y moves right by y / 2 pixels.
    assert sheared[0, 10, 0] > 250
    assert sheared[20, 20, 0] > 250
    assert sheared[40, 30, 0] > 250


def test_rotation_is_counter_clockwise_about_the_middle():
    image = np.zeros((40, 40, 3), np.uint8)
    image[18:23, 33:38] = 255  # east of the middle
    rows, columns = np.nonzero(ra.rotate(image, 90.0)[:, :, 0] > 200)
    assert abs(columns.mean() - 20) < 1
    assert abs(rows.mean() - 5) < 1  # now north


def test_strengths_at_level_seven(photo):
    np.testing.assert_array_equal(
        ra.OPERATIONS["brightness"](photo, 0.7, -1.0), ra.brighten(photo, 1.36)
    )
    for sign in (-1.0, 1.0):
        pairs = {
            "shear_x": ra.shear(photo, x=sign * 0.21),
            "shear_y": ra.shear(photo, y=sign * 0.21),
            "translate_x": ra.translate(photo, x=sign * 7),
            "translate_y": ra.translate(photo, y=sign * 7),
            "rotate": ra.rotate(photo, sign * 21),
        }
        for name, expected in pairs.items():
            result = ra.OPERATIONS[name](photo, 0.7, sign).astype(int)
            assert np.abs(result - expected).max() <= 1, name


def test_operations_are_drawn_alike_and_applied_half_of_the_time(photo, monkeypatch):
    calls = []

    def spy(name):
        def operation(image, level, sign):
            calls.append((name, level, sign))
            return image

        return operation

    monkeypatch.setattr(ra, "OPERATIONS", {name: spy(name) for name in ra.OPERATIONS})
    rng = np.random.default_rng(0)
    for _ in range(2000):
        ra.random_augment(photo, rng)
    assert len(calls) == pytest.approx(2000, rel=0.06)
    assert {level for _, level, _ in calls} == {0.7}
    assert np.mean([sign for _, _, sign in calls]) == pytest.approx(0, abs=0.07)
    counts = [sum(name == other for other, _, _ in calls) for name in ra.OPERATIONS]
    assert len(counts) == 10
    assert min(counts) > 140
    assert max(counts) < 260


def test_same_seed_same_image(photo):
    results = [
        ra.random_augment(photo, np.random.default_rng(seed), probability=1.0) for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0].dtype == np.uint8
    assert not np.array_equal(results[0], results[2])
    with pytest.raises(ValueError, match="magnitude"):
        ra.random_augment(photo, np.random.default_rng(0), magnitude=11)
