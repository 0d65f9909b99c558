"""Images and written texts of the fine-tuning tasks."""

import sys
import types

import numpy as np
import pytest

from ofa_jax.data.ops import classification_augment
from ofa_jax.data.steps import finetuning as finetuning_steps
from ofa_jax.data.steps.image import IMAGE_SIZE, AugmentForClassification, FitText


def line(width, height):
    """Columns of different grey, so that a stretch can be seen."""
    return np.repeat(
        np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))[..., None], 3, axis=2
    )


def fitted(image, size=128, *, seed=0, **options):
    example = {"image": image, IMAGE_SIZE: size}
    return FitText(**options)(example, np.random.default_rng(seed))["image"]


@pytest.mark.parametrize(("width", "height"), [(200, 100), (100, 200), (100, 100), (900, 20)])
def test_text_keeps_its_proportions(width, height):
    found = fitted(line(width, height), random_place=False)
    assert found.shape == (128, 128, 3)
    assert found.dtype == np.uint8
    long, short = max(width, height), min(width, height)
    inside = max(64, int(128 * short / long))
    # The padding repeats the edge: outside of the text all rows (or columns) are equal.
    rows = found if width >= height else found.transpose(1, 0, 2)
    before = (128 - inside) // 2
    np.testing.assert_array_equal(rows[: before + 1], np.tile(rows[before], (before + 1, 1, 1)))


def test_places_are_drawn():
    picture = line(200, 100)
    picture[:50] = 0
    drawn = {fitted(picture, seed=seed).tobytes() for seed in range(6)}
    assert len(drawn) > 1
    fixed = {fitted(picture, seed=seed, random_place=False).tobytes() for seed in range(3)}
    assert len(fixed) == 1


def test_documents_are_stacked():
    """Four quarters of a long line lie below each other, 480 x 256 in 512 pixels."""
    quarters = np.zeros((64, 1920, 3), np.uint8)
    for number in range(4):
        quarters[:, number * 480 : (number + 1) * 480] = 60 * number
    found = fitted(quarters, 512, document=True, random_place=False)
    assert found.shape == (512, 512, 3)
    middle = found[:, 256, 0]
    for number in range(4):
        assert (middle[128 + number * 64 + 4 : 128 + (number + 1) * 64 - 4] == 60 * number).all()
    small = fitted(quarters, 64, document=True)
    assert small.shape == (64, 64, 3)


def test_strong_augmentation_is_a_function_of_its_generator():
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    step = AugmentForClassification()

    def augmented(seed):
        example = {"image": picture, IMAGE_SIZE: 48}
        return step(example, np.random.default_rng(seed))["image"]

    made = [augmented(seed) for seed in range(40)]
    assert all(image.shape == (48, 48, 3) and image.dtype == np.uint8 for image in made)
    np.testing.assert_array_equal(made[3], augmented(3))
    assert len({image.tobytes() for image in made}) == 40


@pytest.mark.parametrize("name", classification_augment.OPERATIONS)
def test_operations_keep_the_image_an_image(name):
    from PIL import Image

    picture = Image.fromarray(line(40, 30))
    for magnitude in (0.0, 9.0, 10.0):
        for sign in (-1.0, 1.0):
            found = classification_augment.OPERATIONS[name](picture, magnitude, sign)
            assert found.size == (40, 30)
            assert found.mode == "RGB"


def test_magnitudes_are_those_of_the_policy():
    from PIL import Image

    operations = classification_augment.OPERATIONS
    grey = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
    # 1 + 0.9 * 10 / 10 = 1.9 times as bright; 110 levels are added below 128.
    assert np.asarray(operations["brightness"](grey, 10.0, 1.0)).max() == 190
    assert np.asarray(operations["solarise_add"](grey, 10.0, 1.0)).max() == 210
    # 4 - int(0.9 * 4) = 1 bit is kept, which 100 does not have; of 4 bits it keeps 96.
    assert np.asarray(operations["posterise"](grey, 9.0, 1.0)).max() == 0
    assert np.asarray(operations["posterise"](grey, 0.0, 1.0)).max() == 96
    assert np.asarray(operations["solarise"](grey, 10.0, 1.0)).max() == 155
    assert np.asarray(operations["solarise"](grey, 0.0, 1.0)).max() == 100


def test_erasing_happens_a_quarter_of_the_time():
    picture = np.full((32, 32, 3), 7, np.uint8)
    rng = np.random.default_rng(0)
    erased = [classification_augment.random_erase(picture, rng) for _ in range(400)]
    changed = [float((image != 7).any(axis=2).mean()) for image in erased]
    share = np.mean([value > 0 for value in changed])
    assert 0.18 < share < 0.32
    assert 0.01 < np.mean([value for value in changed if value > 0]) < 0.34


def test_crops_have_the_allowed_area():
    picture = line(200, 100)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert classification_augment.random_resized_crop(picture, 16, rng).shape == (16, 16, 3)
    tall = np.zeros((4000, 2, 3), np.uint8)
    found = classification_augment.random_resized_crop(tall, 16, rng, scale=(0.9, 1.0))
    assert found.shape == (16, 16, 3)


def written(text, **options):
    step = finetuning_steps.WrittenText(**options)
    return step({"captions": [text]}, np.random.default_rng(0))["text"]


@pytest.fixture
def fresh_simplifier():
    finetuning_steps._simplifier.cache_clear()
    yield
    finetuning_steps._simplifier.cache_clear()


@pytest.mark.usefixtures("fresh_simplifier")
def test_written_texts_are_simplified_where_zhconv_is_there(monkeypatch, caplog):
    convert = lambda text, locale: text.replace("圖", "图") if locale == "zh-hans" else text  # noqa: E731
    monkeypatch.setitem(sys.modules, "zhconv", types.SimpleNamespace(convert=convert))
    assert written(" 地圖ＡＢ ") == "地图AB"
    assert written("地圖 Ａ B c", chinese=False, length=3) == "地圖 a b"
    finetuning_steps._simplifier.cache_clear()
    monkeypatch.setitem(sys.modules, "zhconv", None)
    assert written("地圖地圖", length=2) == "地圖"
    assert written("地圖") == "地圖"
    assert caplog.text.count("zhconv is not installed") == 1
