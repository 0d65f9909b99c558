"""The reader of images: what the painter painted is read back whole; the blurred, in essence."""

import dataclasses

import numpy as np
import pytest

from ofa_jax.scenes import presets, truth
from ofa_jax.scenes.reader import read
from ofa_jax.scenes.renderer import render
from ofa_jax.scenes.source import ScenesSource
from ofa_jax.scenes.world import Scene, SceneObject


def _share_read(counts: dict[str, int]) -> float:
    """Share of scenes that are read back whole, so many of every split of a preset."""
    right = [
        read(render(scene)) == scene
        for name, count in counts.items()
        for split in presets.SPLITS
        for scene in map(ScenesSource(name, split).scene, range(count))
    ]
    return sum(right) / len(right)


def test_painted_scenes_are_read_back_whole():
    assert _share_read({"tiny": 12, "small": 3}) == 1.0


@pytest.mark.slow
def test_two_thousand_scenes_are_read_back_whole():
    assert _share_read(dict.fromkeys(presets.PRESETS, 134)) >= 0.99


@pytest.mark.parametrize("style", presets.STYLES)
def test_every_shape_and_color_is_told_apart_in_every_style(style):
    other = "hatched" if style == "solid" else "solid"
    world = dataclasses.replace(
        presets.PRESETS["small"], styles=(style,), unseen_styles=(other,), brightness_jitter=12
    )
    for place, color in enumerate(presets.COLORS):
        shape = presets.SHAPES[place % len(presets.SHAPES)]
        for side, size in ((12, "small"), (28, "large")):
            thing = SceneObject(color, shape, size, (8, 22, 8 + side, 22 + side), 5)
            scene = Scene(64, "gray", style, (thing,))
            assert read(render(scene), world) == scene


def test_an_empty_image_has_no_objects():
    blank = np.full((32, 32, 3), presets.BACKGROUNDS["black"], np.uint8)
    assert read(blank) == Scene(32, "black", "solid", ())


@pytest.mark.parametrize("place", [np.s_[5:19, 26:], np.s_[26:, 5:19], np.s_[25:, 0:12]])
def test_a_scrap_at_an_edge_is_read_as_something_inside(place):
    """Models write what no painter does: here a stripe at an edge, with which no box begins."""
    image = np.full((32, 32, 3), presets.BACKGROUNDS["black"], np.uint8)
    image[place] = presets.COLORS["red"]
    objects = read(image).objects
    assert len(objects) == 1
    for thing in objects:
        assert min(thing.box) >= 0
        assert max(thing.box) <= 32


def test_noise_is_read_as_something():
    rng = np.random.default_rng(0)
    for _ in range(3):
        blocks = rng.integers(0, 256, (8, 8, 3), np.uint8)
        read(np.kron(blocks, np.ones((4, 4, 1), np.uint8)))


def test_a_blurred_image_still_says_what_it_shows():
    source, rng = ScenesSource("tiny", "validation"), np.random.default_rng(0)
    right = 0
    for index in range(20):
        example = source[index]
        noisy = example["image"] + rng.normal(0, 6, example["image"].shape)
        found = read(noisy.clip(0, 255).astype(np.uint8))
        right += all(truth(found, caption) for caption in example["captions"])
    assert right >= 19


def test_objects_that_touch_are_told_apart_by_color():
    things = (
        SceneObject("red", "square", "", (4, 8, 16, 20)),
        SceneObject("blue", "square", "", (16, 8, 28, 20)),
    )
    scene = Scene(32, "white", "solid", things)
    assert read(render(scene)) == scene


def test_images_of_no_world_are_refused():
    with pytest.raises(ValueError, match=r"48x40 .*32x32 \(tiny\)"):
        read(np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(ValueError, match=r"'small' .*64x64 .*32x32"):
        read(np.zeros((32, 32, 3), np.uint8), "small")
    with pytest.raises(ValueError, match=r"got float32\[32, 32\]"):
        read(np.zeros((32, 32), np.float32))
